"""The bytes of an unfinished fetch on disk: one file a claim, so that a holder who lost its lease spoils nothing."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tunery.errors import StorageFull
from tunery.store.blobs import make_durable_folder, sync_folder

CHUNK = 1 << 20


class Partial:
    """Append, make durable, begin again."""

    def __init__(self, folder: Path, file_id: str, token: int) -> None:
        make_durable_folder(folder)
        self.path = folder / f"{file_id}.{token}"
        self._earlier = [path for path in folder.glob(f"{file_id}.*") if path != self.path]
        self._stream = self.path.open("w+b")
        self.size = 0

    def take_over(self, size: int, look: Callable[[], None]) -> None:
        """Go on from the first `size` bytes of an earlier claim, if they are there; all older files go.

        Copied, not renamed: a process that slept past its lease may still write into its own file.
        """
        for path in self._earlier:
            with contextlib.suppress(FileNotFoundError):
                if self.size == 0 and 0 < size <= path.stat().st_size:
                    self._copy(path, size, look)
                path.unlink()
        sync_folder(self.path.parent)

    def write(self, chunk: bytes) -> None:
        with _told_when_full():
            self._stream.write(chunk)
        self.size += len(chunk)

    def sync(self) -> None:
        """What was written so far survives a power cut."""
        with _told_when_full():
            self._stream.flush()
            os.fsync(self._stream.fileno())

    def clear(self) -> None:
        self._stream.seek(0)
        self._stream.truncate()
        self.size = 0

    def chunks(self) -> Iterator[bytes]:
        """All of it, from the file that is open: the name may be gone by now."""
        self._stream.seek(0)
        while chunk := self._stream.read(CHUNK):
            yield chunk

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.close()

    def remove(self) -> None:
        self.close()
        self.path.unlink(missing_ok=True)

    def _copy(self, path: Path, size: int, look: Callable[[], None]) -> None:
        with path.open("rb") as source:
            while self.size < size and (chunk := source.read(min(CHUNK, size - self.size))):
                look()
                self.write(chunk)
        self.sync()


@contextmanager
def _told_when_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull from error
        raise
