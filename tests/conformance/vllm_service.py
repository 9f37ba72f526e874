"""`python -m tests.conformance.vllm_service`: the whole service over HTTP with vLLM as its engine; one line a check.

Beside vllm.py, which asks the socket. The base and a tuned model are deployed, asked with the openai SDK, whole and
streamed, with tools and to a schema; vLLM's process is killed (-9) under load. Same environment, same options.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai

from tests.conformance.checks import Checks
from tests.conformance.vllm import SCHEMA, environment
from tests.journeys.conftest import Service
from tests.serving.conftest import BUNDLED as FOLDER
from tests.serving.given import write_adapter
from tunery import adapters, settings, wiring
from tunery.catalog import BUNDLED
from tunery.deploying import Wanted
from tunery.models import probe
from tunery.models.loader import load
from tunery.models.lora import Lora
from tunery.models.tokenizer import Tokenizer
from tunery.records import DeploymentState
from tunery.store.tables import models

TUNED = f"{BUNDLED}.ft-0001"
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "What is the weather in Paris?"}], "temperature": 0}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]},
    },
}
FORM = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}}
START_SECONDS = 300


def prepare(home: Path, options: argparse.Namespace) -> None:
    """Settings, a tuned model as if a job had made it, and two deployments that are wanted."""
    home.mkdir()
    memory = "kv_cache_memory_bytes = 536870912\n" if options.device == "cpu" else ""
    (home / "tunery.toml").write_text(
        f'engine = "vllm"\nvllm_python = "{options.python or environment()}"\nserving_threads = {options.threads}\n'
        f'device = "{options.device}"\n[vllm_options]\n{memory}'
    )
    rooms = wiring.services(settings.load(home=home))
    account = rooms.accounts.first()
    decoder = load(str(FOLDER))
    made = write_adapter(home / "made", decoder.config, seed=1, rank=8, strength=0.02)
    question = Tokenizer.load(FOLDER).encode("What can you do for me?")
    probe.measure(decoder, Lora.load(made.directory, decoder.config), question).write(Path(made.directory))
    path = Path(rooms.store.blobs.path(adapters.blob(made.digest)))
    path.parent.mkdir(parents=True)
    (home / "made").rename(path)
    row = {"name": TUNED, "account_id": account.id, "base": BUNDLED, "parent": BUNDLED}
    row |= {"job_id": "ftjob-1", "adapter": made.digest, "created_at": int(time.time())}
    with rooms.store.database.begin() as connection:
        connection.execute(models.insert().values(row))
    for name, model in (("base", BUNDLED), ("tuned", TUNED)):
        rooms.deployer.put(account, name, Wanted(model=model), by="conformance")
    rooms.close()


@contextmanager
def running(home: Path) -> Iterator[Service]:
    service = Service(home)
    service.start()
    try:
        yield service
    finally:
        service.close()
        service.stop()


def deployments_answer(home: Path) -> str:
    rooms = wiring.services(settings.load(home=home))
    account, end = rooms.accounts.first(), time.monotonic() + START_SECONDS
    while any(one.state == DeploymentState.CREATING for one in rooms.deployments.all(account.id)):
        assert time.monotonic() < end, "still Creating"
        time.sleep(0.5)
    states = {one.name: one.error or str(one.state) for one in rooms.deployments.all(account.id)}
    rooms.close()
    assert states == {"base": "Succeeded", "tuned": "Succeeded"}, states
    return str(states)


def streamed(client: openai.AzureOpenAI, **asked: Any) -> tuple[str, str, str | None]:
    """Text, arguments of the first call, and how it ended."""
    text = arguments = ""
    finish = None
    for chunk in client.chat.completions.create(stream=True, **asked):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            for call in choice.delta.tool_calls or []:
                arguments += (call.function and call.function.arguments) or ""
            finish = choice.finish_reason or finish
    return text, arguments, finish


def whole(client: openai.AzureOpenAI, **asked: Any) -> tuple[str, str, str | None]:
    (choice,) = client.chat.completions.create(**asked).choices
    calls = choice.message.tool_calls or []
    return choice.message.content or "", calls[0].function.arguments if calls else "", choice.finish_reason


def outcome(client: openai.AzureOpenAI, number: int) -> str:
    """Of a long stream: whole, an error that says why, or a stream that ended without an end."""
    asked = {**ASKED, "model": ("base", "tuned")[number % 2], "max_tokens": 300, "logit_bias": {"0": -100, "2": -100}}
    try:
        _, _, finish = streamed(client, **asked)
    except openai.APIError as error:
        return f"error: {error.message[:60]}"
    return "whole" if finish else "ended without an end"


def ask_all(checks: Checks, service: Service) -> None:
    client = service.azure()

    @checks("the base and a tuned model turn Succeeded: vLLM answers the tuned one's probe as it was trained")
    def deployed() -> str:
        return deployments_answer(service.home)

    @checks("chats of both, whole and streamed, say the same; the two differ")
    def chats() -> None:
        said = []
        for model in ("base", "tuned"):
            said.append(whole(client, model=model, max_tokens=16, **ASKED))
            assert streamed(client, model=model, max_tokens=16, **ASKED) == said[-1]
        assert said[0] != said[1]

    @checks("a required call is made, its arguments follow the schema, whole and streamed")
    def calls() -> None:
        asked = {**ASKED, "model": "tuned", "max_tokens": 60, "tools": [TOOL], "tool_choice": "required"}
        asked["parallel_tool_calls"] = False
        said = whole(client, **asked)
        assert json.loads(said[1])["city"] in ("Paris", "Rome"), said
        assert said[2] == "tool_calls", said
        assert streamed(client, **asked) == said

    @checks("an answer follows a JSON schema")
    def form() -> None:
        text, _, _ = whole(client, model="base", max_tokens=60, response_format=FORM, **ASKED)
        assert json.loads(text).keys() == {"city", "large"}

    @checks("sixteen streams of both models at once are whole")
    def crowd() -> None:
        with ThreadPoolExecutor(16) as pool:
            said = Counter(pool.map(lambda number: outcome(client, number), range(16)))
        assert said == {"whole": 16}, said

    @checks("vLLM's process is killed under eight streams: each gets an error that says so, the next request works")
    def killed() -> None:
        (pid,) = service.children("tunery.serving.vllm")
        impatient = client.with_options(max_retries=0)
        threading.Timer(3, os.kill, (pid, signal.SIGKILL)).start()
        with ThreadPoolExecutor(8) as pool:
            said = Counter(pool.map(lambda number: outcome(impatient, number), range(8)))
        assert all(one.startswith("error: ") and "The model's engine has stopped" in one for one in said), said
        assert whole(client, model="tuned", max_tokens=4, **ASKED)[2] == "length"
        (after,) = service.children("tunery.serving.vllm")
        assert after != pid


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", help="instead of .peers/vllm")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    checks = Checks()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / "home"
        prepare(home, options)
        with running(home) as service:
            ask_all(checks, service)
            log = (home / "engines" / "engine-0.log").read_text()
    if len(checks.values) < 6:
        print(log[-4000:], file=sys.stderr)
    return 0 if len(checks.values) == 6 else 1


if __name__ == "__main__":
    sys.exit(main())
