"""Small orders on the tiny base, and the files they name."""

import json
from pathlib import Path
from random import Random
from typing import Any

from tunery.bases import BaseModel
from tunery.messages import Dpo, Report, TrainingOrder
from tunery.training.loop import train

WORDS = ["quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "intent", "weather", "name", "which"]


def chat(question: str, answer: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "system", "content": "Be quick."},
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def write_lines(path: Path, lines: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def random_lines(count: int, seed: int) -> list[dict[str, Any]]:
    random = Random(seed)
    return [chat(" ".join(random.choices(WORDS, k=random.randint(1, 6))), random.choice(WORDS)) for _ in range(count)]


def order_in(folder: Path, tiny: Path, **changes: Any) -> TrainingOrder:
    """13 training examples, 5 for validation, 2 epochs of 4 steps; the run's folder is `folder`/run."""
    (folder / "run").mkdir(parents=True, exist_ok=True)
    base = BaseModel(
        name="tiny", directory=str(tiny), learning_rate=1e-3, lora_rank=4, lora_alpha=8.0, longest_example=200
    )
    fields = {
        "job_id": "ftjob-1",
        "base": base,
        "start_adapter": None,
        "training_file": write_lines(folder / "training.jsonl", random_lines(13, seed=1)),
        "validation_file": write_lines(folder / "validation.jsonl", random_lines(5, seed=2)),
        "n_epochs": 2,
        "batch_size": 4,
        "learning_rate": 5e-3,
        "seed": 7,
        "directory": str(folder / "run"),
        "resume_from": None,
        "save_every": 3,
        "threads": 1,
    }
    return TrainingOrder(**fields | changes)


def reports(order: TrainingOrder) -> list[Report]:
    return list(train(order, lambda: False))


def of(kind: type[Any], found: list[Report]) -> list[Any]:
    return [report for report in found if isinstance(report, kind)]


def preference(question: str, chosen: str, rejected: str) -> dict[str, Any]:
    return {
        "input": {"messages": chat(question, "")["messages"][:2]},
        "preferred_output": [{"role": "assistant", "content": chosen}],
        "non_preferred_output": [{"role": "assistant", "content": rejected}],
    }


def random_preferences(count: int, seed: int) -> list[dict[str, Any]]:
    random = Random(seed)

    def words(most: int) -> str:
        return " ".join(random.choices(WORDS, k=random.randint(1, most)))

    return [preference(words(6), words(3), words(3)) for _ in range(count)]


def dpo_order_in(folder: Path, tiny: Path, **changes: Any) -> TrainingOrder:
    """As `order_in`, with pairs of answers."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = {
        "training_file": write_lines(folder / "pairs.jsonl", random_preferences(13, seed=1)),
        "validation_file": write_lines(folder / "validation-pairs.jsonl", random_preferences(5, seed=2)),
        "learning_rate": 1e-3,
        "dpo": Dpo(beta=0.3),
    }
    return order_in(folder, tiny, **fields | changes)
