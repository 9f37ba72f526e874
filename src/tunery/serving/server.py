"""An engine behind a Unix socket: one thread steps the engine, an asyncio front carries messages to and from it.

Knows no HTTP. The process is a child of the web process and ends with it.
"""

import argparse
import asyncio
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

import msgspec
import torch

from tunery import parent
from tunery.bases import BaseModel
from tunery.messages import Answer, Ask, Cancel, Done, Generate, Mount, Ping, Pong, Refused, Usage
from tunery.serving.request import Deliver, Request
from tunery.serving.wire import frame, read_frame

PR_SET_PDEATHSIG = 1  # prctl(2)


class Engine(Protocol):
    """What answers: serving/engine.py, or another one in its place. One thread calls everything."""

    def use_this_thread(self) -> None:
        """Called first, on the thread that calls the rest."""

    @property
    def busy(self) -> bool:
        """There is something for `step` to do."""

    @property
    def usage(self) -> Usage | None:
        """None: the engine keeps no such books."""

    def submit(self, generate: Generate, deliver: Deliver, /) -> Request:
        """Takes a request on; `deliver` gets Started, Pieces and Done, or Refused, from the next steps."""

    def cancel(self, request: Request, /) -> None:
        """Frees all that a request holds; `deliver` isn't called for it again."""

    def mount(self, mount: Mount, deliver: Deliver, /) -> None:
        """Loads an adapter, if one is named, and has a probe answered; `deliver` gets Mounted or Refused."""

    def step(self) -> None:
        """Goes on with all that was submitted. What it raises ends the process."""

    def close(self) -> None:
        """Called last: ends threads of its own."""


class Connection:
    """A client of the socket. `requests` belongs to the engine's thread, the writer to the front."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.requests: dict[str, Request] = {}


Frames = list[tuple[Connection, bytes]]


class EngineThread:
    """Takes asks of any number of connections, steps the engine while there is work, hands frames to the front."""

    def __init__(self, engine: Engine, hand_out: Callable[[Frames], None]) -> None:
        """`hand_out` is called on this thread with the frames of a step."""
        self._engine = engine
        self._hand_out = hand_out
        self._asks: SimpleQueue[tuple[Connection, Ask | None] | None] = SimpleQueue()
        self._frames: Frames = []

    def put(self, connection: Connection, ask: Ask | None) -> None:
        """From any thread. None: the connection is closed."""
        self._asks.put((connection, ask))

    def stop(self) -> None:
        self._asks.put(None)

    def run(self) -> None:
        self._engine.use_this_thread()
        while True:
            while not (self._engine.busy and self._asks.empty()):
                asked = self._asks.get()
                if asked is None:
                    return
                self._take(*asked)
                self._flush()
            self._engine.step()
            self._flush()

    def _take(self, connection: Connection, ask: Ask | None) -> None:
        answer = partial(self._answer, connection)
        match ask:
            case None:
                for request in connection.requests.values():
                    self._engine.cancel(request)
            case Cancel():
                if cancelled := connection.requests.pop(ask.id, None):
                    self._engine.cancel(cancelled)
            case Ping():
                answer(Pong(id=ask.id, usage=self._engine.usage))
            case Mount():
                self._engine.mount(ask, answer)
            case Generate() if ask.id in connection.requests:
                answer(Refused(id=ask.id, kind="InvalidRequest", message=f"Request {ask.id} is running already."))
            case Generate():
                connection.requests[ask.id] = self._engine.submit(ask, answer)

    def _answer(self, connection: Connection, answer: Answer) -> None:
        self._frames.append((connection, frame(answer)))
        if isinstance(answer, Done | Refused):
            connection.requests.pop(answer.id, None)

    def _flush(self) -> None:
        if self._frames:
            frames, self._frames = self._frames, []
            self._hand_out(frames)


class Front:
    """Listens on the socket, decodes asks, writes frames."""

    def __init__(self, engine: Engine) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = EngineThread(engine, self._write_soon)
        self._decoder = msgspec.msgpack.Decoder(Ask)

    async def serve(self, socket: Path, stop: asyncio.Event) -> None:
        """Until `stop` is set or the engine breaks; raises what broke it."""
        server = await asyncio.start_unix_server(self._converse, socket)
        socket.chmod(0o600)
        engine = asyncio.create_task(asyncio.to_thread(self._thread.run))
        stopped = asyncio.create_task(stop.wait())
        print("ready", flush=True)
        await asyncio.wait([engine, stopped], return_when=asyncio.FIRST_COMPLETED)
        server.close()
        stopped.cancel()
        self._thread.stop()
        await engine

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(writer)
        try:
            while True:
                self._thread.put(connection, self._decoder.decode(await read_frame(reader)))
        except asyncio.IncompleteReadError:
            pass  # the client has closed
        except (OSError, msgspec.DecodeError) as error:
            logging.getLogger(__name__).warning("A connection was closed: %s", error)
        finally:
            self._thread.put(connection, None)
            writer.close()

    def _write_soon(self, frames: Frames) -> None:
        self._loop.call_soon_threadsafe(self._write, frames)

    def _write(self, frames: Frames) -> None:
        for connection, data in frames:
            if not connection.writer.is_closing():
                connection.writer.write(data)


def parser(prog: str) -> argparse.ArgumentParser:
    """What every engine's process is told."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("--base", required=True, help="bases.BaseModel as JSON")
    parser.add_argument("--socket", required=True, type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    return parser


def main(arguments: argparse.Namespace, load: Callable[[BaseModel], Engine]) -> None:
    """Prints `ready` once it listens. Ends on SIGTERM, at the end of its standard input, and with its parent."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    _end_with_parent()
    os.umask(0o077)
    arguments.socket.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    engine = load(msgspec.json.decode(arguments.base, type=BaseModel))
    _give_back()
    asyncio.run(_serve(engine, arguments.socket))


async def _serve(engine: Engine, socket: Path) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    parent.follow(partial(loop.call_soon_threadsafe, stop.set))
    try:
        await Front(engine).serve(socket, stop)
    finally:
        engine.close()


def _give_back() -> None:
    """What loading took and freed: glibc would keep it (malloc_trim(3)), as much as a whole model."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _end_with_parent() -> None:
    """Linux only; elsewhere the end of standard input says the same a little later."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
