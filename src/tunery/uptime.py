"""How long this service has run in all: a clock that nobody can set, by which deployments age.

A wall clock jumps, a monotonic one begins anew with each boot. This one adds up what monotonic clocks saw while the
service ran and keeps the sum, so it is never ahead of true time: what waits for it comes late, never early.
"""

import secrets
import time
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tunery.store import Store
from tunery.store.tables import uptime

LONGEST_TICK = 300.0
"""Seconds that one tick adds at most: a process that was stopped for days didn't serve them."""


class Uptime:
    """One of these counts at a time, the newest: two services on one home would count double."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._ticker = secrets.token_hex(16)
        self._seen = clock()

    def start(self) -> None:
        self._seen = self._clock()
        with self._store.database.begin() as connection:
            if not connection.execute(sa.update(uptime).values(ticker=self._ticker)).rowcount:
                connection.execute(sa.insert(uptime).values(id=1, seconds=0.0, ticker=self._ticker))

    def tick(self) -> float:
        """Add what passed since the last tick; returns how much that is. 0 once a newer service counts."""
        now = self._clock()
        passed, self._seen = min(max(now - self._seen, 0.0), LONGEST_TICK), now
        mine = sa.update(uptime).where(uptime.c.ticker == self._ticker).values(seconds=uptime.c.seconds + passed)
        with self._store.database.begin() as connection:
            return passed if connection.execute(mine).rowcount else 0.0


_SECONDS = sa.select(uptime.c.seconds)


def read(connection: Connection) -> float:
    """Seconds; behind the truth by what the next tick will add."""
    return float(connection.execute(_SECONDS).scalar() or 0.0)


def mark(connection: Connection) -> float:
    """The time to write down for something that happens now: not before the next tick, so that nothing is too old."""
    return read(connection) + LONGEST_TICK
