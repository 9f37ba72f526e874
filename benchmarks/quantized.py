"""int8 weights beside float32 ones of the same base: speed, memory, and how far answers move.

    python benchmarks/quantized.py [--clients 1,8,32] [--tokens 48] [--repeat 5] [--json OUT]
                                   [--training T.jsonl --validation V.jsonl --test X.jsonl [--epochs 1]]

Each kind of weights has an engine process of its own, as in the service, and the two take turns at every round: so many
requests at once, one token each to begin with, greedy, the end of text ignored; a round's prompts are new to both.
Answers: 48 greedy tokens of 50 questions from both engines, and the distributions of next tokens at every place of
those prompts by the two decoders in this process. With files, a model is tuned through a live service and its one
deployment answers the test file with either weights.

The bundled base was written down in 4 and 8 bits and keeps them in both engines, so that int8 changes nothing of it
(serving/narrowing.py). What is measured has the same matrices with a thousandth of their spread added at random, which
no fewer bits hold; the tuned model has the bundled ones.
"""

import argparse
import asyncio
import itertools
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

import quality
from truth import OPENINGS, TOPICS
from tunery import host
from tunery.bases import BaseModel
from tunery.demo.journey import Journey, running_service
from tunery.messages import Generate, Piece
from tunery.models import loader
from tunery.models.decoder import attend_causally
from tunery.models.tokenizer import Tokenizer
from tunery.serving import commands
from tunery.serving.compiled import linear_for
from tunery.serving.pool import EnginePool
from tunery.weights import Weights

BASE = "base"
KINDS = (Weights(BASE), Weights(BASE, "int8"))
QUESTIONS = [f"{opening} {topic}" for opening, topic in itertools.product(OPENINGS, TOPICS)]


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    tokenizer = Tokenizer.load(options.folder)
    with tempfile.TemporaryDirectory() as folder:
        options.folder = _in_full_precision(Path(options.folder), Path(folder) / "base")
        found = asyncio.run(_engines(options, tokenizer, Path(folder)))
        found["distributions"] = _distributions(options, tokenizer)
    if options.test:
        found["tuned"] = _tuned(options)
    print(json.dumps(found, indent=2))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def _in_full_precision(base: Path, folder: Path) -> str:
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    weights = load_file(base / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name, weight in weights.items():
        if weight.dim() == 2:
            weights[name] = weight + 1e-3 * weight.std() * torch.randn(weight.shape, generator=generator)
    save_file(weights, folder / "model.safetensors")
    return str(folder)


def _options() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=numbers, default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", default=str(Path("~/.cache/tunery/models/smollm2-135m-instruct").expanduser()))
    for name in ("training", "validation", "test"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if any((options.training, options.validation, options.test)) and not all(
        (options.training, options.validation, options.test)
    ):
        parser.error("--training, --validation and --test go together")
    return options


async def _engines(options: argparse.Namespace, tokenizer: Tokenizer, folder: Path) -> dict[str, Any]:
    base = BaseModel(name=BASE, directory=options.folder, learning_rate=1e-3)
    command = commands.embedded(threads=options.threads, device="cpu")
    pool = EnginePool({BASE: base}.get, folder, command, silence_seconds=600)
    try:
        found: dict[str, Any] = {"load_seconds": {}, "memory_mib": {}}
        for weights in KINDS:
            began = time.perf_counter()
            await pool.mount(weights, None)
            found["load_seconds"][str(weights)] = round(time.perf_counter() - began, 2)
        found["tokens_per_second"] = {
            clients: await _speed(pool, options, tokenizer, clients) for clients in options.clients
        }
        found["answers"] = await _answers(pool, options.tokens)
        for weights in KINDS:
            found["memory_mib"][str(weights)] = round(host.resident_bytes(pool.pid(weights) or 0) / 2**20)
        return found
    finally:
        await pool.close()


async def _speed(pool: EnginePool, options: argparse.Namespace, tokenizer: Tokenizer, clients: int) -> dict[str, Any]:
    """Tokens a second of all clients together, the time of prompts included, over all rounds but the first."""
    unending = dict.fromkeys(tokenizer.eos_ids, -100.0)
    rounds: dict[str, list[float]] = {str(weights): [] for weights in KINDS}
    for number in range(options.repeat + 1):
        order = KINDS if number % 2 else KINDS[::-1]
        tokens = options.tokens if number else 1
        for weights in order:
            asked = [
                Generate(
                    id=str(client),
                    owner="benchmark",
                    prompts=[f"{clients}.{number}.{client}: {QUESTIONS[client % len(QUESTIONS)]}"],
                    temperature=0.0,
                    max_tokens=tokens,
                    logit_bias=unending,
                )
                for client in range(clients)
            ]
            began = time.perf_counter()
            await asyncio.gather(*(_tokens(pool, weights, one) for one in asked))
            if number:
                rounds[str(weights)].append(clients * tokens / (time.perf_counter() - began))
    told: dict[str, Any] = {
        name: {"median": round(statistics.median(each), 1), "least": round(min(each), 1), "most": round(max(each), 1)}
        for name, each in rounds.items()
    }
    exact, rounded = (statistics.median(rounds[str(weights)]) for weights in KINDS)
    return {**told, "ratio": round(rounded / exact, 2)}


async def _answers(pool: EnginePool, tokens: int) -> dict[str, Any]:
    asked = [
        Generate(
            id=str(number),
            owner="benchmark",
            messages=[{"role": "user", "content": question}],
            temperature=0.0,
            max_tokens=tokens,
            logprobs=0,
        )
        for number, question in enumerate(QUESTIONS)
    ]
    exact, rounded = [await asyncio.gather(*(_tokens(pool, weights, one) for one in asked)) for weights in KINDS]
    pairs = list(zip(exact, rounded, strict=True))
    return {
        "questions": len(pairs),
        "identical": round(sum(one == other for one, other in pairs) / len(pairs), 3),
        "same_first_token": round(sum(one[:1] == other[:1] for one, other in pairs) / len(pairs), 3),
        "median_tokens_until_they_part": statistics.median(_common(*pair) for pair in pairs),
    }


async def _tokens(pool: EnginePool, weights: Weights, asked: Generate) -> list[bytes]:
    """Its tokens; none unless log probabilities are asked for."""
    return [
        token.token_bytes
        async for answer in pool.generate(weights, asked)
        if isinstance(answer, Piece)
        for token in answer.logprobs
    ]


def _common(one: list[bytes], other: list[bytes]) -> int:
    """Tokens at the beginning of both."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


@torch.inference_mode()
def _distributions(options: argparse.Namespace, tokenizer: Tokenizer) -> dict[str, Any]:
    """KL(float32 || int8) of next tokens in nats, over all places of the prompts."""
    decoders = [loader.load(options.folder, linear=linear_for("cpu", weights.quantization)) for weights in KINDS]
    divergences, same = [], []
    for question in QUESTIONS:
        ids = torch.tensor(tokenizer.chat_prompt([{"role": "user", "content": question}], None))
        exact, rounded = (
            torch.log_softmax(decoder.logits(decoder.hidden(ids, torch.arange(len(ids)), attend_causally)), -1)
            for decoder in decoders
        )
        divergences.append((exact.exp() * (exact - rounded)).sum(-1))
        same.append((exact.argmax(-1) == rounded.argmax(-1)).float())
    every = torch.cat(divergences)
    return {
        "places": len(every),
        "mean_kl": round(float(every.mean()), 5),
        "p99_kl": round(float(every.quantile(0.99)), 5),
        "same_token": round(float(torch.cat(same).mean()), 4),
    }


def _tuned(options: argparse.Namespace) -> dict[str, Any]:
    """Exact match of one tuned model, by either weights, and what its deployment says of the change."""
    console = Console(stderr=True)
    asked = argparse.Namespace(**{**vars(options), "base": "smollm2-135m-instruct", "multiplier": None})
    with tempfile.TemporaryDirectory() as home, running_service(Path(home), console) as environment:
        journey = Journey(environment, Path(home), console)
        found = quality.measure(journey, asked)
        shown = journey.deploy("tuned", found.pop("model"), version="1", quantization="int8")
        tests = [json.loads(line) for line in options.test.read_text("utf-8-sig").splitlines()]
        rounded = quality.exact_match(journey.client, "tuned", tests)
    return {**found, "tuned (int8)": rounded, "quantizationChange": shown.get("quantizationChange")}


if __name__ == "__main__":
    main()
