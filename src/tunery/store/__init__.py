"""Rows and bytes, and the clock that stamps them. Knows no HTTP, no torch and no rule of the service."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tunery.store.blobs import Blobs
from tunery.store.database import Database


@dataclass(frozen=True, slots=True)
class Store:
    """What every service function is given first."""

    database: Database
    blobs: Blobs
    clock: Callable[[], float] = time.time
    """Unix seconds; tests put their own here."""

    def now(self) -> int:
        return int(self.clock())
