"""The idle rule: after 15 days of the service's own time without a call, whatever wall clocks say; never earlier."""

import threading

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.fake_training import FakeClock
from tests.test_worker import BASE, Shop
from tunery import uptime
from tunery.deploying import Deployer, Wanted
from tunery.deployments import Deployments
from tunery.errors import DeploymentNotFound
from tunery.idle import IdleRule
from tunery.records import Account, Deployment, DeploymentState
from tunery.settings import Settings
from tunery.store import Store
from tunery.store.database import one
from tunery.store.tables import accounts, deployments
from tunery.uptime import LONGEST_TICK, Uptime

HOUR, DAY, YEAR = 3600, 86_400, 365 * 86_400
IDLE = 15 * DAY
NEAR = 2 * LONGEST_TICK
"""How much later than the rule says a deployment may go."""


class House:
    """A service without its ports: it runs for as long as it is told to, beside a wall clock that anybody may set."""

    def __init__(self, store: Store, settings: Settings, clock: FakeClock) -> None:
        self.shop, self.store, self.settings, self.clock = Shop(store, settings), store, settings, clock
        self.monotonic = FakeClock(0.0)
        self.deployments = Deployments(store, settings, self.shop.catalog)
        self.deployer = Deployer(store, settings, self.shop.catalog)
        self.restart()

    def restart(self) -> None:
        self.uptime = Uptime(self.store, self.monotonic)
        self.uptime.start()

    def runs(self, seconds: float) -> None:
        """As so many ticks would, without writing each."""
        self.clock.advance(seconds)
        with self.store.database.begin() as connection:
            connection.execute(sa.text("UPDATE uptime SET seconds = seconds + :seconds"), {"seconds": seconds})

    def deploy(self, name: str = "d", model: str | None = None, sku: str = "Standard") -> Deployment:
        model = model or self.shop.tune().fine_tuned_model
        assert model is not None
        with self.store.database.read() as connection:
            account = one(connection, Account, sa.select(accounts).where(accounts.c.id == 1))
        assert account is not None
        made, _ = self.deployer.put(account, name, Wanted(model=model, sku_name=sku), by="tests")
        with self.store.database.begin() as connection:
            connection.execute(sa.update(deployments).values(state=DeploymentState.SUCCEEDED))
        return made

    def sweep(self, **changed: int) -> list[str]:
        rule = IdleRule(self.store, msgspec.structs.replace(self.settings, **changed))
        return [deployment.name for deployment in rule.sweep()]

    def idle_events(self) -> list[str]:
        job = self.shop.jobs.page(1)[0][0]
        return [message for message in self.shop.messages(job) if "deployment" in message]


@pytest.fixture
def house(store: Store, settings: Settings, clock: FakeClock) -> House:
    return House(store, settings, clock)


def test_after_15_days_without_a_call_the_deployment_goes_and_its_model_stays(house: House) -> None:
    made = house.deploy()
    house.runs(IDLE)
    assert house.sweep() == []
    house.runs(NEAR)
    assert house.sweep() == ["d"]
    assert house.shop.catalog.tuned_model(1, made.model) is not None
    assert house.deploy(model=made.model).name == "d"


def test_a_call_buys_15_more_days(house: House) -> None:
    house.deploy()
    house.runs(14 * DAY)
    house.deployments.serve(1, "d")
    house.runs(14 * DAY)
    assert house.sweep() == []
    house.runs(DAY + NEAR)
    assert house.sweep() == ["d"]


def test_a_clock_that_jumps_a_year_ahead_and_back_deletes_nothing(house: House) -> None:
    house.deploy()
    for jump in (YEAR, -YEAR, -YEAR, YEAR):
        house.clock.advance(jump)
        assert house.sweep() == []
        house.deployments.serve(1, "d")
    assert house.idle_events() == []
    house.runs(IDLE + NEAR)
    assert house.sweep() == ["d"]


def test_a_call_counts_when_the_wall_clock_was_set_back_to_the_last_one(house: House) -> None:
    house.deploy()
    house.runs(HOUR)
    house.deployments.serve(1, "d")
    house.runs(14 * DAY)
    house.clock.advance(-14 * DAY)
    house.deployments.serve(1, "d")
    house.runs(14 * DAY)
    assert house.sweep() == []


def test_days_in_which_the_service_was_off_don_t_count(house: House) -> None:
    house.deploy()
    house.runs(14 * DAY)
    house.clock.advance(30 * DAY)
    house.monotonic.now = 0.0
    house.restart()
    assert house.sweep() == []
    house.runs(DAY + NEAR)
    assert house.sweep() == ["d"]


def test_time_before_a_call_that_is_counted_after_it_makes_the_deployment_no_older(house: House) -> None:
    house.deploy()
    since_the_last_tick = 60
    house.deployments.serve(1, "d")
    house.runs(since_the_last_tick + IDLE - 1)
    assert house.sweep() == []


STEP = st.one_of(
    st.tuples(st.just("run"), st.integers(0, 8 * DAY)),
    st.tuples(st.just("set the clock"), st.integers(-2 * YEAR, 2 * YEAR)),
    st.tuples(st.just("crash"), st.integers(0, 60)),
    st.tuples(st.just("call"), st.just(0)),
)


@given(steps=st.lists(STEP, max_size=12))
@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens_it_goes_not_before_and_not_long_after(house: House, steps: list[tuple[str, int]]) -> None:
    models = house.shop.catalog.tuned(1)
    house.deployments.delete(1, "d")
    house.deploy(model=models[0].name if models else None)
    ran = lost = 0
    for what, amount in steps:
        if what == "run":
            house.runs(amount)
            ran += amount
        elif what == "set the clock":
            house.clock.advance(amount)
        elif what == "crash":
            lost += amount  # the last minute wasn't counted
            house.restart()
        else:
            house.deployments.serve(1, "d")
            ran = lost = 0
        if house.sweep() == ["d"]:
            assert ran + lost >= IDLE
            return
        assert ran < IDLE + NEAR


@pytest.mark.parametrize("sku", ["DeveloperTier", "developertier", "developer"])
def test_a_developer_s_deployment_lives_for_a_day_however_often_it_is_called(house: House, sku: str) -> None:
    house.deploy(sku=sku)
    for _ in range(24):
        house.runs(HOUR)
        house.deployments.serve(1, "d")
    assert house.sweep() == []
    house.runs(NEAR)
    assert house.sweep() == ["d"]
    assert "lives for 24 hours" in house.idle_events()[-1]


def test_a_developer_s_day_begins_when_the_sku_becomes_one(house: House) -> None:
    house.deploy()
    house.runs(10 * DAY)
    house.deployer.patch(1, "d", sku_name="DeveloperTier", capacity=None, tags=None)
    house.runs(DAY)
    assert house.sweep() == []
    house.runs(NEAR)
    assert house.sweep() == ["d"]


def test_a_deployed_base_stays_whatever_its_sku(house: House) -> None:
    house.deploy("base", model=BASE)
    house.deploy("developer", model=BASE, sku="DeveloperTier")
    house.runs(YEAR)
    assert house.sweep() == []


def test_0_switches_either_rule_off_and_other_numbers_change_it(house: House) -> None:
    house.deploy()
    house.deploy("developer", sku="DeveloperTier")
    house.runs(IDLE + NEAR)
    assert house.sweep(idle_seconds=0, developer_seconds=0) == []
    assert house.sweep(idle_seconds=2 * IDLE, developer_seconds=2 * IDLE) == []
    assert house.sweep(idle_seconds=0) == ["developer"]
    assert house.sweep(idle_seconds=DAY) == ["d"]


def test_the_job_s_events_warn_once_a_day_ahead_and_tell_the_end(house: House) -> None:
    house.deploy()
    house.runs(14 * DAY)
    house.sweep()
    assert house.idle_events() == []
    house.runs(NEAR)
    for _ in range(3):
        house.sweep()
    [warning] = house.idle_events()
    assert "after 24 more hours" in warning and "nobody called it for 15 days" in warning
    house.runs(DAY)
    house.sweep()
    assert "was deleted" in house.idle_events()[1]


def test_after_a_call_the_next_idle_time_is_warned_of_again(house: House) -> None:
    house.deploy()
    for _ in range(2):
        house.runs(14 * DAY + NEAR)
        house.sweep()
        house.deployments.serve(1, "d")
    assert len(house.idle_events()) == 2


def test_a_call_at_the_moment_of_deletion_is_answered_or_finds_nothing(house: House) -> None:
    model = house.deploy().model
    for _ in range(25):
        house.runs(IDLE + NEAR)
        start, gone, answered = threading.Barrier(2), [], []

        def call(start: threading.Barrier = start, answered: list[bool] = answered) -> None:
            start.wait()
            try:
                house.deployments.serve(1, "d")
            except DeploymentNotFound:
                return
            answered.append(True)

        caller = threading.Thread(target=call)
        caller.start()
        start.wait()
        gone = house.sweep()
        caller.join()
        assert bool(gone) != bool(answered)
        if gone:
            house.deploy(model=model)


def test_uptime_is_the_sum_of_all_runs_and_no_tick_counts_days(store: Store) -> None:
    seen = 0.0
    for seconds in (60.0, 59.0, 7 * 86_400.0):
        monotonic = FakeClock(1000.0)
        running = Uptime(store, monotonic)
        running.start()
        monotonic.advance(seconds)
        seen += running.tick()
    with store.database.read() as connection:
        assert uptime.read(connection) == seen == 60 + 59 + LONGEST_TICK


def test_a_monotonic_clock_that_goes_back_takes_nothing_away(store: Store) -> None:
    monotonic = FakeClock(1000.0)
    running = Uptime(store, monotonic)
    running.start()
    monotonic.advance(-500)
    assert running.tick() == 0
    monotonic.advance(30)
    assert running.tick() == 30


def test_of_two_services_on_one_home_only_the_newer_counts(store: Store) -> None:
    monotonic = FakeClock()
    older, newer = Uptime(store, monotonic), Uptime(store, monotonic)
    older.start()
    newer.start()
    monotonic.advance(60)
    assert (older.tick(), newer.tick()) == (0, 60)


def test_the_end_that_is_forecast_is_the_end_that_comes(house: House) -> None:
    house.deploy()
    house.runs(3 * DAY)
    end = IdleRule(house.store, house.settings).ends(house.deployments.all(1))["d"]
    assert not end.developer
    assert end.at == house.clock.now + round(end.seconds)
    house.runs(end.seconds - 1)
    assert house.sweep() == []
    house.runs(1)
    assert house.sweep() == ["d"]


def test_a_developer_s_end_is_forecast_as_the_sku_s_and_a_base_has_none(house: House) -> None:
    house.deploy(sku="DeveloperTier")
    house.deploy("base", model=BASE)
    ends = IdleRule(house.store, house.settings).ends(house.deployments.all(1))
    assert list(ends) == ["d"]
    assert ends["d"].developer
    assert DAY <= ends["d"].seconds <= DAY + NEAR


def test_where_the_rules_are_off_no_end_is_forecast(house: House) -> None:
    house.deploy()
    never = msgspec.structs.replace(house.settings, idle_seconds=0, developer_seconds=0)
    assert IdleRule(house.store, never).ends(house.deployments.all(1)) == {}
