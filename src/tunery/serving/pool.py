"""One engine process for each base and quantization, started when first needed and again after it died.

No torch, no HTTP.
"""

import asyncio
import contextlib
import logging
import os
import tempfile
from collections.abc import AsyncGenerator, Callable, Collection
from pathlib import Path

from tunery.bases import BaseModel
from tunery.errors import EngineStopped, EngineUnavailable, NotFound
from tunery.messages import Adapter, Done, Generate, Piece, Started
from tunery.serving.client import EngineClient
from tunery.serving.commands import Command
from tunery.weights import Agreement, Weights

log = logging.getLogger(__name__)

START_SECONDS = 300.0
"""Until a base model must be loaded."""
STOP_SECONDS = 10.0
"""Between asking an engine to stop and killing it."""
LONGEST_SOCKET_PATH = 100
"""Bytes; Linux allows 107 (unix(7))."""


class EnginePool:
    """Routes requests to the engine that holds their weights. Logs of the engines lie in `folder`."""

    def __init__(
        self,
        base_model: Callable[[str], BaseModel | None],
        folder: Path,
        command: Command,
        *,
        silence_seconds: float,
    ) -> None:
        """`base_model`: by its name; None if there is none. `command` starts the engine of one; see commands.py.

        An engine silent for longer is hung, and replaced.
        """
        self._folder = folder
        self._command = command
        self._silence_seconds = silence_seconds
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._base_model = base_model
        self._engines: dict[Weights, _Engine] = {}

    async def generate(self, weights: Weights, request: Generate) -> AsyncGenerator[Started | Piece | Done, None]:
        """See EngineClient.generate. Who has heard nothing yet when the engine goes away asks the next one, once."""
        heard = False
        try:
            async with contextlib.aclosing(self._ask(weights, request)) as answers:
                async for answer in answers:
                    heard = True
                    yield answer
        except EngineStopped:
            if heard:
                raise
        if not heard:
            async with contextlib.aclosing(self._ask(weights, request)) as answers:
                async for answer in answers:
                    yield answer

    async def _ask(self, weights: Weights, request: Generate) -> AsyncGenerator[Started | Piece | Done, None]:
        client = await self._engine(weights).client()
        async with contextlib.aclosing(client.generate(request)) as answers:
            async for answer in answers:
                yield answer

    async def mount(self, weights: Weights, adapter: Adapter | None) -> Agreement | None:
        """See EngineClient.mount. Raises EngineUnavailable when the engine's process doesn't get ready."""
        client = await self._engine(weights).client()
        return await client.mount(adapter)

    async def ping(self, weights: Weights) -> None:
        client = await self._engine(weights).client()
        await client.ping()

    def pid(self, weights: Weights) -> int | None:
        """Of the engine's process, if it was started."""
        return self._engine(weights).pid

    def processes(self) -> dict[Weights, int | None]:
        """Of engines that run or are being started (None), by weights; nothing of those that ended."""
        return {held: engine.pid if engine.ready else None for held, engine in self._engines.items() if engine.wanted}

    async def keep(self, wanted: Collection[Weights]) -> None:
        """Ends the engines of all others that nobody asks anything at this moment."""
        others = [engine for weights, engine in self._engines.items() if weights not in wanted and engine.idle]
        await asyncio.gather(*(engine.stop() for engine in others))

    async def close(self) -> None:
        await asyncio.gather(*(engine.stop() for engine in self._engines.values()))
        if self._temporary:
            self._temporary.cleanup()

    def _engine(self, weights: Weights) -> "_Engine":
        if weights not in self._engines:
            base = self._base_model(weights.base)
            if base is None:
                raise NotFound(f"There is no base model {weights.base} here.")
            self._engines[weights] = self._new_engine(self._command(base, weights.quantization))
        return self._engines[weights]

    def _new_engine(self, command: list[str]) -> "_Engine":
        number = len(self._engines)
        self._folder.mkdir(parents=True, exist_ok=True)
        return _Engine(
            command,
            self._socket_folder() / f"{number}.sock",
            self._folder / f"engine-{number}.log",
            silence_seconds=self._silence_seconds,
        )

    def _socket_folder(self) -> Path:
        folder = self._folder.resolve() / "sockets"
        if len(bytes(folder)) + len("/000.sock") <= LONGEST_SOCKET_PATH:
            folder.mkdir(mode=0o700, exist_ok=True)
            return folder
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="tunery-")
        return Path(self._temporary.name)


class _Engine:
    """A process and the client that talks to it."""

    def __init__(self, command: list[str], socket: Path, log: Path, *, silence_seconds: float) -> None:
        self._command = [*command, "--socket", str(socket)]
        self._socket = socket
        self._log = log
        self._silence_seconds = silence_seconds
        self._watch: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._client = EngineClient(socket)
        self._start: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def ready(self) -> bool:
        return self._start is not None and self._start.done() and self._alive

    @property
    def wanted(self) -> bool:
        return self._start is not None and (not self._start.done() or self._alive)

    @property
    def idle(self) -> bool:
        """It runs for nobody."""
        return self.ready and self._client.idle

    async def client(self) -> EngineClient:
        if self._start is None or (self._start.done() and not self._alive):
            self._start = asyncio.create_task(self._restart())
        # Shielded: the model goes on loading for others when the one who asked first goes away.
        await asyncio.shield(self._start)
        return self._client

    async def stop(self) -> None:
        if self._start:
            self._start.cancel()
            with contextlib.suppress(asyncio.CancelledError, EngineUnavailable):
                await self._start
        await self._end()

    @property
    def _alive(self) -> bool:
        return self._process is not None and not _exited(self._process.pid) and not self._client.broken

    async def _restart(self) -> None:
        await self._end()
        self._socket.unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log
            )
        self._client = EngineClient(self._socket)
        assert self._process.stdout
        line = b""
        with contextlib.suppress(TimeoutError):
            line = await asyncio.wait_for(self._process.stdout.readline(), START_SECONDS)
        if line != b"ready\n":
            await self._end()
            last = self._log.read_text("utf-8", "replace").strip().rsplit("\n", 1)[-1]
            raise EngineUnavailable(f"The model's engine didn't start; {self._log.name} says why: {last[-300:]}")
        self._watch = asyncio.create_task(self._kill_when_silent(self._process, self._client))

    async def _kill_when_silent(self, process: asyncio.subprocess.Process, client: EngineClient) -> None:
        """A hung engine answers no ping. Once it is killed its requests get their error, and the next one a new one."""
        with contextlib.suppress(EngineUnavailable):  # it died by itself
            while True:
                try:
                    await asyncio.wait_for(client.ping(), self._silence_seconds)
                except TimeoutError:
                    log.error("The engine %d answered nothing for %.0f s", process.pid, self._silence_seconds)
                    process.kill()
                    return
                await asyncio.sleep(self._silence_seconds / 4)

    async def _end(self) -> None:
        if self._watch:
            self._watch.cancel()
        await self._client.close()
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        self._process = None


def _exited(pid: int) -> bool:
    """Asked of the kernel: asyncio learns of a child's end, and of the socket's, only some time later."""
    try:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return True
    except ChildProcessError:
        return True
    # A killed process whose other threads still end can't be waited for yet (proc(5): Z).
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[-1][0] in "ZX"
    return False
