import asyncio
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from tests.live import LiveService, live_service
from tests.waiting import until
from tunery import app, wiring
from tunery.catalog import BUNDLED
from tunery.deploying import Wanted
from tunery.errors import EngineStopped, InvalidRequest, TuneryError
from tunery.messages import Adapter
from tunery.records import DeploymentState
from tunery.rooms import Services
from tunery.settings import Settings
from tunery.weights import Agreement, Weights


class Mounter:
    """Fails as it is told, then answers."""

    def __init__(self, *failures: TuneryError) -> None:
        self.failures = list(failures)
        self.started = self.at_once = self.most_at_once = 0

    async def mount(self, _weights: Weights, _adapter: Adapter | None) -> None:
        self.started += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if self.failures:
            raise self.failures.pop(0)


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Services]:
    rooms = wiring.services(Settings(home=tmp_path))
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


def test_an_outcome_of_weights_that_are_no_longer_wanted_settles_nothing(rooms: Services) -> None:
    account, measured = (
        rooms.accounts.first(),
        Agreement(places=2, same_token=1, mean_difference=0.1, largest_difference=1),
    )

    class Slow:
        """Others are wanted while the first are brought up."""

        async def mount(self, weights: Weights, _adapter: Adapter | None) -> Agreement | None:
            wanted = Wanted(model=BUNDLED, quantization="int8")
            rooms.deployer.put(account, "d0", wanted, by="test")
            return measured if weights.quantization else None

    assert reconcile(rooms, Slow()) == [DeploymentState.CREATING]
    asyncio.run(rooms.deployments.reconcile(Slow(), run_sync=anyio.to_thread.run_sync))
    [settled] = rooms.deployments.all(account.id)
    assert (settled.state, settled.agreement) == (DeploymentState.SUCCEEDED, measured)


def test_weights_are_needed_by_what_answers_or_soon_will(rooms: Services) -> None:
    account = rooms.accounts.first()
    assert rooms.deployments.weights() == set()
    assert reconcile(rooms, Mounter()) == [DeploymentState.SUCCEEDED]
    assert rooms.deployments.weights() == {Weights(BUNDLED)}
    rooms.deployer.put(account, "d0", Wanted(model=BUNDLED, quantization="int8"), by="test")
    assert rooms.deployments.weights() == {Weights(BUNDLED, "int8")}
    assert reconcile(rooms, Mounter(TuneryError("broken"))) == [DeploymentState.FAILED]
    assert rooms.deployments.weights() == set()


@pytest.mark.parametrize("elsewhere", [{"engine": "vllm"}, {"device": "cuda"}])
def test_int8_is_refused_where_no_engine_of_this_service_has_it(tmp_path: Path, elsewhere: dict[str, str]) -> None:
    rooms = wiring.services(Settings(home=tmp_path, **elsewhere))
    with pytest.raises(InvalidRequest, match="own engine on the CPU") as refused:
        rooms.deployer.put(rooms.accounts.first(), "d", Wanted(model=BUNDLED, quantization="int8"), by="test")
    assert refused.value.param == "quantization"
    assert rooms.deployments.all(rooms.accounts.first().id) == []
    rooms.close()


def test_what_was_brought_up_settles_no_other_model_that_got_the_name_meanwhile(rooms: Services) -> None:
    account = rooms.accounts.first()

    class Swapping(Mounter):
        async def mount(self, weights: Weights, adapter: Adapter | None) -> None:
            await super().mount(weights, adapter)
            rooms.deployments.delete(account.id, "d0")
            rooms.deployer.put(account, "d0", Wanted(model="davinci-002"), by="test")

    assert reconcile(rooms, Swapping()) == [DeploymentState.CREATING]


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveService]:
    monkeypatch.setattr(app, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(app, "HOUSEKEEPING_SECONDS", 0.01)
    with live_service(tmp_path / "home") as service:
        yield service


def test_engines_are_told_which_weights_are_needed(service: LiveService) -> None:
    made = {"properties": {"model": {"name": BUNDLED}, "quantization": "int8"}}
    service.arm("PUT", "/deployments/needed", json=made)
    until(lambda: service.engines.kept == {Weights(BUNDLED, "int8")})
    service.arm("DELETE", "/deployments/needed")
    until(lambda: service.engines.kept == set())


def test_a_full_disk_while_a_deployment_is_brought_up_ends_neither_the_service_nor_the_deployment(
    service: LiveService, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [OSError("no space left on device")]

    async def mount(_weights: Weights, _adapter: Adapter | None) -> None:
        if failures:
            raise failures.pop()

    monkeypatch.setattr(service.engines, "mount", mount)
    body = {"sku": {"name": "Standard"}, "properties": {"model": {"name": BUNDLED, "format": "OpenAI"}}}
    assert service.arm("PUT", "/deployments/base", json=body).status_code == 201
    while (state := service.arm("GET", "/deployments/base").json()["properties"]["provisioningState"]) == "Creating":
        pass
    assert (state, failures) == ("Succeeded", [])
