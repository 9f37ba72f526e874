"""`tunery serve`: the ports, the worker process and the engines, started and stopped together."""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from tunery import app, certificates, parent, wiring
from tunery.address import write_address
from tunery.errors import InvalidRequest
from tunery.serving import commands
from tunery.serving.pool import EnginePool
from tunery.settings import Settings

logger = logging.getLogger(__name__)

RESTART_SECONDS = 1.0
STOP_SECONDS = 20.0
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Port(uvicorn.Server):
    """A uvicorn server that leaves signals to `serve`, which has two of them to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: Settings, *, supervised: bool = False) -> None:
    """Run until SIGINT or SIGTERM, or, if supervised, until the process that started us is gone."""
    rooms = wiring.services(settings)
    ca, certificate, key = certificates.ensure(settings.home / "tls")
    engines = EnginePool(
        rooms.catalog.base_model,
        settings.home / "engines",
        engine_command(settings),
        silence_seconds=settings.engine_silence_seconds,
    )
    application = app.web(rooms, engines)
    if settings.studio:
        from tunery.studio import mount  # noqa: PLC0415 (slow to import, and no other command needs it)

        mount.install(application, app.studio_of(rooms, application))
    write_address(settings, ca)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    if supervised:
        parent.follow(lambda: loop.call_soon_threadsafe(stopping.set))
    async with application.router.lifespan_context(application):
        ports = [_port(application, settings.host, settings.port)]
        if settings.tls_port:
            ports.append(_port(application, settings.host, settings.tls_port, certificate, key))
        worker = asyncio.create_task(_keep_worker(settings, stopping))
        serving = [asyncio.create_task(port.serve()) for port in ports]
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait([*serving, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopping.set()
        for port in ports:
            port.should_exit = True
        await asyncio.gather(*serving, worker, return_exceptions=True)
    await engines.close()
    rooms.close()


def engine_command(settings: Settings) -> commands.Command:
    """Raises InvalidRequest if the engine that is set can't be started here."""
    threads, device = settings.serving_threads, settings.device
    if settings.engine == "vllm":
        return commands.vllm(settings.vllm_python, threads=threads, device=device, options=settings.vllm_options)
    return commands.embedded(threads=threads, device=device)


def refuse_open_host(settings: Settings) -> None:
    """A fresh service listens on loopback; anything else has to be asked for twice."""
    if settings.host not in LOOPBACK and not settings.allow_remote:
        raise InvalidRequest(
            f"The host {settings.host} is reachable from other machines. Set allow_remote = true in tunery.toml if "
            "that is wanted, and put a proxy with a certificate of your own in front.",
            param="host",
        )


def _port(
    application: FastAPI, host: str, number: int, certificate: Path | None = None, key: Path | None = None
) -> Port:
    config = uvicorn.Config(
        app.entrance(application),
        host=host,
        port=number,
        http="h11",  # the one whose limits the next line knows; uvicorn would take whichever is installed
        lifespan="off",
        log_level="warning",
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=64 * 1024,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    return Port(config)


async def _keep_worker(settings: Settings, stopping: asyncio.Event) -> None:
    """One worker process, started again whenever it dies. It ends by itself when our end of its stdin closes."""
    command = [sys.executable, "-m", "tunery", "work", "--home", str(settings.home), "--supervised"]
    while not stopping.is_set():
        process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE)
        ended = asyncio.create_task(process.wait())
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait([ended, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if stopping.is_set():
            await _stop(process, ended)
            return
        logger.error("the worker ended with code %s; starting another", process.returncode)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), RESTART_SECONDS)


async def _stop(process: asyncio.subprocess.Process, ended: "asyncio.Task[int]") -> None:
    if process.returncode is None:
        process.terminate()
    try:
        await asyncio.wait_for(ended, STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
