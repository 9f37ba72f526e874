"""What drafts bring: the engine alone, with so many rows for them, in turns.

    python benchmarks/drafts.py [--rows 1,4,8] [--tokens 64] [--repeat 3]

One row means none. Texts of three kinds, one request at a time and four at once: letters that take up their prompt's
words, chat answers as the model finds them likeliest, and the same drawn at temperature 0.7. Prints tokens a second,
tokens a step, and the ratio to none of the same turn; says so if a text differs.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from tunery.bases import BaseModel
from tunery.messages import Answer, Generate, Piece
from tunery.models.tokenizer import Tokenizer
from tunery.serving.engine import Engine, Limits

LETTERS = [
    f"Order {number}: the front light was promised for last week and still hasn't come. Write a long letter that "
    "explains what happened, what is done about it and when it ends:"
    for number in range(4)
]
QUESTIONS = [
    "Write a Python function that reverses a list and a test for it.",
    "Explain photosynthesis to a child.",
    "List the planets with one fact for each.",
    "Give me a JSON object with name, age and city of three people.",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=lambda text: [int(part) for part in text.split(",")], default=[1, 4, 8])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--base", default=str(Path("~/.cache/tunery/models/smollm2-135m-instruct").expanduser()))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base = BaseModel(name="base", directory=options.base, learning_rate=1e-3)
    engines = {rows: Engine.load(base, limits=Limits(draft_rows=rows)) for rows in options.rows}
    for engine in engines.values():
        engine.use_this_thread()
    unending = dict.fromkeys(Tokenizer.load(options.base).eos_ids, -100.0)
    common = {"owner": "benchmark", "max_tokens": options.tokens, "logit_bias": unending}
    chats: list[dict[str, Any]] = [{"messages": [{"role": "user", "content": question}]} for question in QUESTIONS]
    kinds: dict[str, list[dict[str, Any]]] = {
        "letters": [{"prompts": [letter], "temperature": 0.0} for letter in LETTERS],
        "chats": [{**chat, "temperature": 0.0} for chat in chats],
        "chats, drawn": [{**chat, "temperature": 0.7, "seed": 1} for chat in chats],
    }
    for kind, asked in kinds.items():
        for at_once in (1, len(asked)):
            requests = [Generate(id=str(number), **common, **one) for number, one in enumerate(asked)]
            show(f"{kind}, {at_once} at once", compare(engines, requests, at_once, options))


def compare(
    engines: dict[int, Engine], requests: list[Generate], at_once: int, options: argparse.Namespace
) -> dict[int, dict[str, float]]:
    turns: list[dict[int, tuple[float, int, list[str]]]] = []
    for _ in range(options.repeat + 1):
        turns.append({rows: answer(engine, requests, at_once) for rows, engine in engines.items()})
    tokens, found = len(requests) * options.tokens, {}
    for rows in engines:
        seconds = [turn[rows][0] for turn in turns[1:]]
        plain = [turn[min(engines)][0] for turn in turns[1:]]
        found[rows] = {
            "tokens_a_second": tokens / statistics.median(seconds),
            "tokens_a_step": tokens / turns[1][rows][1],
            "times_as_fast": statistics.median(one / other for one, other in zip(plain, seconds, strict=True)),
        }
        if turns[1][rows][2] != turns[1][min(engines)][2]:
            print(f"with {rows} rows the text differs")
    return found


def answer(engine: Engine, requests: list[Generate], at_once: int) -> tuple[float, int, list[str]]:
    """Seconds, steps and texts."""
    texts, steps, began = [""] * len(requests), 0, time.perf_counter()

    def take(answer: Answer) -> None:
        if isinstance(answer, Piece):
            texts[int(answer.id)] += answer.text

    for start in range(0, len(requests), at_once):
        for request in requests[start : start + at_once]:
            engine.submit(request, take)
        while engine.busy:
            engine.step()
            steps += 1
    return time.perf_counter() - began, steps, texts


def show(title: str, found: dict[int, dict[str, float]]) -> None:
    for rows, row in found.items():
        print(
            f"{title:24} {rows} rows: {row['tokens_a_second']:6.1f} tokens/s, {row['tokens_a_step']:.2f} a step, "
            f"{row['times_as_fast']:.2f} times as fast"
        )


if __name__ == "__main__":
    main()
