"""What somebody began in Studio and hasn't finished: conversations and collected examples, in the database.

They belong to an account and, in it, to a principal, or to all who hold the account's key.
"""

from collections.abc import Collection

import sqlalchemy as sa

from tunery.errors import InvalidRequest
from tunery.records import Record, new_id
from tunery.roles import Caller
from tunery.store import Store
from tunery.store.database import many
from tunery.store.tables import studio_drafts

TALK = "talk"
MOST = {TALK: 50}
"""Older ones go when a newer one comes."""
MOST_COLLECTED = 1000


class Draft(Record, frozen=True, kw_only=True):
    id: str
    content: str
    updated_at: int


class Drafts:
    """One caller's in one account."""

    def __init__(self, store: Store, account_id: int, caller: Caller) -> None:
        self._store = store
        self.owner = (account_id, caller.id or "key")

    def get(self, kind: str, draft_id: str) -> Draft | None:
        query = self._select(kind).where(studio_drafts.c.id == draft_id)
        with self._store.database.read() as connection:
            found = many(connection, Draft, query)
        return found[0] if found else None

    def all(self, kind: str) -> list[Draft]:
        """Newest first."""
        order = (studio_drafts.c.updated_at.desc(), studio_drafts.c.seq.desc())
        with self._store.database.read() as connection:
            return many(connection, Draft, self._select(kind).order_by(*order).limit(MOST_COLLECTED))

    def put(self, kind: str, content: str, draft_id: str | None = None) -> str:
        """Keep a new one, or what one has become; its id. Raises InvalidRequest if there are too many."""
        account_id, owner = self.owner
        draft_id, now = draft_id or new_id("draft-"), self._store.now()
        changed = {"content": content, "updated_at": now}
        with self._store.database.begin() as connection:
            mine = sa.and_(self._mine(kind), studio_drafts.c.id == draft_id)
            if connection.execute(sa.update(studio_drafts).where(mine).values(changed)).rowcount:
                return draft_id
            count = connection.execute(
                sa.select(sa.func.count()).select_from(studio_drafts).where(self._mine(kind))
            ).scalar_one()
            if kind not in MOST and count >= MOST_COLLECTED:
                raise InvalidRequest(f"{MOST_COLLECTED} examples are collected; upload them or remove some first.")
            row = {"id": draft_id, "account_id": account_id, "owner": owner, "kind": kind, **changed}
            connection.execute(sa.insert(studio_drafts).values(row))
            if kind in MOST:
                kept = sa.select(studio_drafts.c.seq).where(self._mine(kind))
                kept = kept.order_by(studio_drafts.c.updated_at.desc(), studio_drafts.c.seq.desc()).limit(MOST[kind])
                old = studio_drafts.c.seq.not_in(kept.scalar_subquery())
                connection.execute(sa.delete(studio_drafts).where(self._mine(kind), old))
        return draft_id

    def delete(self, kind: str, ids: Collection[str]) -> None:
        with self._store.database.begin() as connection:
            connection.execute(sa.delete(studio_drafts).where(self._mine(kind), studio_drafts.c.id.in_(ids)))

    def _select(self, kind: str) -> "sa.Select[tuple[str, str, int]]":
        columns = studio_drafts.c
        return sa.select(columns.id, columns.content, columns.updated_at).where(self._mine(kind))

    def _mine(self, kind: str) -> sa.ColumnElement[bool]:
        account_id, owner = self.owner
        columns = studio_drafts.c
        return sa.and_(columns.account_id == account_id, columns.owner == owner, columns.kind == kind)
