"""What belongs to an account, and goes with it. Works within the caller's transaction; bytes go after its end."""

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tunery import adapters
from tunery.errors import Conflict
from tunery.records import TERMINAL, Account
from tunery.store.tables import (
    accounts,
    assignments,
    checkpoints,
    copies,
    deployments,
    events,
    files,
    jobs,
    metrics,
    models,
    parts,
    schema,
    uploads,
)


def refuse_if_used(connection: Connection, account: Account) -> None:
    """Raises Conflict while the account serves or trains something, or is the last one."""
    mine = {
        "the deployment '{}'": sa.select(deployments.c.name).where(deployments.c.account_id == account.id),
        "the unfinished job {}": sa.select(jobs.c.id).where(
            jobs.c.account_id == account.id, jobs.c.status.not_in(TERMINAL)
        ),
    }
    for words, query in mine.items():
        found = connection.execute(query).scalar()
        if found is not None:
            raise Conflict(
                f"The account '{account.name}' can't be deleted while it has {words.format(found)}. Deleting is for "
                "good here: nothing can be recovered. Delete or cancel that first.",
                code="CannotDeleteResource",
            )
    if connection.execute(sa.select(sa.func.count()).select_from(accounts)).scalar_one() == 1:
        raise Conflict(
            f"The account '{account.name}' is the only one of this service, which can't be without.",
            code="CannotDeleteResource",
        )


def erase(connection: Connection, account: Account) -> list[str]:
    """Delete every row of the account; the keys of the blobs that nothing names any more."""
    blobs = _blobs(connection, account.id)
    digests = {
        digest
        for table in (models, checkpoints, copies)
        for (digest,) in connection.execute(sa.select(table.c.adapter).where(table.c.account_id == account.id))
    }
    job_ids = sa.select(jobs.c.id).where(jobs.c.account_id == account.id)
    for table in (events, metrics):
        connection.execute(sa.delete(table).where(table.c.job_id.in_(job_ids)))
    upload_ids = sa.select(uploads.c.id).where(uploads.c.account_id == account.id)
    connection.execute(sa.delete(parts).where(parts.c.upload_id.in_(upload_ids)))
    for table in reversed(schema.sorted_tables):
        if "account_id" in table.c:
            connection.execute(sa.delete(table).where(table.c.account_id == account.id))
    forget_scope(connection, account.arm_id)
    connection.execute(sa.delete(accounts).where(accounts.c.id == account.id))
    return blobs + [adapters.blob(digest) for digest in adapters.unnamed(connection, digests)]


def forget_scope(connection: Connection, scope: str) -> None:
    """Roles that were held exactly there: whoever gets the name next must not inherit them."""
    connection.execute(sa.delete(assignments).where(assignments.c.scope == scope.lower()))


def _blobs(connection: Connection, account_id: int) -> list[str]:
    kept = connection.execute(
        sa.select(files.c.blob, files.c.findings_blob).where(files.c.account_id == account_id)
    ).all()
    pieces = connection.execute(sa.select(parts.c.blob).join(uploads).where(uploads.c.account_id == account_id)).all()
    return [key for row in (*kept, *pieces) for key in row if key]
