"""What a contender says: a line when it is ready, then a line for each step that it was told to do. Stands alone: every
contender imports it, whatever its environment holds.
"""

import json
import os
import resource
import sys
import time
from typing import TextIO


class Turn:
    """Waits for `step` on standard input; keeps the clock while it trains. Whatever else prints goes to the log."""

    def __init__(self) -> None:
        self._out: TextIO = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._began = 0.0

    def ready(self) -> None:
        self._say({})
        self.wait()

    def done(self, loss: float) -> None:
        """A step is over: say its seconds, and wait for the next."""
        seconds = time.perf_counter() - self._began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self._say({"seconds": seconds, "loss": loss, "peak_bytes": peak})
        self.wait()

    def wait(self) -> None:
        if not sys.stdin.readline():
            sys.exit(0)
        self._began = time.perf_counter()

    def _say(self, what: dict[str, float]) -> None:
        self._out.write(json.dumps(what) + "\n")
        self._out.flush()
