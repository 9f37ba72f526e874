"""What a fetch does while it waits for bytes: keeps its lease, hears of a stop, notices that nothing comes."""

import threading
import time
from collections.abc import Callable

from tunery.errors import FileImportFailed

LEAST_PROGRESS = 64 * 1024
"""Bytes that have to come within the stall limit: a trickle is no progress."""
SLICE_SECONDS = 1.0
"""Longest time between two looks."""


class Halted(Exception):
    """The worker was asked to stop; the fetch goes on elsewhere, or here later."""


class Watch:
    """`look` is called at least once a second, wherever the fetch is."""

    def __init__(
        self,
        renew: Callable[[], None],
        stopping: threading.Event,
        *,
        host: str,
        beat_seconds: float,
        stall_seconds: float,
        total_seconds: float,
        spent: float = 0.0,
    ) -> None:
        """`renew` raises where the lease is lost; `spent`: seconds of earlier claims of the same import."""
        self._renew = renew
        self._stopping = stopping
        self._host = host
        self._beat_seconds, self._stall_seconds, self._total_seconds = beat_seconds, stall_seconds, total_seconds
        self._began = time.monotonic() - spent
        self._beaten = self._progressed = time.monotonic()
        self._unseen = 0
        self.trouble: FileImportFailed | None = None
        """Why the last connection ended, until bytes come again: a better reason than that nothing came."""

    @property
    def spent(self) -> float:
        return time.monotonic() - self._began

    def look(self) -> None:
        """Raises Halted, FileImportFailed where too little comes or it takes too long, and whatever `renew` raises."""
        now = time.monotonic()
        if self._stopping.is_set():
            raise Halted
        if self.spent > self._total_seconds:
            raise FileImportFailed(
                f"The file from {self._host} wasn't complete after {self._total_seconds:g} seconds. "
                "Import it from a faster server, or upload it."
            )
        if now - self._progressed > self._stall_seconds:
            raise self.trouble or FileImportFailed(
                f"{self._host} sent less than {LEAST_PROGRESS // 1024} KB in {self._stall_seconds:g} seconds. "
                "Try again, or import the file from another server."
            )
        if now - self._beaten > self._beat_seconds:
            self.beat()

    def beat(self) -> None:
        """Renew the lease and write down how far the fetch is, now."""
        self._renew()
        self._beaten = time.monotonic()

    def received(self, count: int) -> None:
        self._unseen += count
        if self._unseen >= LEAST_PROGRESS:
            self._unseen, self._progressed, self.trouble = 0, time.monotonic(), None

    def wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.look()
            self._stopping.wait(min(left, SLICE_SECONDS))
        self.look()
