"""What Studio works with: the service's rooms, and what only the web process has."""

from collections.abc import Callable
from dataclasses import dataclass

import anyio

from tunery.api.asking import Generator
from tunery.machine import Machine
from tunery.rooms import Services
from tunery.throttle import Throttle


@dataclass(frozen=True, kw_only=True)
class Rooms(Services):
    generator: Generator
    throttle: Throttle
    machine: Machine
    reconcile: Callable[[], None]
    """Brings deployments to where they are wanted; to be called after one was put."""
    sign_ins: anyio.CapacityLimiter
    """Checking a secret is costly on purpose: one after another."""
