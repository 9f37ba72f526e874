"""Folders that are complete or absent: temporary name, fsync of every file, rename. Knows nothing of what is inside."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from tunery.errors import InvalidRequest


@contextmanager
def written(directory: Path) -> Iterator[Path]:
    """Yields an empty temporary folder beside `directory`; on a clean exit it takes `directory`'s place, durably.

    Whoever reads `directory` never sees half of it, whenever the power fails. An error inside leaves nothing behind.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        for path in sorted(temporary.rglob("*")):
            _fsync(path)
        _fsync(temporary)
        _replace(temporary, directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _fsync(directory.parent)


def require(directory: Path) -> None:
    """Raises InvalidRequest that says how to get a base model which isn't there at all."""
    if not directory.is_dir():
        raise InvalidRequest(
            f"The base model {directory.name} isn't on this machine. Fetch it with: tunery models fetch"
        )


def _replace(new: Path, directory: Path) -> None:
    if not directory.exists():
        new.rename(directory)
        return
    old = Path(mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    directory.rename(old)  # rename(2) takes over an empty folder, never a full one
    new.rename(directory)
    shutil.rmtree(old)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
