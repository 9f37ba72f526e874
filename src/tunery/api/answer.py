"""From an engine's pieces to response bodies and chunks (contract.md 3.3 to 3.5). Knows no HTTP and no parameters.

There is no content filter here, so `prompt_filter_results` and `content_filter_results` are left out: an answer that
carried them would claim a check that nobody made.
"""

import contextlib
import hashlib
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any, Protocol

import msgspec

from tunery.deployments import Serving
from tunery.errors import EngineUnavailable
from tunery.messages import Done, Generate, Piece, Started

Events = AsyncGenerator[Started | Piece | Done, None]

CUT_SHORT = "The model's engine went away before the answer was complete. Please retry after a moment."
LEAST_LOGPROB = -9999.0
"""What OpenAI writes for a token that is next to impossible; JSON has no minus infinity."""


class Rendering(Protocol):
    """How one API tells choices. One object an answer: it remembers what it told already."""

    whole_object: str
    chunk_object: str

    def whole(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        """A finished choice."""
        ...

    def deltas(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """What a piece adds to its choice, a chunk each."""
        ...


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A checked request: what to ask of the engine and how to tell its answer."""

    request: Generate
    rendering: Rendering
    stream: bool
    include_usage: bool


async def whole(events: Events, order: Order, serving: Serving) -> dict[str, Any]:
    """The response body. Raises EngineUnavailable if the events end without Done."""
    pieces: defaultdict[int, list[Piece]] = defaultdict(list)
    async with contextlib.aclosing(events):
        async for event in events:
            if isinstance(event, Piece):
                pieces[event.index].append(event)
            elif isinstance(event, Done):
                choices = [order.rendering.whole(index, pieces[index]) for index in sorted(pieces)]
                head = _head(order.rendering.whole_object, order, serving)
                return {**head, "choices": choices, "usage": _usage(event)}
    raise EngineUnavailable(CUT_SHORT)


async def chunks(events: Events, order: Order, serving: Serving) -> AsyncGenerator[dict[str, Any], None]:
    """The same as a stream. Raises EngineUnavailable if the events end without Done."""
    head = _head(order.rendering.chunk_object, order, serving)
    no_usage = {"usage": None} if order.include_usage else {}
    async with contextlib.aclosing(events):
        async for event in events:
            if isinstance(event, Piece):
                for choice in order.rendering.deltas(event):
                    yield {**head, "choices": [choice], **no_usage}
            elif isinstance(event, Done):
                if order.include_usage:
                    yield {**head, "choices": [], "usage": _usage(event)}
                return
    raise EngineUnavailable(CUT_SHORT)


def _head(kind: str, order: Order, serving: Serving) -> dict[str, Any]:
    return {
        "id": order.request.id,
        "object": kind,
        "created": int(time.time()),
        "model": serving.model,
        "system_fingerprint": _fingerprint(serving),
    }


def _fingerprint(serving: Serving) -> str:
    """Equal for equal weights: with the same seed and fingerprint the same answer may be expected."""
    digest = serving.adapter.digest if serving.adapter else ""
    return "fp_" + hashlib.sha256(f"{serving.weights}\n{digest}".encode()).hexdigest()[:10]


def _usage(done: Done) -> dict[str, Any]:
    return {
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": done.completion_tokens,
        "total_tokens": done.prompt_tokens + done.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": done.cached_tokens},
    }


def writable(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB)
