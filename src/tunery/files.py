"""Take a file, keep it, have it checked, give it back. Knows no HTTP; the rules of a line live in examples.py."""

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from typing_extensions import Buffer

from tunery import examples, quotas
from tunery.errors import Conflict, InvalidRequest, NotFound, TooLarge, WrongState
from tunery.records import TERMINAL, File, FileStatus, new_id
from tunery.settings import Settings
from tunery.store import Store
from tunery.store.database import many, one, record
from tunery.store.tables import files, jobs

TRAINING, RESULTS = "fine-tune", "fine-tune-results"
PURPOSES = (TRAINING, RESULTS, "assistants", "assistants_output", "batch", "batch_output", "evals", "evals_output")
EXPIRY_SECONDS = range(3600, 2_592_000 + 1)
LONGEST_NAME = 255
LONGEST_UPLOAD = 86_400
"""Seconds after which an upload that is still coming in is taken for dead."""


class Claim(NamedTuple):
    """A checker's hold on a file."""

    file: File
    token: int
    lease_seconds: float


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a check writes into the file's row."""

    status: FileStatus
    status_details: str | None = None
    format: str | None = None
    examples: int | None = None
    findings: int = 0
    findings_blob: str | None = None


class Incoming:
    """The bytes of an upload on their way to the blob store, counted as they come."""

    def __init__(self, file_id: str, stream: BinaryIO, limit: int) -> None:
        self.file_id = file_id
        self.size = 0
        self._stream = stream
        self._limit = limit

    def write(self, chunk: bytes) -> None:
        """Raises TooLarge as soon as the limit is passed."""
        self.size += len(chunk)
        if self.size > self._limit:
            raise TooLarge(
                f"The file is larger than {self._limit // 1024**2} MB. Send it in parts through the uploads API "
                "or split it.",
                param="file",
            )
        self._stream.write(chunk)


class Files:
    """Files of all accounts; every call names the account it acts for."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings

    @contextmanager
    def receive(self, *, limit: int | None = None) -> Iterator[Incoming]:
        """A place for an upload's bytes; durable when the block ends, gone if it raises. `keep` makes it a file."""
        file_id = new_id("file-")
        with self._store.blobs.write(f"files/{file_id}") as stream:
            yield Incoming(file_id, stream, self._settings.max_file_bytes if limit is None else limit)

    def keep(
        self, incoming: Incoming, *, account_id: int, filename: str, purpose: str, expires_after: int | None = None
    ) -> File:
        """The row of a received upload. A training file waits for its check; others are at once processed.

        Raises:
            InvalidRequest: name, purpose or expiry can't be; QuotaExceeded: too many files or bytes. The bytes are
            dropped then.
        """
        blob = f"files/{incoming.file_id}"
        try:
            name = plain_name(filename)
            row = self._row(incoming.file_id, account_id, name, purpose, expires_after=expires_after)
            row |= {"bytes": incoming.size, "blob": blob}
            row["status"] = FileStatus.PENDING if purpose == TRAINING else FileStatus.PROCESSED
            with self._store.database.begin() as connection:
                quotas.admit_file(connection, self._settings, account_id, incoming.size)
                connection.execute(sa.insert(files).values(row))
                # Read here: a moment later its check may have begun, or somebody deleted it.
                return _get(connection, account_id, incoming.file_id)
        except BaseException:
            self._store.blobs.delete(blob)
            raise

    def announce(
        self, connection: Connection, *, account_id: int, filename: str, purpose: str, expires_after: int | None = None
    ) -> File:
        """The row of a file whose content is still to be fetched. Raises as `keep` does."""
        file_id = new_id("file-")
        name = plain_name(filename, param="filename")
        row = self._row(file_id, account_id, name, purpose, expires_after=expires_after)
        row |= {"bytes": 0, "blob": "", "status": FileStatus.PENDING}
        quotas.admit_file(connection, self._settings, account_id, 0)
        connection.execute(sa.insert(files).values(row))
        return _get(connection, account_id, file_id)

    def room(self, connection: Connection, file: File) -> int:
        """Bytes that a file which is being fetched may have in the end."""
        left = quotas.room_for_file(connection, self._settings, file.account_id, file.id)
        return min(self._settings.max_upload_bytes, left)

    def get(self, account_id: int, file_id: str) -> File:
        with self._store.database.read() as connection:
            return _get(connection, account_id, file_id)

    def page(
        self,
        account_id: int,
        *,
        purpose: str | None = None,
        after: str | None = None,
        limit: int = 10_000,
        ascending: bool = False,
        search: str = "",
        skip: int = 0,
    ) -> tuple[list[File], bool]:
        """A page in order of creation, newest first unless ascending, and whether more follow."""
        query = sa.select(files).where(_sought(account_id, purpose, search)).offset(skip)
        with self._store.database.read() as connection:
            if after is not None:
                cursor = connection.execute(sa.select(files.c.seq).where(_mine(account_id, after))).scalar()
                if cursor is None:
                    raise InvalidRequest(f"No file '{after}' to list after.", param="after")
                query = query.where(files.c.seq > cursor if ascending else files.c.seq < cursor)
            query = query.order_by(files.c.seq if ascending else files.c.seq.desc()).limit(limit + 1)
            page = many(connection, File, query)
        return page[:limit], len(page) > limit

    def count(self, account_id: int, *, purpose: str | None = None, search: str = "") -> int:
        query = sa.select(sa.func.count()).select_from(files).where(_sought(account_id, purpose, search))
        with self._store.database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def content(self, file: File) -> Path:
        """Raises WrongState for an import whose content isn't there: not yet, or never."""
        if not file.blob:
            why = file.status_details or "It is still being fetched."
            raise WrongState(f"The file '{file.id}' has no content. {why}")
        return self._store.blobs.path(file.blob)

    def findings(self, file: File, *, after: int, limit: int) -> tuple[list[examples.Finding], bool]:
        """A page of the check's findings in file order; `after` is how many to skip."""
        if file.findings_blob is None:
            return [], False
        decode = msgspec.json.Decoder(examples.Finding).decode
        with self._store.blobs.path(file.findings_blob).open("rb") as lines:
            page = [decode(line) for number, line in enumerate(lines) if after <= number < after + limit]
        return page, after + len(page) < file.findings

    def delete(self, account_id: int, file_id: str) -> None:
        """Raises NotFound, or Conflict while an unfinished job needs the file."""
        with self._store.database.begin() as connection:
            file = _get(connection, account_id, file_id)
            job = connection.execute(
                sa.select(jobs.c.id).where(
                    jobs.c.account_id == account_id,
                    jobs.c.status.not_in(TERMINAL),
                    sa.or_(*(column == file_id for column in _file_columns())),
                )
            ).scalar()
            if job is not None:
                raise Conflict(f"The job {job} still needs the file '{file_id}'. Cancel the job or wait for its end.")
            connection.execute(sa.delete(files).where(files.c.id == file_id))
        for blob in (file.blob, file.findings_blob, f"corrected/{file.id}"):
            if blob:
                self._store.blobs.delete(blob)

    def claim_check(self, *, lease_seconds: float) -> Claim | None:
        """The next training file that waits for its check, or whose checker's lease ran out."""
        now = self._store.clock()
        queued = files.alias("queued")
        orphaned = sa.and_(queued.c.status == FileStatus.RUNNING, queued.c.lease_until < now)
        arrived = sa.and_(queued.c.status == FileStatus.PENDING, queued.c.blob != "")
        waiting = sa.or_(arrived, orphaned)
        first = sa.select(queued.c.seq).where(waiting).order_by(queued.c.seq).limit(1).with_for_update(skip_locked=True)
        query = (
            sa.update(files)
            .where(files.c.seq == first.scalar_subquery())
            .values(status=FileStatus.RUNNING, lease_token=files.c.lease_token + 1, lease_until=now + lease_seconds)
            .returning(files)
        )
        with self._store.database.begin() as connection:
            row = connection.execute(query).mappings().first()
        if row is None:
            return None
        return Claim(file=record(File, row), token=row["lease_token"], lease_seconds=lease_seconds)

    def check(self, claim: Claim) -> Outcome:
        """Read the whole file and write down all that is wrong with it."""
        file = claim.file
        key = f"findings/{file.id}"
        encode = msgspec.json.Encoder().encode
        count = 0
        with self._store.blobs.write(key) as stream, self.content(file).open("rb") as content:

            def keep(finding: examples.Finding) -> None:
                nonlocal count
                count += 1
                stream.write(encode(finding) + b"\n")

            source = _Beating(content, lambda: self._beat(claim), every=claim.lease_seconds / 3)
            summary = examples.check(io.BufferedReader(source, 1 << 20), on_finding=keep)
        faulty = summary.errors > 0
        return Outcome(
            status=FileStatus.ERROR if faulty else FileStatus.PROCESSED,
            status_details=examples.describe(summary) if faulty else None,
            format=summary.format,
            examples=summary.examples,
            findings=count,
            findings_blob=key,
        )

    def settle_check(self, claim: Claim, outcome: Outcome) -> bool:
        """Write the outcome down; False if the claim was lost meanwhile or the file is gone."""
        values = {**msgspec.structs.asdict(outcome), "lease_until": None}
        query = sa.update(files).where(*_held(claim)).values(values)
        with self._store.database.begin() as connection:
            return connection.execute(query).rowcount == 1

    def expire(self) -> int:
        """Delete files past their expires_at that no unfinished job needs; returns how many."""
        query = sa.select(files.c.account_id, files.c.id).where(files.c.expires_at <= self._store.now())
        with self._store.database.read() as connection:
            due = connection.execute(query).all()
        gone = 0
        for account_id, file_id in due:
            try:
                self.delete(account_id, file_id)
            except (Conflict, NotFound):
                continue
            gone += 1
        return gone

    def sweep(self) -> None:
        """Drop the bytes of uploads that a killed process left half written."""
        self._store.blobs.sweep(older_than=self._store.clock() - LONGEST_UPLOAD)

    def _row(
        self, file_id: str, account_id: int, filename: str, purpose: str, *, expires_after: int | None
    ) -> dict[str, Any]:
        if expires_after is not None and expires_after not in EXPIRY_SECONDS:
            raise InvalidRequest(
                f"expires_after.seconds is {expires_after}; it may be {EXPIRY_SECONDS[0]} to {EXPIRY_SECONDS[-1]}.",
                param="expires_after",
            )
        now = self._store.now()
        return {
            "id": file_id,
            "account_id": account_id,
            "purpose": checked_purpose(purpose),
            "filename": filename,
            "created_at": now,
            "expires_at": None if expires_after is None else now + expires_after,
        }

    def _beat(self, claim: Claim) -> None:
        until = self._store.clock() + claim.lease_seconds
        with self._store.database.begin() as connection:
            connection.execute(sa.update(files).where(*_held(claim)).values(lease_until=until))


def plain_name(filename: str, *, param: str = "file") -> str:
    """The last part of what a client sent as file name: browsers and the guide's curl line send whole paths.

    Raises:
        InvalidRequest: nothing is left, or it holds control characters or is too long.
    """
    name = filename.replace("\\", "/").rsplit("/", 1)[-1].strip()
    if name in ("", ".", ".."):
        raise InvalidRequest(f"The file name {filename!r} names a folder. Send the name of a file.", param=param)
    if not name.isprintable() or len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        raise InvalidRequest(
            f"The file name has control characters or more than {LONGEST_NAME} bytes. Rename the file.", param=param
        )
    return name


def checked_purpose(purpose: str) -> str:
    if purpose not in PURPOSES:
        raise InvalidRequest(f"The purpose {purpose!r} is unknown. Use one of {', '.join(PURPOSES)}.", param="purpose")
    return purpose


def _get(connection: Connection, account_id: int, file_id: str) -> File:
    file = one(connection, File, sa.select(files).where(_mine(account_id, file_id)))
    if file is None:
        raise NotFound(f"The file '{file_id}' does not exist.")
    return file


def _mine(account_id: int, file_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(files.c.account_id == account_id, files.c.id == file_id)


def _sought(account_id: int, purpose: str | None, search: str) -> sa.ColumnElement[bool]:
    """`search` stands in the name or in the id, in any case."""
    wanted = [files.c.account_id == account_id]
    if purpose is not None:
        wanted.append(files.c.purpose == purpose)
    if search:
        named = (files.c.filename, files.c.id)
        wanted.append(sa.or_(*(column.icontains(search, autoescape=True) for column in named)))
    return sa.and_(*wanted)


def _file_columns() -> tuple[sa.Column[str], ...]:
    return jobs.c.training_file, jobs.c.validation_file, jobs.c.result_file


def _held(claim: Claim) -> tuple[sa.ColumnElement[bool], ...]:
    return files.c.id == claim.file.id, files.c.lease_token == claim.token


class _Beating(io.RawIOBase):
    """A stream that calls `beat` while it is being read, so that a long check keeps its lease."""

    def __init__(self, stream: BinaryIO, beat: Callable[[], None], *, every: float) -> None:
        self._stream = stream
        self._beat = beat
        self._every = every
        self._last = time.monotonic()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        if time.monotonic() - self._last > self._every:
            self._beat()
            self._last = time.monotonic()
        return self._stream.readinto(buffer)  # type: ignore[attr-defined, no-any-return]
