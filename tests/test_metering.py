"""What deployments took is counted once, kept through restarts and safe to open in a spreadsheet."""

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from tests.fake_training import FakeClock
from tests.test_queue import add_account
from tests.test_quotas import DEPLOYMENT
from tunery import metering
from tunery.messages import Done
from tunery.metering import Counts, Meter, Metered, cell
from tunery.store import Store
from tunery.store.tables import deployments

DONE = Done(id="x", prompt_tokens=10, completion_tokens=5, cached_tokens=4)
ONE = Metered(1, "d", 100, "m")


@pytest.fixture
def meter(store: Store) -> Meter:
    for number in (1, 2):
        add_account(store, number)
    return Meter(store)


def add_deployment(store: Store, name: str, account: int = 1, state: str = "Succeeded") -> None:
    row = {**DEPLOYMENT, "account_id": account, "name": name, "name_folded": name, "state": state, "created_at": 100}
    with store.database.begin() as connection:
        connection.execute(sa.insert(deployments).values(row))


def test_counts_add_up_and_are_there_after_a_restart(store: Store, meter: Meter) -> None:
    for _ in range(3):
        meter.count(ONE, DONE)
    meter.flush()
    meter.count(ONE, DONE)
    meter.flush()
    assert Meter(store).of(1, "d", 100) == Counts(4, 40, 16, 20, 0.0)


def test_asking_for_a_deployment_s_counts_includes_this_moment(meter: Meter) -> None:
    meter.count(ONE, DONE)
    assert meter.of(1, "d", 100).requests == 1


def test_only_deployments_that_answer_are_hosted(store: Store, meter: Meter) -> None:
    add_deployment(store, "d")
    add_deployment(store, "broken", state="Failed")
    for _ in range(2):
        meter.flush(60.0)
    assert meter.of(1, "d", 100).hosted_seconds == 120
    assert meter.of(1, "broken", 100).hosted_seconds == 0


def test_another_deployment_of_the_same_name_begins_at_zero(meter: Meter) -> None:
    meter.count(ONE, DONE)
    meter.count(ONE._replace(made_at=200), DONE)
    meter.count(ONE._replace(made_at=200), DONE)
    assert meter.of(1, "d", 200).requests == 2


def test_days_are_kept_apart_and_summed_on_demand(store: Store, meter: Meter, clock: FakeClock) -> None:
    for _ in range(3):
        meter.count(ONE, DONE)
        meter.flush()
        clock.advance(86_400)
    found = meter.days(since=metering.today(store, 3))
    assert [day.requests for day in found] == [1, 1, 1]
    [total] = metering.totals(found)
    assert (total.requests, total.prompt_tokens, total.day) == (3, 30, found[-1].day)
    assert len(meter.days(since=metering.today(store, 1))) == 1


def test_a_deployment_s_days_are_told_one_by_one(meter: Meter, clock: FakeClock) -> None:
    for _ in range(3):
        meter.count(ONE, DONE)
        meter.flush()
        clock.advance(2 * 86_400)
    meter.count(ONE._replace(name="e"), DONE)
    meter.count(ONE, DONE)
    meter.count(ONE, DONE)
    assert [counts.requests for counts in meter.daily(1, "d", 100, days=5).values()] == [1, 1, 2]
    assert list(meter.daily(1, "d", 100, days=1).values()) == [Counts(2, 20, 8, 10, 0.0)]


def test_one_account_s_days_are_its_own(store: Store, meter: Meter) -> None:
    meter.count(ONE, DONE)
    meter.count(ONE._replace(account_id=2, name="e"), DONE)
    meter.flush()
    assert [day.deployment for day in meter.days(since="2000-01-01", account="A2")] == ["e"]
    assert len(meter.days(since="2000-01-01")) == 2


def test_counts_that_could_not_be_written_are_written_later(store: Store, meter: Meter) -> None:
    meter.count(ONE, DONE)
    with store.database.begin() as connection:
        connection.execute(sa.text("ALTER TABLE meters RENAME TO elsewhere"))
    with pytest.raises(sa.exc.OperationalError):
        meter.flush()
    meter.count(ONE, DONE)
    with store.database.begin() as connection:
        connection.execute(sa.text("ALTER TABLE elsewhere RENAME TO meters"))
    assert meter.of(1, "d", 100).requests == 2


def test_an_account_that_is_gone_stops_nobody_else_s_counts(meter: Meter) -> None:
    meter.count(ONE._replace(account_id=99), DONE)
    meter.count(ONE, DONE)
    meter.flush()
    assert len(meter.days(since="2000-01-01")) == 1


@given(st.text(max_size=20), st.sampled_from(["", *metering.HAZARDS]))
def test_no_cell_of_text_is_a_formula(text: str, start: str) -> None:
    safe = cell(start + text)
    assert not safe.startswith(metering.HAZARDS)
    assert safe.endswith(start + text)


def test_a_row_has_safe_text_and_bare_numbers(store: Store, meter: Meter) -> None:
    meter.count(ONE._replace(model='=HYPERLINK("x")'), DONE)
    add_deployment(store, "d")
    meter.flush(1800.0)
    [header, row] = metering.rows(meter.days(since="2000-01-01"), daily=False)
    assert dict(zip(header, row, strict=True)) == {
        "account": "a1",
        "deployment": "d",
        "model": row[2],
        "requests": 1,
        "prompt_tokens": 10,
        "cached_tokens": 4,
        "completion_tokens": 5,
        "hosting_hours": 0.5,
    }
    assert msgspec.json.encode(row[3:]) == b"[1,10,4,5,0.5]"
