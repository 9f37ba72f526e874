"""When will a job be done? Learned from the jobs that this service has finished. Knows no HTTP and no torch."""

from statistics import median

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tunery import recipe
from tunery.records import TERMINAL, File, JobStatus
from tunery.store.database import files, jobs

FIRST_GUESS = 3000.0
"""Bytes of training data a second, before any job has finished: banking data on two cores (docs/log.md)."""
REMEMBERED = 5
"""Finished jobs whose speed counts."""
TYPICAL_EPOCHS = 3
START_SECONDS = 15
"""From claim to first step: loading the base and tokenising."""


def finish_time(connection: Connection, account_id: int, file: File, requested: recipe.Requested, now: int) -> int:
    """Unix seconds at which a job queued now should end: behind the jobs of its account that haven't."""
    ahead = connection.execute(
        sa.select(sa.func.max(jobs.c.estimated_finish)).where(
            jobs.c.account_id == account_id, jobs.c.status.not_in((*TERMINAL, JobStatus.PAUSED))
        )
    ).scalar()
    epochs = requested.n_epochs or (TYPICAL_EPOCHS if file.examples is None else recipe.automatic_epochs(file.examples))
    return max(now, ahead or 0) + START_SECONDS + round(file.bytes * epochs / bytes_per_second(connection))


def bytes_per_second(connection: Connection) -> float:
    """The median over the last finished jobs of training bytes read, epochs counted, per second."""
    query = (
        sa.select(files.c.bytes, jobs.c.resolved, jobs.c.started_at, jobs.c.finished_at)
        .join(files, files.c.id == jobs.c.training_file)
        .where(jobs.c.status == JobStatus.SUCCEEDED)
        .order_by(jobs.c.finished_at.desc())
        .limit(REMEMBERED)
    )
    speeds = [
        row.bytes * row.resolved["n_epochs"] / (row.finished_at - row.started_at)
        for row in connection.execute(query)
        if row.finished_at > row.started_at
    ]
    return median(speeds) if speeds else FIRST_GUESS
