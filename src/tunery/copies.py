"""Checkpoints copied into other accounts, which can deploy them when the source is gone (contract.md 1.4)."""

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tunery.errors import InvalidRequest, NotFound
from tunery.records import Account, Checkpoint
from tunery.settings import Settings, folded_location
from tunery.store import Store
from tunery.store.database import many, one
from tunery.store.tables import accounts, checkpoints, copies


class Copies:
    """An adapter's bytes lie in the store once, by digest. A copy is a name of its own for them, and keeps them."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings

    def make(self, checkpoint: Checkpoint, destination: Account, *, region: str) -> None:
        """Copy a checkpoint; a second time changes nothing.

        Raises:
            InvalidRequest: it can't be copied there; NotFound: one of the two was deleted a moment ago.
        """
        self._check(checkpoint, destination, region)
        values = {
            "account_id": destination.id,
            "name": checkpoint.name,
            "source_account_id": checkpoint.account_id,
            "job_id": checkpoint.job_id,
            "adapter": checkpoint.adapter,
            "created_at": self._store.now(),
        }
        with self._store.database.begin() as connection:
            for table, wanted in ((checkpoints, checkpoint.id), (accounts, destination.id)):
                if connection.execute(sa.select(table.c.id).where(table.c.id == wanted)).scalar() is None:
                    raise NotFound(f"The checkpoint '{checkpoint.id}' or the destination was deleted.")
            if not _there(connection, checkpoint, destination):
                connection.execute(sa.insert(copies).values(values))

    def of(self, checkpoint: Checkpoint) -> list[Account]:
        """The accounts that have a copy, the first one first."""
        query = sa.select(accounts).join(copies).where(_copied(checkpoint)).order_by(copies.c.seq)
        with self._store.database.read() as connection:
            return many(connection, Account, query)

    def checkpoint(self, account_id: int, job_id: str, name: str) -> Checkpoint:
        """A checkpoint of a job, by its id or by the name that it is deployed on. Raises NotFound."""
        query = sa.select(checkpoints).where(
            checkpoints.c.account_id == account_id,
            checkpoints.c.job_id == job_id,
            sa.or_(checkpoints.c.id == name, checkpoints.c.name == name),
        )
        with self._store.database.read() as connection:
            found = one(connection, Checkpoint, query)
        if found is None:
            raise NotFound(f"The checkpoint '{name}' of the job '{job_id}' does not exist.")
        return found

    def _check(self, checkpoint: Checkpoint, destination: Account, region: str) -> None:
        if destination.id == checkpoint.account_id:
            raise InvalidRequest(
                f"The account '{destination.name}' has the checkpoint already: it trained it.",
                param="destinationResourceId",
            )
        if folded_location(region) != destination.location:
            raise InvalidRequest(
                f"The account '{destination.name}' is in the region '{destination.location}', not in '{region}'.",
                param="region",
            )
        if not self._settings.tunes_in(destination.location):
            raise InvalidRequest(
                f"The region '{destination.location}' doesn't allow tuning, so no checkpoint can be copied there.",
                param="region",
            )


def _copied(checkpoint: Checkpoint) -> sa.ColumnElement[bool]:
    return sa.and_(copies.c.source_account_id == checkpoint.account_id, copies.c.name == checkpoint.name)


def _there(connection: Connection, checkpoint: Checkpoint, destination: Account) -> bool:
    query = sa.select(copies.c.seq).where(_copied(checkpoint), copies.c.account_id == destination.id)
    return connection.execute(query).scalar() is not None
