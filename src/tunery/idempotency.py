"""One create, however often it is sent: a row remembers its Idempotency-Key and what the request said."""

import hashlib

import msgspec
import sqlalchemy as sa

from tunery.errors import Conflict
from tunery.store import Store


def digest(wanted: msgspec.Struct) -> str:
    return hashlib.sha256(msgspec.json.encode(wanted, order="sorted")).hexdigest()


def earlier(store: Store, table: sa.Table, account_id: int, key: str | None, said: str) -> sa.RowMapping | None:
    """The row that this key made before, if any. Raises Conflict where that request said something else."""
    if key is None:
        return None
    query = sa.select(table).where(table.c.account_id == account_id, table.c.idempotency_key == key)
    with store.database.read() as connection:
        row = connection.execute(query).mappings().first()
    if row is not None and row["idempotency_hash"] != said:
        raise Conflict("This Idempotency-Key was used for a different request. Use a new one.")
    return row
