"""How much may wait, and how long that will take. Knows whose prompts wait, and neither cache nor text."""

import math
import time
from collections.abc import Collection, Sized
from typing import Protocol

from tunery.errors import TooManyRequests

LONGEST_RETRY = 60
"""Seconds; SDKs take a longer retry-after for a mistake."""
MEMORY = 0.9
"""Part of the measured speed that is kept at each step."""


class Waiting(Protocol):
    """A prompt that isn't computed yet."""

    @property
    def owner(self) -> str: ...

    @property
    def tokens(self) -> Sized: ...


class Backlog:
    """At most so many sequences and tokens of prompts wait; beyond that, owners with their part of it are refused."""

    def __init__(self, *, max_sequences: int, max_tokens: int) -> None:
        self._max_sequences = max_sequences
        self._max_tokens = max_tokens
        self._tokens_a_second = 0.0
        self._last = time.monotonic()

    def check(self, owner: str, prompts: Collection[int], waiting: Collection[Waiting]) -> None:
        """Raises TooManyRequests if `prompts` (tokens of each) are more than `owner` may add to those that wait."""
        own = [sequence for sequence in waiting if sequence.owner == owner]
        parts = len({owner, *(sequence.owner for sequence in waiting)})
        for there, theirs, more, most in (
            (len(waiting), len(own), len(prompts), self._max_sequences),
            (_tokens(waiting), _tokens(own), sum(prompts), self._max_tokens),
        ):
            if own and there + more > most and theirs + more > most / parts:
                seconds = self._seconds_for(_tokens(waiting))
                raise TooManyRequests(
                    f"{len(waiting)} prompts wait for this model already. Please retry after {seconds} s.",
                    retry_after=seconds,
                )

    def computed(self, tokens: int) -> None:
        """A step is over that computed so many."""
        now = time.monotonic()
        speed = tokens / max(now - self._last, 1e-3)
        self._tokens_a_second = MEMORY * self._tokens_a_second + (1 - MEMORY) * speed
        self._last = now

    def _seconds_for(self, tokens: int) -> int:
        return min(max(1, math.ceil(tokens / max(self._tokens_a_second, 1.0))), LONGEST_RETRY)


def _tokens(waiting: Collection[Waiting]) -> int:
    return sum(len(one.tokens) for one in waiting)
