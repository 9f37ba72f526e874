"""Imports as rows: created by the API, claimed and settled by a worker under a lease and a rising fencing token.

The link lies in the database only until the fetch ends: it may carry a signature.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tunery import idempotency
from tunery.errors import InvalidRequest, QuotaExceeded
from tunery.files import TRAINING, Files
from tunery.imports import links
from tunery.imports.addresses import Gate
from tunery.imports.answer import Content
from tunery.records import File, FileStatus
from tunery.settings import Settings
from tunery.store import Store
from tunery.store.database import one
from tunery.store.tables import files, imports


class ImportLost(Exception):
    """The file was deleted, or the import belongs to another worker now. Stop fetching; write nothing."""


class Expiry(msgspec.Struct, frozen=True):
    seconds: int
    anchor: str = "created_at"


class NewImport(msgspec.Struct, frozen=True, kw_only=True):
    """A create request, field by field as on the wire; types are checked, meaning isn't yet."""

    purpose: str
    filename: str
    content_url: str
    expires_after: Expiry | None = None


class Claim(NamedTuple):
    """A worker's hold on an import, and what earlier claims left."""

    file: File
    url: str
    content: Content
    spent: float
    token: int
    lease_seconds: float
    limit: int
    """Bytes that the file may have."""


class Imports:
    """Imports of all accounts."""

    def __init__(self, store: Store, settings: Settings, kept: Files, gate: Gate | None = None) -> None:
        """Raises InvalidRequest for a setting `import_allow` that can't be read."""
        self.store = store
        self.settings = settings
        self.gate = gate or Gate(settings.import_allow)
        self._files = kept

    @property
    def folder(self) -> Path:
        """Where unfinished fetches lie."""
        return self.settings.home / "imports"

    def create(self, account_id: int, wanted: NewImport, *, idempotency_key: str | None = None) -> File:
        """A pending file that a worker will fetch.

        Raises:
            InvalidRequest: with the parameter that is wrong; QuotaExceeded: too many files; Conflict: the idempotency
            key was used for a different request.
        """
        said = idempotency.digest(wanted)
        earlier = idempotency.earlier(self.store, imports, account_id, idempotency_key, said)
        if earlier is None:
            links.checked(wanted.content_url)
            try:
                return self._insert(account_id, wanted, idempotency_key, said)
            except sa.exc.IntegrityError:
                # Two equal requests at once: the unique key let one through, both get its file.
                earlier = idempotency.earlier(self.store, imports, account_id, idempotency_key, said)
                if earlier is None:
                    raise
        return self._files.get(account_id, earlier["file_id"])

    def _insert(self, account_id: int, wanted: NewImport, key: str | None, said: str) -> File:
        expiry = wanted.expires_after
        if expiry is not None and expiry.anchor != "created_at":
            raise InvalidRequest("expires_after.anchor may be 'created_at' only.", param="expires_after")
        with self.store.database.begin() as connection:
            file = self._files.announce(
                connection,
                account_id=account_id,
                filename=wanted.filename,
                purpose=wanted.purpose,
                expires_after=None if expiry is None else expiry.seconds,
            )
            row = {"file_id": file.id, "account_id": account_id, "url": wanted.content_url}
            connection.execute(sa.insert(imports).values(**row, idempotency_key=key, idempotency_hash=said))
        return file

    def claim(self) -> Claim | None:
        """The oldest import that may be fetched: waiting, or held by a worker whose lease ran out."""
        now, seconds = self.store.clock(), self.settings.lease_seconds
        queued, others = imports.alias("queued"), imports.alias("others")
        running = (
            sa.select(sa.func.count())
            .where(others.c.account_id == queued.c.account_id, others.c.url.is_not(None), others.c.lease_until >= now)
            .scalar_subquery()
        )
        free = sa.or_(queued.c.lease_until.is_(None), queued.c.lease_until < now)
        first = (
            sa.select(queued.c.seq)
            .where(queued.c.url.is_not(None), free, running < self.settings.max_running_imports)
            .order_by(queued.c.seq)
            .limit(1)
            .with_for_update(skip_locked=True, of=queued)
        )
        query = (
            sa.update(imports)
            .where(imports.c.seq == first.scalar_subquery())
            .values(lease_token=imports.c.lease_token + 1, lease_until=now + seconds)
            .returning(imports)
        )
        with self.store.database.begin() as connection:
            row = connection.execute(query).mappings().first()
            if row is None:
                return None
            file = one(connection, File, sa.select(files).where(files.c.id == row["file_id"]))
            assert file is not None, "an import goes with its file"
            return Claim(
                file=file,
                url=row["url"],
                content=Content(etag=row["etag"], md5=row["md5"], size=row["size"]),
                spent=row["spent"],
                token=row["lease_token"],
                lease_seconds=seconds,
                limit=self._files.room(connection, file),
            )

    def beat(self, claim: Claim, *, size: int, content: Content, spent: float) -> None:
        """Renew the lease and write down what is safely on disk. Raises ImportLost."""
        with self._holding(claim, spent=spent, **msgspec.structs.asdict(content)) as connection:
            _update_file(connection, claim, bytes=size)

    def give_back(self, claim: Claim) -> None:
        """A worker that shuts down lets the next one take over at once instead of after the lease."""
        with self._holding(claim, lease_until=0.0):
            pass

    def finish(self, claim: Claim, *, blob: str, size: int, sha256: str) -> None:
        """The content is there; a training file waits for its check now. Raises ImportLost, QuotaExceeded."""
        status = FileStatus.PENDING if claim.file.purpose == TRAINING else FileStatus.PROCESSED
        with self._holding(claim, url=None, lease_until=None) as connection:
            if size > self._files.room(connection, claim.file):
                raise QuotaExceeded(
                    f"The file's {size} bytes don't fit beside the account's other files. "
                    "Delete some and import it again."
                )
            _update_file(connection, claim, blob=blob, bytes=size, sha256=sha256, status=status)

    def fail(self, claim: Claim, reason: str) -> None:
        """The file ends as error, and says why. Raises ImportLost."""
        with self._holding(claim, url=None, lease_until=None) as connection:
            _update_file(connection, claim, bytes=0, status=FileStatus.ERROR, status_details=reason)

    def sweep(self) -> None:
        """Remove what was fetched of files that were deleted while no worker held them."""
        with self.store.database.read() as connection:
            wanted = set(connection.execute(sa.select(imports.c.file_id).where(imports.c.url.is_not(None))).scalars())
        for path in self.folder.glob("*"):
            if path.stem not in wanted:
                path.unlink(missing_ok=True)

    @contextmanager
    def _holding(self, claim: Claim, **values: Any) -> Iterator[Connection]:
        """A transaction in which the import is surely ours; renews the lease unless told otherwise."""
        now = self.store.clock()
        ours = sa.and_(
            imports.c.file_id == claim.file.id,
            imports.c.lease_token == claim.token,
            imports.c.url.is_not(None),
            # A lease that ran out is lost even if nobody took the import yet, as with jobs.
            imports.c.lease_until >= now,
        )
        query = sa.update(imports).where(ours).values({"lease_until": now + claim.lease_seconds, **values})
        with self.store.database.begin() as connection:
            if connection.execute(query).rowcount != 1:
                raise ImportLost(claim.file.id)
            yield connection


def _update_file(connection: Connection, claim: Claim, **values: Any) -> None:
    connection.execute(sa.update(files).where(files.c.id == claim.file.id).values(values))
