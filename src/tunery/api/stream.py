"""Answers that are written while they grow, and work that ends when its reader goes. Knows no model."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Coroutine, Mapping
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tunery.api.wire import openai_error
from tunery.errors import TuneryError

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

LAST_EVENT = b"data: [DONE]\n\n"
# JSON leaves these bare, and clients that split lines as Unicode does would cut an event in two.
LINE_ENDS = ((b"\xe2\x80\xa8", rb"\u2028"), (b"\xe2\x80\xa9", rb"\u2029"), (b"\xc2\x85", rb"\u0085"))


async def while_connected(receive: Receive, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """What `work` returns.

    Raises:
        ClientDisconnect: the client left first; `work` was cancelled and has cleaned up.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events, one a chunk, and [DONE] if all went well (contract.md 3.4).

    The next chunk is asked for once the connection took the one before. The status goes out with the first chunk, so an
    error before it has its own; one after it is an event of its own and the last. Chunks are closed in every case.
    """

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncGenerator[dict[str, Any], None], headers: Mapping[str, str] | None = None) -> None:
        # nginx holds events back unless told not to.
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})
        del self.headers["content-length"]
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        with contextlib.suppress(ClientDisconnect):
            await while_connected(receive, self._write(send))

    async def _write(self, send: Send) -> None:
        started = False
        async with contextlib.aclosing(self._chunks) as chunks:
            try:
                async for chunk in chunks:
                    if not started:
                        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                        started = True
                    await _send_body(send, event(chunk))
            # The HTTP edge: after the status only the stream itself can say that something broke.
            except Exception as error:
                if not started:
                    raise
                await _send_body(send, event(openai_error(_tellable(error))))
            else:
                await _send_body(send, LAST_EVENT)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def event(data: dict[str, Any]) -> bytes:
    """One server-sent event on one line, whatever a client takes for the end of a line."""
    line = msgspec.json.encode(data)
    for raw, escaped in LINE_ENDS:
        line = line.replace(raw, escaped)
    return b"data: " + line + b"\n\n"


async def _send_body(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


def _tellable(error: Exception) -> TuneryError:
    if isinstance(error, TuneryError):
        return error
    logger.error("A stream broke off", exc_info=error)
    return TuneryError()
