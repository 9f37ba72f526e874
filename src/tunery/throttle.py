"""Requests and tokens a minute of each deployment, by sku.capacity (contract.md 3.6, 4.2). Knows no HTTP.

Two buckets a deployment, each filled evenly over a minute. A request takes what it may need and gives back what it
didn't. The state is this process's own: after a restart every bucket is full.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from tunery.errors import Allowance, RateLimited
from tunery.messages import Generate
from tunery.settings import Settings

MINUTE = 60.0
CHARACTERS_PER_TOKEN = 4
"""For the estimate before the answer; a tokenizer stays in the engine."""
UNSTATED_TOKENS = 256
"""Reserved for an answer whose request gives no max_tokens; the true length is settled once it is known."""


class PerMinute(NamedTuple):
    requests: int
    tokens: int


def per_minute(settings: Settings, units: int | None) -> PerMinute | None:
    """What so many units allow; None: no limit."""
    if units is None or not (settings.requests_per_unit and settings.tokens_per_unit):
        return None
    return PerMinute(units * settings.requests_per_unit, units * settings.tokens_per_unit)


class Bucket:
    """Holds what flows in during a minute, and starts full.

    What is more than the bucket holds may be taken from a full one: the rest is a debt, paid before anything else is
    given. So over any time no more is taken than one bucket and the inflow, plus that debt, and nobody waits for ever.
    """

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._seen = now

    def wait(self, amount: float, now: float) -> float:
        """Seconds until so much may be taken; 0: now."""
        missing = min(amount, self.per_minute) - self._filled(now)
        return max(0.0, missing * MINUTE / self.per_minute)

    def take(self, amount: float, now: float) -> None:
        """May be negative, to give back."""
        self._level = min(float(self.per_minute), self._filled(now) - amount)

    def left(self, now: float) -> int:
        return max(0, int(self._filled(now)))

    def full(self, now: float) -> bool:
        return self._filled(now) >= self.per_minute

    def _filled(self, now: float) -> float:
        self._level = min(float(self.per_minute), self._level + (now - self._seen) * self.per_minute / MINUTE)
        self._seen = now
        return self._level


class Ticket:
    """One request that was let through."""

    def __init__(self, allowance: Allowance | None, settle: Callable[[int], None]) -> None:
        self.allowance = allowance
        """What is left for others; None: the deployment has no limit."""
        self.settle = settle
        """To be called once, with the tokens that were computed."""


class _Limits(msgspec.Struct):
    units: int
    requests: Bucket
    tokens: Bucket


class Throttle:
    """The buckets of all deployments. Used from the event loop alone."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._limits: dict[tuple[str, str], _Limits] = {}

    def admit(self, owner: str, deployment: str, units: int | None, tokens: int) -> Ticket:
        """Take one request and `tokens`; no units, no limit. Raises RateLimited, with the time to wait."""
        now = self._clock()
        limits = self._of(owner, deployment, units, now)
        if limits is None:
            return Ticket(None, lambda _used: None)
        waits = {"call": limits.requests.wait(1, now), "token": limits.tokens.wait(tokens, now)}
        slower = max(waits, key=lambda kind: waits[kind])
        if waits[slower] > 0:
            sentence = _sentence(deployment, limits, slower, tokens)
            raise RateLimited(sentence, self._allowance(limits), retry_after=waits[slower])
        limits.requests.take(1, now)
        limits.tokens.take(tokens, now)
        return Ticket(self._allowance(limits), lambda used: limits.tokens.take(used - tokens, self._clock()))

    def tidy(self) -> None:
        """Forget deployments whose buckets are full: new ones would be the same."""
        now = self._clock()
        idle = [key for key, found in self._limits.items() if found.requests.full(now) and found.tokens.full(now)]
        for key in idle:
            del self._limits[key]

    def _of(self, owner: str, deployment: str, units: int | None, now: float) -> _Limits | None:
        limits = per_minute(self._settings, units)
        if units is None or limits is None:
            return None
        key = (owner, deployment.lower())
        found = self._limits.get(key)
        if found is None or found.units != units:
            found = _Limits(units, Bucket(limits.requests, now), Bucket(limits.tokens, now))
            self._limits[key] = found
        return found

    def _allowance(self, limits: _Limits) -> Allowance:
        now = self._clock()
        requests, tokens = limits.requests, limits.tokens
        return Allowance(requests.per_minute, requests.left(now), tokens.per_minute, tokens.left(now))


def reserved_tokens(request: Generate) -> int:
    """What a request may cost: its prompt, estimated from its length, and the longest answers that it allows."""
    given = [request.messages, request.tools, [text for text in request.prompts or [] if isinstance(text, str)]]
    characters = sum(len(msgspec.json.encode(part)) for part in given if part)
    ids = sum(len(prompt) for prompt in request.prompts or [] if not isinstance(prompt, str))
    answers = len(request.prompts or [""]) * request.best_of
    longest = UNSTATED_TOKENS if request.max_tokens is None else request.max_tokens
    return characters // CHARACTERS_PER_TOKEN + ids + answers * longest


def _sentence(deployment: str, limits: _Limits, kind: str, tokens: int) -> str:
    per_minute = limits.requests.per_minute if kind == "call" else limits.tokens.per_minute
    asked = "" if kind == "call" else f" This request may take {tokens}."
    return (
        f"Requests to the deployment '{deployment}' have exceeded its {kind} rate limit of {per_minute} a minute, "
        f"which its sku.capacity of {limits.units} gives.{asked} Raise the capacity, or PUT it without for no limit."
    )
