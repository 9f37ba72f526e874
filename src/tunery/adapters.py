"""Adapters lie in the blobs by digest, once, whoever names them; the last name gone, the bytes may go."""

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tunery.store.tables import checkpoints, copies, deployments, models


def unnamed(connection: Connection, digests: Iterable[str]) -> set[str]:
    """Those of `digests` that no row of any account names any more."""
    asked = set(digests)
    named = {
        digest
        for table in (models, checkpoints, copies, deployments)
        for (digest,) in connection.execute(sa.select(table.c.adapter).where(table.c.adapter.in_(asked)))
    }
    return asked - named


def blob(digest: str) -> str:
    """Key of the folder that holds an adapter's files."""
    return f"adapters/{digest}"
