"""Files that come in parts (the Uploads API): begin, add parts in any order, complete in the order given, or cancel."""

import hashlib

import sqlalchemy as sa

from tunery import quotas
from tunery.errors import InvalidRequest, NotFound, TooLarge, WrongState
from tunery.files import Files, Incoming, checked_purpose, plain_name
from tunery.records import File, Part, Upload, UploadStatus, new_id
from tunery.settings import Settings
from tunery.store import Store
from tunery.store.database import many, one
from tunery.store.tables import parts, uploads

CHUNK = 1 << 20


class Uploads:
    """Uploads of all accounts; every call names the account it acts for."""

    def __init__(self, store: Store, settings: Settings, files: Files) -> None:
        self._store = store
        self._settings = settings
        self._files = files

    def begin(self, *, account_id: int, purpose: str, filename: str, size: int, mime_type: str) -> Upload:
        if size < 1:
            raise InvalidRequest("bytes has to be the size of the whole file: 1 or more.", param="bytes")
        if size > self._settings.max_upload_bytes:
            raise TooLarge(
                f"{size} bytes are too many: an upload may have {self._settings.max_upload_bytes}.", param="bytes"
            )
        now = self._store.now()
        row = {
            "id": new_id("upload_"),
            "account_id": account_id,
            "purpose": checked_purpose(purpose),
            "filename": plain_name(filename, param="filename"),
            "bytes": size,
            "mime_type": mime_type,
            "created_at": now,
            "expires_at": now + self._settings.upload_seconds,
            "status": UploadStatus.PENDING,
        }
        with self._store.database.begin() as connection:
            # `keep` decides, once the bytes are there; who can't succeed is told before he sends them.
            quotas.admit_file(connection, self._settings, account_id, size)
            connection.execute(sa.insert(uploads).values(row))
        return self.get(account_id, str(row["id"]))

    def get(self, account_id: int, upload_id: str) -> Upload:
        query = sa.select(uploads).where(uploads.c.account_id == account_id, uploads.c.id == upload_id)
        with self._store.database.read() as connection:
            upload = one(connection, Upload, query)
        if upload is None:
            raise NotFound(f"The upload '{upload_id}' does not exist.")
        return upload

    def keep_part(self, account_id: int, upload_id: str, incoming: Incoming) -> Part:
        """The row of a received part. Its bytes are dropped if the upload no longer takes parts."""
        row = {
            "id": new_id("part_"),
            "upload_id": upload_id,
            "bytes": incoming.size,
            "blob": f"files/{incoming.file_id}",
            "created_at": self._store.now(),
        }
        try:
            self._open_upload(account_id, upload_id)
            with self._store.database.begin() as connection:
                connection.execute(sa.insert(parts).values(row))
        except BaseException:
            self._store.blobs.delete(str(row["blob"]))
            raise
        return Part(**row)  # type: ignore[arg-type]

    def complete(self, account_id: int, upload_id: str, part_ids: list[str], md5: str | None) -> tuple[Upload, File]:
        """Join the parts in the given order into a file.

        Raises:
            InvalidRequest: unknown part, wrong sum of bytes or wrong md5; the upload stays open for another try.
            WrongState: it is completed, cancelled or expired.
        """
        upload = self._open_upload(account_id, upload_id)
        chosen = self._chosen(upload, part_ids)
        with self._files.receive(limit=self._settings.max_upload_bytes) as incoming:
            digest = hashlib.md5(usedforsecurity=False)
            for part in chosen:
                with self._store.blobs.path(part.blob).open("rb") as stream:
                    while chunk := stream.read(CHUNK):
                        digest.update(chunk)
                        incoming.write(chunk)
            if md5 is not None and digest.hexdigest() != md5.lower():
                raise InvalidRequest(
                    f"The parts' md5 is {digest.hexdigest()}, not {md5}. Send the damaged part again.", param="md5"
                )
        file = self._files.keep(incoming, account_id=account_id, filename=upload.filename, purpose=upload.purpose)
        if not self._close(upload, UploadStatus.COMPLETED, file_id=file.id):
            # Another request completed or cancelled it between our look and our write.
            self._files.delete(account_id, file.id)
            raise WrongState(f"The upload '{upload_id}' was completed or cancelled by another request.")
        return self.get(account_id, upload_id), file

    def cancel(self, account_id: int, upload_id: str) -> Upload:
        upload = self._open_upload(account_id, upload_id)
        self._close(upload, UploadStatus.CANCELLED)
        return self.get(account_id, upload_id)

    def expire(self) -> None:
        """Close uploads past their time and drop their parts."""
        query = sa.select(uploads).where(
            uploads.c.status == UploadStatus.PENDING, uploads.c.expires_at <= self._store.now()
        )
        with self._store.database.read() as connection:
            due = many(connection, Upload, query)
        for upload in due:
            self._close(upload, UploadStatus.EXPIRED)

    def _open_upload(self, account_id: int, upload_id: str) -> Upload:
        upload = self.get(account_id, upload_id)
        if upload.status == UploadStatus.PENDING and upload.expires_at <= self._store.now():
            self._close(upload, UploadStatus.EXPIRED)
            upload = self.get(account_id, upload_id)
        if upload.status != UploadStatus.PENDING:
            raise WrongState(f"The upload '{upload_id}' is {upload.status}. Begin a new one.")
        return upload

    def _chosen(self, upload: Upload, part_ids: list[str]) -> list[Part]:
        with self._store.database.read() as connection:
            known = {
                part.id: part for part in many(connection, Part, sa.select(parts).where(parts.c.upload_id == upload.id))
            }
        for part_id in part_ids:
            if part_id not in known:
                raise InvalidRequest(f"The part '{part_id}' doesn't belong to this upload.", param="part_ids")
        if len(set(part_ids)) != len(part_ids):
            raise InvalidRequest("part_ids names a part twice.", param="part_ids")
        chosen = [known[part_id] for part_id in part_ids]
        total = sum(part.bytes for part in chosen)
        if total != upload.bytes:
            raise InvalidRequest(
                f"The parts have {total} bytes together, the upload was announced with {upload.bytes}.",
                param="part_ids",
            )
        return chosen

    def _close(self, upload: Upload, status: UploadStatus, *, file_id: str | None = None) -> bool:
        still_open = sa.and_(uploads.c.id == upload.id, uploads.c.status == UploadStatus.PENDING)
        with self._store.database.begin() as connection:
            changed = connection.execute(
                sa.update(uploads).where(still_open).values(status=status, file_id=file_id)
            ).rowcount
            if not changed:
                return False
            gone = many(connection, Part, sa.delete(parts).where(parts.c.upload_id == upload.id).returning(parts))
        for part in gone:
            self._store.blobs.delete(part.blob)
        return True
