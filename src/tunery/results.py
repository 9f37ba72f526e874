"""results.csv of a job: a row per training step (contract.md 2.7), readable and growing while the job trains.

Knows no trainer. The rows of the database are the truth; the file is written from them.
"""

import csv
import io
import secrets
import time
from collections.abc import Iterable, Sequence

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tunery import queue
from tunery.files import RESULTS
from tunery.messages import Rewards, StepMetrics
from tunery.queue import Lease
from tunery.records import FileStatus, new_id
from tunery.store import Store
from tunery.store.tables import files, jobs, metrics

REFRESH_SECONDS = 5.0
RESULT_COLUMNS = (
    "step",
    "train_loss",
    "training_accuracy",
    "train_mean_token_accuracy",
    "valid_loss",
    "valid_accuracy",
    "validation_mean_token_accuracy",
    "valid_mean_token_accuracy",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
)
"""The guide's seven columns in its order, then the names that the service's own clients read (contract.md 2.7)."""
MEASURED = ("rewards", "valid_rewards", "full_valid_rewards")
REWARD_COLUMNS = tuple(f"{measured}/{name}" for measured in MEASURED for name in Rewards.__struct_fields__)
"""More of them in a preference job, under TRL's names."""


class ResultsFile:
    """The results file of a job that is held; every change of its row is fenced by the job's lease."""

    def __init__(self, store: Store, lease: Lease, *, rewards: bool) -> None:
        """`rewards`: whether it is a preference job's."""
        self._store = store
        self._lease = lease
        self._columns = RESULT_COLUMNS + (REWARD_COLUMNS if rewards else ())
        self._refreshed = 0.0

    def create(self, account_id: int) -> str:
        """An empty one, named in the job's row; its id."""
        file_id = new_id("file-")
        blob = self._write(file_id, [])
        with queue.holding(self._store, self._lease) as (connection, _status):
            connection.execute(
                sa.insert(files).values(
                    id=file_id,
                    account_id=account_id,
                    purpose=RESULTS,
                    filename="results.csv",
                    bytes=self._store.blobs.size(blob),
                    blob=blob,
                    created_at=self._store.now(),
                    status=FileStatus.PROCESSED,
                )
            )
            connection.execute(sa.update(jobs).where(jobs.c.id == self._lease.job_id).values(result_file=file_id))
        return file_id

    def refresh(self, file_id: str, *, force: bool = False) -> None:
        """Write the steps that the database knows; unless forced, at most every few seconds."""
        if not force and time.monotonic() - self._refreshed < REFRESH_SECONDS:
            return
        self._refreshed = time.monotonic()
        with self._store.database.read() as connection:
            rows = step_metrics(connection, self._lease.job_id)
            old = connection.execute(sa.select(files.c.blob).where(files.c.id == file_id)).scalar()
        blob = self._write(file_id, rows)
        with queue.holding(self._store, self._lease) as (connection, _status):
            size = self._store.blobs.size(blob)
            connection.execute(sa.update(files).where(files.c.id == file_id).values(blob=blob, bytes=size))
        if old is not None and old != blob:
            self._store.blobs.delete(old)

    def _write(self, file_id: str, rows: list[StepMetrics]) -> str:
        """A blob of its own for each state of the file: a worker that lost its lease can't overwrite a newer one."""
        last = rows[-1].step if rows else 0
        key = f"files/{file_id}/{self._lease.token}-{last}-{secrets.token_hex(4)}"
        with self._store.blobs.write(key) as stream:
            stream.write(results_csv(rows, self._columns))
        return key


def step_metrics(connection: Connection, job_id: str) -> list[StepMetrics]:
    query = sa.select(metrics.c["values"]).where(metrics.c.job_id == job_id).order_by(metrics.c.step)
    return [msgspec.convert(values, StepMetrics) for values in connection.execute(query).scalars()]


def results_csv(rows: Iterable[StepMetrics], columns: Sequence[str] = RESULT_COLUMNS) -> bytes:
    """The results file: a header and one row per training step; what wasn't measured at a step stays empty."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = measured(row)
        writer.writerow(repr(cells[name]) if name in cells else "" for name in columns)
    return text.getvalue().encode()


def measured(row: StepMetrics) -> dict[str, float]:
    """Column by column of results.csv; what wasn't measured at this step is missing."""
    cells = msgspec.structs.asdict(row) | _rewards(row)
    cells["validation_mean_token_accuracy"] = row.valid_mean_token_accuracy
    return {name: cells[name] for name in RESULT_COLUMNS + REWARD_COLUMNS if cells.get(name) is not None}


def metrics_on_the_wire(row: StepMetrics) -> dict[str, float]:
    """Of the seven keys of events and checkpoints (contract.md 1.4) and the rewards, those that were measured."""
    names = (
        "train_loss",
        "train_mean_token_accuracy",
        "valid_loss",
        "valid_mean_token_accuracy",
        "full_valid_loss",
        "full_valid_mean_token_accuracy",
    )
    return {name: value for name in names if (value := getattr(row, name)) is not None} | _rewards(row)


def _rewards(row: StepMetrics) -> dict[str, float]:
    found = {measured: getattr(row, measured) for measured in MEASURED}
    return {
        f"{measured}/{name}": value
        for measured, rewards in found.items()
        if rewards is not None
        for name, value in msgspec.structs.asdict(rewards).items()
    }
