"""The jobs table as a queue: claim, beat, write while holding, finish, give back. One statement decides each.

A worker holds a job by a lease that it renews and a fencing token that rises with each claim. Every write of a worker
first touches the job's row with its token in the same transaction, so a worker that lost its lease, was cancelled or
woke up from a long sleep can't write anything any more.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tunery.records import HELD, WAITING, FileStatus, Job, JobStatus
from tunery.store import Store
from tunery.store.database import record
from tunery.store.tables import files, jobs


class LeaseLost(Exception):
    """The job was cancelled or deleted, or belongs to another worker now. Stop working on it; write nothing."""


class Lease(NamedTuple):
    job_id: str
    token: int
    seconds: float


def claim(
    store: Store,
    *,
    owner: str,
    lease_seconds: float,
    max_running: int,
    exceptions: Mapping[int, int] | None = None,
) -> tuple[Job, Lease] | None:
    """The oldest job that may run: waiting, or held by a worker whose lease ran out. FIFO within each account,
    except that a job whose file is still being imported lets others pass.

    `exceptions`: by account id, where another number of jobs than `max_running` may run at once.
    """
    now = store.clock()
    queued, others = jobs.alias("queued"), jobs.alias("others")
    running = (
        sa.select(sa.func.count())
        .where(others.c.account_id == queued.c.account_id, others.c.status.in_(HELD), others.c.lease_until >= now)
        .scalar_subquery()
    )
    allowed = sa.case(exceptions, value=queued.c.account_id, else_=max_running) if exceptions else max_running
    # A job whose file is still being fetched would hold its slot as long as the slowest server likes.
    fetched = ~sa.exists().where(
        files.c.id.in_((queued.c.training_file, queued.c.validation_file)),
        files.c.status == FileStatus.PENDING,
        files.c.blob == "",
    )
    orphaned = sa.and_(queued.c.status.in_(HELD), queued.c.lease_until < now)
    first = (
        sa.select(queued.c.seq)
        .where(sa.or_(queued.c.status.in_(WAITING), orphaned), running < allowed, fetched)
        .order_by(queued.c.seq)
        .limit(1)
        .with_for_update(skip_locked=True, of=queued)
    )
    query = (
        sa.update(jobs)
        .where(jobs.c.seq == first.scalar_subquery())
        .values(
            # An orphan that was asked to pause stays so: its next worker pauses it.
            status=sa.case((jobs.c.status == JobStatus.PAUSING, JobStatus.PAUSING), else_=JobStatus.RUNNING),
            lease_token=jobs.c.lease_token + 1,
            lease_owner=owner,
            lease_until=now + lease_seconds,
            started_at=sa.func.coalesce(jobs.c.started_at, int(now)),
        )
        .returning(jobs)
    )
    with store.database.begin() as connection:
        row = connection.execute(query).mappings().first()
    if row is None:
        return None
    job = record(Job, row)
    return job, Lease(job.id, job.lease_token, lease_seconds)


def beat(store: Store, lease: Lease) -> JobStatus:
    """Renew the lease; says whether a pause was asked for. Raises LeaseLost."""
    with holding(store, lease) as (_connection, status):
        return status


@contextmanager
def holding(store: Store, lease: Lease) -> Iterator[tuple[Connection, JobStatus]]:
    """A transaction in which the job is surely ours; renews the lease. Raises LeaseLost before anything is written."""
    now = store.clock()
    ours = sa.and_(jobs.c.id == lease.job_id, jobs.c.lease_token == lease.token, jobs.c.status.in_(HELD))
    query = (
        sa.update(jobs)
        # A lease that ran out is lost even if nobody took the job yet: its slot may be another job's by now.
        .where(ours, jobs.c.lease_until >= now)
        .values(lease_until=now + lease.seconds)
        .returning(jobs.c.status)
    )
    with store.database.begin() as connection:
        status = connection.execute(query).scalar()
        if status is None:
            raise LeaseLost(lease.job_id)
        yield connection, JobStatus(status)


def settle(connection: Connection, lease: Lease, status: JobStatus, **values: Any) -> None:
    """Within `holding`: the job leaves this worker for good, or until it is resumed."""
    connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == lease.job_id)
        .values(status=status, lease_owner=None, lease_until=None, **values)
    )


def give_back(store: Store, lease: Lease) -> None:
    """A worker that shuts down lets the next one take over at once instead of after the lease."""
    try:
        with holding(store, lease) as (connection, _status):
            connection.execute(sa.update(jobs).where(jobs.c.id == lease.job_id).values(lease_until=0.0))
    except LeaseLost:
        return
