"""How the machine is: engines and their bases, memory, how much work waits. Names no account, job or deployment."""

import contextlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

import msgspec
import sqlalchemy as sa

from tunery import host
from tunery.records import HELD, WAITING
from tunery.store import Store
from tunery.store.tables import jobs
from tunery.weights import Quantization, Weights

TRAINER = "tunery.training"


class Engines(Protocol):
    """Who starts engines, and ends them."""

    async def keep(self, wanted: Collection[Weights]) -> None:
        """End those that hold other weights, unless somebody waits for an answer of theirs."""
        ...

    def processes(self) -> dict[Weights, int | None]:
        """Process ids of engines that run, by weights; None: it is being started, or runs elsewhere."""
        ...


class Engine(msgspec.Struct, frozen=True):
    base: str
    quantization: Quantization | None
    memory_bytes: int | None
    """None: it is being started."""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Of this machine, for all accounts together."""

    cores: int
    memory_bytes: int
    memory_free_bytes: int
    """What a new process could take, after the control group's limit."""
    engines: list[Engine]
    training_bytes: int
    """Memory of all trainers that this service started here; those of other hosts aren't seen."""
    running_jobs: int
    waiting_jobs: int


class Machine:
    """Looks when it is asked; keeps nothing."""

    def __init__(self, store: Store, engines: Engines) -> None:
        self._store = store
        self._engines = engines

    def state(self) -> State:
        with self._store.database.read() as connection:
            counts = sa.select(jobs.c.status, sa.func.count()).group_by(jobs.c.status)
            by_status = {status: count for status, count in connection.execute(counts)}
        trainers = host.running(TRAINER, os.getpid())
        return State(
            cores=len(os.sched_getaffinity(0)),
            memory_bytes=host.total_bytes(),
            memory_free_bytes=host.free_bytes(Path("/")),
            engines=self._running(),
            training_bytes=sum(_memory(pid) or 0 for pid in trainers),
            running_jobs=sum(by_status.get(status, 0) for status in HELD),
            waiting_jobs=sum(by_status.get(status, 0) for status in WAITING),
        )

    def _running(self) -> list[Engine]:
        found = sorted(self._engines.processes().items(), key=lambda one: str(one[0]))
        return [Engine(weights.base, weights.quantization, _memory(pid)) for weights, pid in found]


def _memory(pid: int | None) -> int | None:
    """None for a process that isn't there, or not any more."""
    with contextlib.suppress(OSError, KeyError):
        return None if pid is None else host.resident_bytes(pid)
    return None
