import asyncio
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from tests.live import LiveService, live_service
from tunery import app
from tunery.catalog import BUNDLED
from tunery.deploying import Wanted
from tunery.errors import EngineStopped, TuneryError
from tunery.messages import Adapter
from tunery.records import DeploymentState
from tunery.rooms import Services
from tunery.settings import Settings


class Mounter:
    """Fails as it is told, then answers."""

    def __init__(self, *failures: TuneryError) -> None:
        self.failures = list(failures)
        self.started = self.at_once = self.most_at_once = 0

    async def start(self, _base_name: str) -> None:
        self.started += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if self.failures:
            raise self.failures.pop(0)

    async def mount(self, _base_name: str, _adapter: Adapter) -> None:
        raise AssertionError("only bases are deployed here")


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Services]:
    rooms = app.services(Settings(home=tmp_path))
    yield rooms
    rooms.close()


def reconcile(rooms: Services, mounter: Mounter, deployments: int = 1) -> list[DeploymentState]:
    account = rooms.accounts.first()
    for number in range(deployments):
        rooms.deployer.put(account, f"d{number}", Wanted(model=BUNDLED), by="test")
    settled = asyncio.run(rooms.deployments.reconcile(mounter, run_sync=anyio.to_thread.run_sync))
    assert settled == deployments
    return [one.state for one in rooms.deployments.all(account.id)]


def test_a_deployment_whose_engine_is_killed_while_it_is_brought_up_is_brought_up_again(rooms: Services) -> None:
    assert reconcile(rooms, Mounter(EngineStopped())) == [DeploymentState.SUCCEEDED]


def test_a_deployment_that_stops_every_engine_fails_in_the_end(rooms: Services) -> None:
    mounter = Mounter(*(EngineStopped() for _ in range(100)))
    assert reconcile(rooms, mounter) == [DeploymentState.FAILED]
    assert mounter.started < 10


def test_a_refusal_is_final_and_the_others_go_on(rooms: Services) -> None:
    states = reconcile(rooms, Mounter(TuneryError("another adapter")), deployments=3)
    assert sorted(states) == [DeploymentState.FAILED, DeploymentState.SUCCEEDED, DeploymentState.SUCCEEDED]


def test_many_deployments_are_brought_up_a_few_at_a_time(rooms: Services) -> None:
    mounter = Mounter()
    assert set(reconcile(rooms, mounter, deployments=20)) == {DeploymentState.SUCCEEDED}
    assert 1 < mounter.most_at_once < 5


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveService]:
    monkeypatch.setattr(app, "AGAIN_SECONDS", 0.01)
    with live_service(tmp_path / "home") as service:
        yield service


def test_a_full_disk_while_a_deployment_is_brought_up_ends_neither_the_service_nor_the_deployment(
    service: LiveService, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [OSError("no space left on device")]

    async def start(_base_name: str) -> None:
        if failures:
            raise failures.pop()

    monkeypatch.setattr(service.engines, "start", start)
    body = {"sku": {"name": "Standard"}, "properties": {"model": {"name": BUNDLED, "format": "OpenAI"}}}
    assert service.arm("PUT", "/deployments/base", json=body).status_code == 201
    while (state := service.arm("GET", "/deployments/base").json()["properties"]["provisioningState"]) == "Creating":
        pass
    assert (state, failures) == ("Succeeded", [])
