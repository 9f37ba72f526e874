"""Bytes by key. What `write` has returned from survives a power cut; no reader ever sees half a blob."""

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from tunery.errors import StorageFull

KEY = re.compile(r"[A-Za-z0-9_.-]{1,200}(/[A-Za-z0-9_.-]{1,200}){0,3}")


class Blobs(Protocol):
    """Keys are ours alone (`files/file-...`); no name that a user chose ever becomes part of one."""

    @contextmanager
    def write(self, key: str) -> Iterator[BinaryIO]:
        """A file to write to; it appears under `key`, whole and durable, when the block ends without an error.

        Raises:
            StorageFull: no space left; nothing is kept.
        """
        ...

    def path(self, key: str) -> Path:
        """A local path whose content is the blob, for readers that need a file."""
        ...

    def exists(self, key: str) -> bool: ...

    def size(self, key: str) -> int: ...

    def delete(self, key: str) -> None:
        """Remove the blob, or all blobs under it; absent ones are fine."""
        ...

    def sweep(self, *, older_than: float) -> None:
        """Drop what a process that died left half written before `older_than`, in Unix seconds."""
        ...


class FolderBlobs:
    """A local folder: temporary file, fsync, rename, fsync of the folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._staging = root / ".staging"
        self._staging.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def write(self, key: str) -> Iterator[BinaryIO]:
        target = self.path(key)
        staged = self._staging / secrets.token_hex(16)
        try:
            with staged.open("xb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            make_durable_folder(target.parent)
            staged.replace(target)
            sync_folder(target.parent)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull from error
            raise
        finally:
            staged.unlink(missing_ok=True)

    def path(self, key: str) -> Path:
        if not KEY.fullmatch(key) or ".." in key:
            raise ValueError(f"not a blob key: {key!r}")
        return self._root / key

    def exists(self, key: str) -> bool:
        return self.path(key).exists()

    def size(self, key: str) -> int:
        return self.path(key).stat().st_size

    def delete(self, key: str) -> None:
        path = self.path(key)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def sweep(self, *, older_than: float) -> None:
        for staged in self._staging.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if staged.stat().st_mtime < older_than:
                    staged.unlink()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_durable_folder(folder: Path) -> None:
    """mkdir -p whose new folders survive a power cut."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        sync_folder(new.parent)
