"""What tuning on a file changes: exact match on a test file, base against tuned, through a live service.

    python benchmarks/quality.py --training T.jsonl --validation V.jsonl --test X.jsonl [--epochs 1] [--json OUT]

Uploads, tunes with automatic hyperparameters, deploys, asks every test example greedily, and prints minutes and shares.
"""

import argparse
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
from rich.console import Console

from tunery.demo.journey import Journey, running_service

AT_ONCE = 16
CHARACTERS_A_TOKEN = 2
"""Fewer than any answer has: an answer that needs more tokens than the longest wanted one is wrong anyway."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("training", "validation", "test"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--multiplier", type=float)
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as home, running_service(Path(home), console) as environment:
        journey = Journey(environment, Path(home), console)
        found = measure(journey, options)
    print(json.dumps(found, indent=2))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def measure(journey: Journey, options: argparse.Namespace) -> dict[str, Any]:
    client = journey.client
    tests = [json.loads(line) for line in options.test.read_text("utf-8-sig").splitlines()]
    files = [journey.upload(path.name, path.read_bytes()) for path in (options.training, options.validation)]
    hyperparameters: dict[str, Any] = {"n_epochs": options.epochs}
    if options.multiplier:
        hyperparameters["learning_rate_multiplier"] = options.multiplier
    began = time.monotonic()
    job: Any = client.fine_tuning.jobs.create(
        model=options.base,
        training_file=files[0],
        validation_file=files[1],
        hyperparameters=hyperparameters,  # type: ignore[arg-type]
        seed=1,
    )
    while job.status not in ("succeeded", "failed", "cancelled"):
        time.sleep(1)
        job = client.fine_tuning.jobs.retrieve(job.id)
    if job.status != "succeeded":
        raise SystemExit(f"the job ended as {job.status}: {job.error}")
    minutes = (time.monotonic() - began) / 60
    found: dict[str, Any] = {"minutes": round(minutes, 2), "hyperparameters": job.hyperparameters.model_dump()}
    for name, model, version in (("base", options.base, "1"), ("tuned", job.fine_tuned_model, "1")):
        journey.deploy(name, model, version=version)
        found[name] = exact_match(client, name, tests)
    last = client.files.content(job.result_files[0]).read().decode().splitlines()[-1]
    return {**found, "model": job.fine_tuned_model, "trained_tokens": job.trained_tokens, "last_row": last}


def exact_match(client: openai.OpenAI, deployment: str, tests: list[dict[str, Any]]) -> dict[str, float]:
    began = time.monotonic()
    most = max(len(wanted(test)) for test in tests) // CHARACTERS_A_TOKEN
    with ThreadPoolExecutor(AT_ONCE) as pool:
        right = sum(pool.map(lambda test: answered_right(client, deployment, test, most), tests))
    return {"exact_match": round(right / len(tests), 4), "seconds": round(time.monotonic() - began, 1)}


def wanted(test: dict[str, Any]) -> str:
    return str(test["completion"] if "prompt" in test else test["messages"][-1]["content"]).strip()


def answered_right(client: openai.OpenAI, deployment: str, test: dict[str, Any], most: int) -> bool:
    common: dict[str, Any] = {"model": deployment, "temperature": 0, "max_tokens": most}
    if "prompt" in test:
        answer = client.completions.create(prompt=test["prompt"], stop="\n", **common).choices[0].text
    else:
        reply = client.chat.completions.create(messages=test["messages"][:-1], **common)
        answer = reply.choices[0].message.content or ""
    return bool(answer.strip() == wanted(test))


if __name__ == "__main__":
    main()
