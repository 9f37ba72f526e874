"""The service's own secrets: files in the home folder that their owner alone can read."""

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from tunery.store.blobs import sync_folder


def service_secret(home: Path) -> bytes:
    """What account keys and the tenant's id are derived from."""
    return owner_only(home / "secret.key", lambda: secrets.token_bytes(32))


def owner_only(path: Path, make: Callable[[], bytes]) -> bytes:
    """The content of a secret file; made at first use, whole and readable by its owner alone from the first instant."""
    if not path.exists():
        staged = path.with_suffix(f".{secrets.token_hex(8)}")
        descriptor = os.open(staged, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(make())
            stream.flush()
            os.fsync(stream.fileno())
        # link, not rename: of two processes that start at once the first one's secret stands.
        with contextlib.suppress(FileExistsError):
            os.link(staged, path)
        staged.unlink()
        sync_folder(path.parent)
    return path.read_bytes()
