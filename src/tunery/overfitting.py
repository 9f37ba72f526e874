"""Which checkpoint was best, and whether training went past it: what the evaluations of a job say. Knows no trainer."""

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tunery.records import Checkpoint
from tunery.store.tables import checkpoints

RISES = 2
"""Evaluations in a row, each worse than the one before: one alone is within the noise of a small validation file."""


class Evaluated(NamedTuple):
    """A checkpoint that was measured on the whole validation file."""

    step: int
    name: str
    """What it is deployed as."""
    loss: float


def evaluations(connection: Connection, job_id: str) -> list[Evaluated]:
    """By step. Checkpoints of a pause in the middle of an epoch have no evaluation."""
    query = (
        sa.select(checkpoints.c.step, checkpoints.c.name, checkpoints.c.metrics)
        .where(checkpoints.c.job_id == job_id)
        .order_by(checkpoints.c.step)
    )
    rows = connection.execute(query)
    return [Evaluated(r.step, r.name, r.metrics["full_valid_loss"]) for r in rows if "full_valid_loss" in r.metrics]


def of_checkpoints(checkpoints: Iterable[Checkpoint]) -> list[Evaluated]:
    """The same of checkpoints that were read already, in any order."""
    by_step = sorted(checkpoints, key=lambda each: each.step)
    return [
        Evaluated(each.step, each.name, each.metrics["full_valid_loss"])
        for each in by_step
        if "full_valid_loss" in each.metrics
    ]


def best(found: list[Evaluated]) -> Evaluated:
    """With the lowest loss; of equal ones the first, which learned less by heart."""
    return min(found, key=lambda each: each.loss)


def rising(found: list[Evaluated]) -> list[float]:
    """The last losses, if each is worse than the one before; else none."""
    last = [each.loss for each in found[-RISES - 1 :]]
    if len(last) <= RISES or any(later <= earlier for earlier, later in pairwise(last)):
        return []
    return last


def warning(found: list[Evaluated]) -> str | None:
    """Advice, if the loss rose in each of the last evaluations."""
    last = rising(found)
    if not last:
        return None
    rise = " to ".join(f"{loss:.4f}" for loss in last)
    return (
        f"The loss on the validation file has risen {RISES} times in a row ({rise}): the model is learning the "
        f"training examples by heart. {_named(best(found))} Fewer epochs, more data or a lower "
        "learning_rate_multiplier help."
    )


def summary(found: list[Evaluated]) -> str | None:
    """Said at a job's end, if its last checkpoint isn't the best."""
    if not found or best(found) == found[-1]:
        return None
    return f"{_named(best(found))} The last one's loss was {found[-1].loss:.4f}."


def _named(checkpoint: Evaluated) -> str:
    return (
        f"The best checkpoint is {checkpoint.name} of step {checkpoint.step}, with a validation loss of "
        f"{checkpoint.loss:.4f}; it can be deployed by that name."
    )
