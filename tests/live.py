"""A live service inside the test process: the real web application on real ports, scripted trainer and engine."""

import asyncio
import contextlib
import dataclasses
import socket
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import openai
import requests
import uvicorn

from tests.fake_training import FakeTrainer
from tests.fakes import FakeGenerator
from tests.waiting import PATIENCE, until
from tunery import app, certificates, wiring
from tunery.errors import TuneryError
from tunery.estimates import Estimates, Planner
from tunery.messages import Adapter
from tunery.rooms import Services
from tunery.run import Bench
from tunery.serve import Port
from tunery.settings import Settings
from tunery.studio import mount
from tunery.weights import Agreement, Weights
from tunery.worker import Worker

VERSION = "2024-10-21"
ROOMY = {
    "max_files": 500,
    "max_total_bytes": 16 * 1024**3,
    "max_jobs": 1000,
    "max_deployments": 500,
    "max_tuned_deployments": 500,
}
"""Limits for a service that many tests share."""
AGREEMENT = Agreement(places=41, same_token=40, mean_difference=0.125, largest_difference=0.5)
ClientT = TypeVar("ClientT", bound=openai.OpenAI)


class FakeEngines(FakeGenerator):
    """Answers what FakeGenerator was told to, and mounts what it is asked to unless `broken` says otherwise.

    Quantised weights always agree alike.
    """

    def __init__(self) -> None:
        super().__init__()
        self.broken: TuneryError | None = None
        self.mounted: list[str] = []
        self.running: dict[Weights, int | None] = {}
        self.kept: set[Weights] = set()

    async def mount(self, weights: Weights, adapter: Adapter | None) -> Agreement | None:
        assert adapter is None or Path(adapter.directory).is_dir()
        if self.broken is not None:
            raise self.broken
        self.mounted.append(adapter.digest if adapter else str(weights))
        return AGREEMENT if weights.quantization else None

    async def keep(self, wanted: Collection[Weights]) -> None:
        self.kept = set(wanted)

    def processes(self) -> dict[Weights, int | None]:
        return self.running


class Doors:
    """Every door of a running service that a client may use, and its rooms, opened beside it."""

    def __init__(self, rooms: Services, ca: Path) -> None:
        self.rooms, self.ca = rooms, ca
        self.account = rooms.accounts.first()
        self.key = rooms.accounts.keys(self.account)[0]
        self.base = rooms.settings.endpoint
        self.token = rooms.access.issue_token(name="tests", audience=rooms.settings.arm_audience)

        self._clients: list[openai.OpenAI] = []

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def _kept(self, client: ClientT) -> ClientT:
        self._clients.append(client)
        return client

    def azure(self, **more: Any) -> openai.AzureOpenAI:
        given = {"azure_endpoint": self.base, "api_key": self.key, "api_version": VERSION, "max_retries": 0, **more}
        return self._kept(openai.AzureOpenAI(**given))

    def v1(self, **more: Any) -> openai.OpenAI:
        return self._kept(
            openai.OpenAI(**{"base_url": f"{self.base}/openai/v1/", "api_key": self.key, "max_retries": 0, **more})
        )

    def http(self, method: str, path: str, **more: Any) -> requests.Response:
        """A data-plane request with key and version; `params` and `headers` replace them."""
        given = {"params": {"api-version": VERSION}, "headers": {"api-key": self.key}, "timeout": PATIENCE, **more}
        return requests.request(method, self.base + path, **given)

    def arm(self, method: str, path: str = "", **more: Any) -> requests.Response:
        """A control-plane request below this account; see `management`."""
        return self.management(method, self.account.arm_id + path, **more)

    def management(self, method: str, path: str, **more: Any) -> requests.Response:
        """A control-plane request over TLS, checked against the service's own CA."""
        given = {
            "params": {"api-version": "2023-05-01"},
            "headers": {"Authorization": f"Bearer {self.token}"},
            "verify": str(self.ca),
            "timeout": PATIENCE,
            **more,
        }
        return requests.request(method, self.rooms.settings.tls_endpoint + path, **given)


class LiveService(Doors):
    """A running service with one worker, and the fakes at its seams."""

    def __init__(self, rooms: Services, engines: FakeEngines, trainer: FakeTrainer, ca: Path) -> None:
        super().__init__(rooms, ca)
        self.engines, self.trainer = engines, trainer


@contextmanager
def live_service(
    home: Path, *, with_studio: bool = False, planner: Planner | None = None, **options: Any
) -> Iterator[LiveService]:
    """`with_studio`: with the pages, of which a process has one set at most. `planner`: in place of the real one."""
    port, tls_port = free_ports(2)
    given = {"models": home / "models", "port": port, "tls_port": tls_port, **options}
    settings = Settings(home=home, studio=with_studio, **given)
    rooms = wiring.services(settings)
    if planner is not None:
        planned = Estimates(rooms.store, settings, rooms.files, rooms.jobs, planner)
        rooms = dataclasses.replace(rooms, estimates=planned)
    engines, trainer = FakeEngines(), FakeTrainer()
    stopping = threading.Event()
    worker = Worker(Bench(rooms.store, settings, rooms.catalog, rooms.files, rooms.imports, trainer, stopping))
    paths = certificates.ensure(home / "tls")
    ready, loop_box = threading.Event(), {}
    web = threading.Thread(target=lambda: asyncio.run(_serve(rooms, engines, paths, ready, loop_box)))
    work = threading.Thread(target=worker.run)
    web.start()
    work.start()
    try:
        until(lambda: ready.is_set() or not web.is_alive())
        assert ready.is_set(), "the service didn't start"
        with contextlib.closing(LiveService(rooms, engines, trainer, paths.ca)) as service:
            yield service
    finally:
        loop_box.get("stop", lambda: None)()
        worker.stop()
        web.join()
        work.join()
        rooms.close()


async def _serve(
    rooms: Services, engines: FakeEngines, paths: certificates.Certificates, ready: threading.Event, box: dict[str, Any]
) -> None:
    settings = rooms.settings
    application = app.web(rooms, engines)  # type: ignore[arg-type]
    if settings.studio:
        mount.install(application, app.studio_of(rooms, application))
    common: dict[str, Any] = {"host": "127.0.0.1", "http": "h11", "lifespan": "off", "log_level": "warning"}
    common["timeout_graceful_shutdown"] = 1  # pages keep their sockets open
    ports: list[Port] = []

    def stop() -> None:
        for port in ports:
            port.should_exit = True

    box["stop"] = stop
    async with application.router.lifespan_context(application):
        ports += [
            Port(uvicorn.Config(app.entrance(application), port=settings.port, **common)),
            Port(
                uvicorn.Config(
                    app.entrance(application),
                    port=settings.tls_port,
                    ssl_certfile=paths.certificate,
                    ssl_keyfile=paths.key,
                    **common,
                )
            ),
        ]
        serving = [asyncio.create_task(port.serve()) for port in ports]
        while not all(port.started for port in ports):
            await asyncio.sleep(0.01)
        ready.set()
        await asyncio.gather(*serving)


def free_ports(count: int) -> list[int]:
    """Different ones: taken one after the other, two may be the same."""
    with contextlib.ExitStack() as open_:
        probes = [open_.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
