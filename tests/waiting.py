"""Waiting for what is sure to come, on a machine of any speed."""

import time
from collections.abc import Callable

PATIENCE = 120.0
"""Seconds for anything that starts, settles or ends; only a failure takes as long."""


def until(true: Callable[[], object], *, seconds: float = PATIENCE, said: Callable[[], object] = lambda: "") -> None:
    """Returns once the condition holds; fails, with what `said` gives, if it doesn't in time."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, said()
        time.sleep(0.02)
