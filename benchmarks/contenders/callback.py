"""Turns for trainers that are built on transformers' Trainer."""

from typing import Any

from steps import Turn
from transformers import TrainerCallback


class InTurns(TrainerCallback):  # type: ignore[misc]
    """Each logged step is a turn; with logging_steps=1 the log comes after each of the optimiser's steps."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._turn.ready()

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        if "loss" in logs:
            self._turn.done(float(logs["loss"]))
