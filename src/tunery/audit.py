"""The audit log: a row for every change, kept for good. Rows outlive the accounts that they tell of."""

from collections.abc import Iterator

import msgspec
import sqlalchemy as sa

from tunery.records import Account, Change
from tunery.roles import folded
from tunery.store import Store
from tunery.store.database import many
from tunery.store.tables import audit_log

LONGEST = 2048
"""Characters of a path that are kept."""


class Audit:
    """Rows in, pages out."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def write(self, change: Change) -> None:
        row = msgspec.structs.asdict(change)
        del row["seq"]
        row |= {"at": self._store.now(), "resource": change.resource[:LONGEST]}
        with self._store.database.begin() as connection:
            connection.execute(sa.insert(audit_log).values(row))

    def page(self, account: Account, *, before: int | None, limit: int) -> tuple[list[Change], bool]:
        """What happened to the account and to what it lies in, newest first; True if there is more."""
        query = sa.select(audit_log).where(audit_log.c.scope.in_(list(_scopes(account))))
        if before is not None:
            query = query.where(audit_log.c.seq < before)
        with self._store.database.read() as connection:
            found = many(connection, Change, query.order_by(audit_log.c.seq.desc()).limit(limit + 1))
        return found[:limit], len(found) > limit


def _scopes(account: Account) -> Iterator[str]:
    """The account's own scope and those above it."""
    whole = folded(account)
    yield ""
    for end in ("/resourcegroups/", "/providers/"):
        yield whole[: whole.index(end)]
    yield whole
