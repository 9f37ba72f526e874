"""Watches an answer go by, to know in the end what it took. Knows no HTTP and no limit."""

import contextlib
from collections.abc import AsyncGenerator, Callable

from tunery.api.answer import Events
from tunery.messages import Done, Piece, Started


async def counted(events: Events, settle: Callable[[Done], None]) -> AsyncGenerator[Started | Piece | Done, None]:
    """The same events. `settle` gets the numbers of the last one, or of what was seen where the client left early."""
    seen = Done(id="", prompt_tokens=0, completion_tokens=0)
    prompt_tokens = pieces = 0
    try:
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, Started):
                    prompt_tokens = event.prompt_tokens
                elif isinstance(event, Done):
                    seen = event
                else:
                    pieces += 1
                if not isinstance(event, Done):
                    seen = Done(id=event.id, prompt_tokens=prompt_tokens, completion_tokens=pieces)
                yield event
    finally:
        settle(seen)
