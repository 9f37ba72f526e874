"""How much an account may hold. Each check runs in the transaction that adds the thing it has room for."""

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tunery.errors import QuotaExceeded
from tunery.records import HELD, TERMINAL, WAITING, JobStatus
from tunery.settings import Limits, Settings
from tunery.store.tables import accounts, deployments, files, jobs


class Usage(msgspec.Struct, frozen=True):
    """One limit and how much of it is taken."""

    name: str
    """The setting's."""
    used: int
    limit: int


def admit_file(connection: Connection, settings: Settings, account_id: int, size: int) -> None:
    """Raises QuotaExceeded unless one more file of this size fits."""
    limits = _locked(connection, settings, account_id)
    count, total = taken_by_files(connection, account_id)
    _refuse_full("files", count, limits.max_files, "max_files", "Delete one first")
    if total + size > limits.max_total_bytes:
        raise QuotaExceeded(
            f"The file's {size} bytes don't fit: {total} of the account's {limits.max_total_bytes} are taken. "
            "Delete a file first, or raise max_total_bytes in tunery.toml."
        )


def room_for_file(connection: Connection, settings: Settings, account_id: int, file_id: str) -> int:
    """Bytes that a file which is counted already may grow to."""
    limits = _locked(connection, settings, account_id)
    _, total = taken_by_files(connection, account_id)
    own: int = connection.execute(sa.select(files.c.bytes).where(files.c.id == file_id)).scalar_one()
    return max(0, limits.max_total_bytes - total + own)


def admit_job(connection: Connection, settings: Settings, account_id: int) -> int:
    """How many jobs are ahead of a new one. Raises QuotaExceeded."""
    limits = _locked(connection, settings, account_id)
    mine = jobs.c.account_id == account_id
    _refuse_full("jobs", _count(connection, mine), limits.max_jobs, "max_jobs", "Delete one that has ended")
    waiting = _count(connection, mine, jobs.c.status.in_(WAITING))
    _refuse_full(
        "waiting jobs", waiting, limits.max_queued_jobs, "max_queued_jobs", "Cancel one, wait for one to start"
    )
    return _count(connection, mine, jobs.c.status.not_in((*TERMINAL, JobStatus.PAUSED)))


def admit_deployment(connection: Connection, settings: Settings, account_id: int, *, tuned: bool) -> None:
    """Raises QuotaExceeded unless one more deployment fits, of a tuned model or of a base."""
    limits = _locked(connection, settings, account_id)
    mine = deployments.c.account_id == account_id
    advice = "Delete one first"
    _refuse_full("deployments", _count(connection, mine), limits.max_deployments, "max_deployments", advice)
    if tuned:
        of_tuned = _count(connection, mine, deployments.c.adapter.is_not(None))
        _refuse_full(
            "deployments of tuned models", of_tuned, limits.max_tuned_deployments, "max_tuned_deployments", advice
        )


def taken_by_files(connection: Connection, account_id: int) -> tuple[int, int]:
    """Files and bytes. Those that jobs leave don't count; by the job, because a purpose is what a client says."""
    results = sa.select(jobs.c.result_file).where(jobs.c.account_id == account_id, jobs.c.result_file.is_not(None))
    count, total = connection.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(files.c.bytes), 0)).where(
            files.c.account_id == account_id, files.c.id.not_in(results)
        )
    ).one()
    return count, total


def running_limits(connection: Connection, settings: Settings) -> dict[int, int]:
    """Jobs at once, by account id, where an account has its own number."""
    found = connection.execute(sa.select(accounts.c.id, accounts.c.name))
    limits = {account_id: settings.limits(name).max_running_jobs for account_id, name in found}
    return {account_id: limit for account_id, limit in limits.items() if limit != settings.max_running_jobs}


def usages(connection: Connection, settings: Settings, account_id: int) -> list[Usage]:
    """Every limit of an account and what is taken of it."""
    name = connection.execute(sa.select(accounts.c.name).where(accounts.c.id == account_id)).scalar_one()
    limits = settings.limits(name)
    my_jobs, my_deployments = jobs.c.account_id == account_id, deployments.c.account_id == account_id
    count, total = taken_by_files(connection, account_id)
    used = {
        "max_files": count,
        "max_total_bytes": total,
        "max_jobs": _count(connection, my_jobs),
        "max_running_jobs": _count(connection, my_jobs, jobs.c.status.in_(HELD)),
        "max_queued_jobs": _count(connection, my_jobs, jobs.c.status.in_(WAITING)),
        "max_deployments": _count(connection, my_deployments),
        "max_tuned_deployments": _count(connection, my_deployments, deployments.c.adapter.is_not(None)),
    }
    return [Usage(limit, used[limit], getattr(limits, limit)) for limit in Limits.__struct_fields__]


def _locked(connection: Connection, settings: Settings, account_id: int) -> Limits:
    """The account's limits; its row is held until the transaction ends, so two at once can't both take the last place.

    SQLite's writers wait for each other anyway and it knows no FOR UPDATE; SQLAlchemy leaves that out there.
    """
    query = sa.select(accounts.c.name).where(accounts.c.id == account_id).with_for_update()
    return settings.limits(connection.execute(query).scalar_one())


def _refuse_full(what: str, used: int, limit: int, setting: str, advice: str) -> None:
    if used >= limit:
        raise QuotaExceeded(
            f"This account may have {limit} {what} and has {used}. {advice}, or raise {setting} in tunery.toml."
        )


def _count(connection: Connection, *conditions: sa.ColumnElement[bool]) -> int:
    return connection.execute(sa.select(sa.func.count()).where(*conditions)).scalar_one()
