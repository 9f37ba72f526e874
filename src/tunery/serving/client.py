"""The web process's end of an engine's socket. Knows neither torch nor HTTP."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import msgspec

from tunery import errors
from tunery.messages import (
    Adapter,
    Answer,
    Ask,
    Cancel,
    Done,
    Generate,
    Mount,
    Mounted,
    Piece,
    Ping,
    Pong,
    Refused,
    Started,
    Usage,
)
from tunery.serving.wire import frame, read_frame
from tunery.weights import Agreement

MOST_UNREAD = 64
"""Answers that lie unread before pieces are joined."""


class EngineClient:
    """Many requests over one connection, which is opened on first use and again after it broke.

    Every method raises the error of errors.py that the engine's `Refused` names, and EngineStopped when the engine
    can't be reached or goes away before the last answer.
    """

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()

    @property
    def broken(self) -> bool:
        """There was a connection and it has ended."""
        return self._connection is not None and self._connection.broken

    @property
    def idle(self) -> bool:
        """Nobody waits for an answer."""
        return self._connection is None or not self._connection.num_open

    async def generate(self, request: Generate) -> AsyncGenerator[Started | Piece | Done, None]:
        """The answers of one request. Closing the iterator early cancels the request in the engine."""
        connection = await self._connected()
        # The engine knows a request by an id of ours: callers may send the same id twice.
        key = uuid4().hex
        answers = connection.open(key)
        finished = False
        try:
            connection.send(msgspec.structs.replace(request, id=key))
            while not finished:
                answer = await answers.get()
                finished = not isinstance(answer, Started | Piece)
                if isinstance(answer, Started | Piece | Done):
                    yield msgspec.structs.replace(answer, id=request.id)
                else:
                    raise _error(answer)
        finally:
            connection.close_stream(key)
            if not finished:
                connection.send(Cancel(id=key))

    async def mount(self, adapter: Adapter | None) -> Agreement | None:
        """Returns when the adapter is in memory and answers its probe as the trainer did; None: the base alone.

        Of quantised weights it returns how closely they agree.
        """
        answer = await self._ask(Mount(id=uuid4().hex, adapter=adapter))
        return answer.agreement if isinstance(answer, Mounted) else None

    async def ping(self) -> Usage | None:
        """What the engine holds; None if it keeps no books of it."""
        answer = await self._ask(Ping(id=uuid4().hex))
        return answer.usage if isinstance(answer, Pong) else None

    async def close(self) -> None:
        if self._connection:
            await self._connection.close()

    async def _ask(self, ask: Mount | Ping) -> Answer:
        connection = await self._connected()
        answers = connection.open(ask.id)
        try:
            connection.send(ask)
            answer = await answers.get()
        finally:
            connection.close_stream(ask.id)
        if answer is None or isinstance(answer, Refused):
            raise _error(answer)
        return answer

    async def _connected(self) -> "_Connection":
        async with self._connecting:
            if self._connection is None or self._connection.broken:
                self._connection = await _Connection.open_to(self._socket_path)
            return self._connection


class Unread:
    """Answers that the engine gave and nobody has read yet.

    A reader that lags gets the pieces of a choice joined, so no more lies here than the answer itself.
    """

    def __init__(self) -> None:
        self._answers: deque[_Held] = deque()
        self._last: dict[int, _Held] = {}
        """By choice: the piece that the next one may be joined to."""
        self._there = asyncio.Event()

    @property
    def count(self) -> int:
        return len(self._answers)

    def put(self, answer: Answer | None) -> None:
        if isinstance(answer, Piece) and self.count >= MOST_UNREAD and answer.index in self._last:
            held = self._last[answer.index]
            assert isinstance(held.answer, Piece)
            held.answer = _joined(held.answer, answer)
            return
        held = _Held(answer)
        self._answers.append(held)
        if isinstance(answer, Piece):
            self._last[answer.index] = held
        self._there.set()

    async def get(self) -> Answer | None:
        await self._there.wait()
        held = self._answers.popleft()
        if not self._answers:
            self._there.clear()
        if isinstance(held.answer, Piece) and self._last.get(held.answer.index) is held:
            del self._last[held.answer.index]
        return held.answer


@dataclass(slots=True, eq=False)
class _Held:
    answer: Answer | None


def _joined(first: Piece, second: Piece) -> Piece:
    return Piece(
        id=first.id,
        index=first.index,
        text=first.text + second.text,
        logprobs=[*first.logprobs, *second.logprobs],
        tool_calls=[*first.tool_calls, *second.tool_calls],
        finish_reason=second.finish_reason,
    )


class _Connection:
    """One socket; answers find their request by id."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._streams: dict[str, Unread] = {}
        self._decoder = msgspec.msgpack.Decoder(Answer)
        self.broken = False
        self._task = asyncio.create_task(self._read())

    @classmethod
    async def open_to(cls, socket_path: Path) -> "_Connection":
        try:
            return cls(*await asyncio.open_unix_connection(socket_path))
        except OSError as error:
            raise errors.EngineStopped from error

    def open(self, key: str) -> "Unread":
        """The answers to `key`; None is the end of the connection."""
        unread = Unread()
        self._streams[key] = unread
        if self.broken:
            unread.put(None)
        return unread

    def close_stream(self, key: str) -> None:
        self._streams.pop(key, None)

    @property
    def num_open(self) -> int:
        return len(self._streams)

    def send(self, ask: Ask) -> None:
        if not self.broken:
            self._writer.write(frame(ask))

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _read(self) -> None:
        try:
            while True:
                answer = self._decoder.decode(await read_frame(self._reader))
                # An answer to a request that was cancelled meanwhile has no reader any more.
                if stream := self._streams.get(answer.id):
                    stream.put(answer)
        except (asyncio.IncompleteReadError, OSError, msgspec.DecodeError):
            pass
        finally:
            self.broken = True
            self._writer.close()
            for stream in self._streams.values():
                stream.put(None)


def _error(answer: Answer | None) -> errors.TuneryError:
    if not isinstance(answer, Refused):
        return errors.EngineStopped()
    kind = getattr(errors, answer.kind, None)
    if isinstance(kind, type) and issubclass(kind, errors.TuneryError):
        return kind(answer.message, param=answer.param, retry_after=answer.retry_after)
    return errors.TuneryError()
