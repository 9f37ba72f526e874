"""The inference API alone on a real server, with a scripted engine behind it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tests.fakes import FakeDeployments, FakeGenerator, Script, running, says, serving
from tests.waiting import PATIENCE
from tunery import api
from tunery.access import Access
from tunery.accounts import Accounts
from tunery.api import inference
from tunery.api.wire import Tolerance
from tunery.deployments import Serving
from tunery.errors import EngineUnavailable, TuneryError
from tunery.messages import Generate
from tunery.metering import Meter
from tunery.settings import Settings
from tunery.store import Store
from tunery.store.blobs import FolderBlobs
from tunery.store.database import Database
from tunery.throttle import Throttle

CLASSIC = "/openai/deployments/{}/{}?api-version=2024-10-21"
V1 = "/openai/v1/{}"


@dataclass
class Service:
    """A running server.

    Deployments: `talk` (chat), `write` (completion), `both`, `small` (64 tokens), `loading`, `limited` (one unit).
    """

    url: str
    key: str
    app: FastAPI
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=self.url, headers={"api-key": self.key}, timeout=PATIENCE)

    def plays(self, script: Script) -> FakeGenerator:
        """From now on the engine answers so."""
        generator = FakeGenerator(script)
        self.app.state.generator = generator
        return generator

    def chat(self, deployment: str = "talk", **body: object) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": "Hello?"}], **body}
        return self.http.post(CLASSIC.format(deployment, "chat/completions"), json=body)

    def complete(self, deployment: str = "write", **body: object) -> httpx.Response:
        return self.http.post(CLASSIC.format(deployment, "completions"), json=body)

    def asked(self) -> Generate:
        """The engine's last request."""
        generator: FakeGenerator = self.app.state.generator
        return generator.requests[-1]


@contextlib.contextmanager
def served(home: Path, deployments: dict[str, Serving | TuneryError], lifespan: Any = None) -> Iterator[Service]:
    settings = Settings(home=home)
    database = Database(f"sqlite:///{home / 'tunery.sqlite'}")
    database.migrate()
    store = Store(database, FolderBlobs(home / "blobs"))
    accounts = Accounts(store, settings)
    account = accounts.first()
    app = FastAPI(redirect_slashes=False, lifespan=lifespan)
    app.include_router(inference.router)
    api.install(app)
    app.state.settings, app.state.accounts = settings, accounts
    app.state.access = Access(store, settings, accounts)
    app.state.throttle, app.state.meter = Throttle(settings), Meter(store)
    app.state.deployments = FakeDeployments(account.id, **deployments)
    with running(Tolerance(app, region="local")) as url:
        service = Service(url, accounts.keys(account)[0], app)
        with service.http:
            yield service
    database.close()


@pytest.fixture(scope="session")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    deployments: dict[str, Serving | TuneryError] = {
        "talk": serving("talk", "chat"),
        "write": serving("write", "completion"),
        "both": serving("both"),
        "int8": serving("talk", "chat", quantization="int8"),
        "small": serving("small", context_length=64),
        "loading": EngineUnavailable(),
        "limited": serving("limited", units=1),
    }
    with served(tmp_path_factory.mktemp("inference"), deployments) as service:
        yield service


@pytest.fixture
def service(shared_service: Service) -> Service:
    shared_service.plays(says("Hello", " there", "."))
    return shared_service
