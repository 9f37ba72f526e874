"""How fast this service trains, learned from the jobs that it finished. Knows no HTTP and no torch."""

from statistics import median
from typing import NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tunery import recipe
from tunery.records import TERMINAL, File, JobStatus
from tunery.store.database import many
from tunery.store.tables import jobs, runs

FIRST_BYTES = 3000.0
"""Bytes of training data a second, before any job has finished: banking data on two cores (docs/log.md)."""
EFFICIENCY = 0.9
"""Of the speed of one large matrix product: a training step's operations a second, before any job has finished
(docs/log.md: 164 GFLOP in about 1.4 s where a product runs at 127 GFLOP/s)."""
REMEMBERED = 5
"""Finished jobs whose speed counts."""
TYPICAL_EPOCHS = 3
START_SECONDS = 15
"""From claim to first step: loading the base and tokenising."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One finished job: what was planned, and the seconds that its steps took."""

    flops: float
    bytes: int
    """Of the training file, epochs counted."""
    seconds: float


class Rate(NamedTuple):
    """Operations a second, and by which factors jobs were quicker and slower than it says."""

    flops: float
    low: float | None
    """Both None until two jobs have finished: one can't differ from itself."""
    high: float | None
    jobs: int

    def seconds(self, flops: float) -> float:
        return flops / self.flops


def remember(connection: Connection, base: str, device: str, measured: Measured) -> None:
    """`base` is the base model's own name: its aliases are equally fast."""
    connection.execute(sa.insert(runs).values(base=base, device=device, **msgspec.structs.asdict(measured)))


def learned(connection: Connection, base: str, device: str) -> Rate | None:
    """From the last finished jobs on this base and device; None before there is one."""
    rates = [each.flops / each.seconds for each in _last(connection, base, device)]
    if not rates:
        return None
    # How far each job was from what the others say: the error that a forecast of it would have had.
    errors = [median([*rates[:i], *rates[i + 1 :]]) / rate for i, rate in enumerate(rates) if len(rates) > 1]
    return Rate(
        flops=median(rates),
        low=min(1.0, *errors) if errors else None,
        high=max(1.0, *errors) if errors else None,
        jobs=len(rates),
    )


def finish_time(
    connection: Connection,
    account_id: int,
    file: File,
    requested: recipe.Requested,
    *,
    base: str,
    device: str,
    now: int,
) -> int:
    """Unix seconds at which a job queued now should end: behind the jobs of its account that haven't.

    From the file's bytes: nothing more is known until a trainer has read it and made a plan.
    """
    ahead = connection.execute(
        sa.select(sa.func.max(jobs.c.estimated_finish)).where(
            jobs.c.account_id == account_id, jobs.c.status.not_in((*TERMINAL, JobStatus.PAUSED))
        )
    ).scalar()
    epochs = requested.n_epochs or (TYPICAL_EPOCHS if file.examples is None else recipe.automatic_epochs(file.examples))
    speeds = [each.bytes / each.seconds for each in _last(connection, base, device)]
    speed = median(speeds) if speeds else FIRST_BYTES
    return max(now, ahead or 0) + START_SECONDS + round(file.bytes * epochs / speed)


def _last(connection: Connection, base: str, device: str) -> list[Measured]:
    query = (
        sa.select(runs.c.flops, runs.c.bytes, runs.c.seconds)
        .where(runs.c.base == base, runs.c.device == device)
        .order_by(runs.c.seq.desc())
        .limit(REMEMBERED)
    )
    return many(connection, Measured, query)
