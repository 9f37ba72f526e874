"""How fast this service is, from the jobs it finished."""

import pytest

from tunery import rates
from tunery.rates import Measured
from tunery.store import Store


def remember(store: Store, *speeds: float, base: str = "b", device: str = "cpu") -> None:
    with store.database.begin() as connection:
        for speed in speeds:
            rates.remember(connection, base, device, Measured(flops=speed * 50, bytes=1000, seconds=50.0))


def learned(store: Store, base: str = "b", device: str = "cpu") -> rates.Rate | None:
    with store.database.read() as connection:
        return rates.learned(connection, base, device)


def test_before_any_job_nothing_is_known_and_after_one_no_error_yet(store: Store) -> None:
    assert learned(store) is None
    remember(store, 4e9)
    assert learned(store) == rates.Rate(flops=4e9, low=None, high=None, jobs=1)


def test_the_error_is_that_which_each_job_s_forecast_would_have_had(store: Store) -> None:
    remember(store, 4e9, 5e9)
    rate = learned(store)
    assert rate is not None
    assert (rate.flops, rate.low, rate.high) == (4.5e9, pytest.approx(0.8), pytest.approx(1.25))
    assert rate.seconds(9e9) == 2.0


def test_equally_fast_jobs_leave_no_error_and_only_the_last_five_count(store: Store) -> None:
    remember(store, 1e9, 4e9, 4e9, 4e9, 4e9, 4e9)
    assert learned(store) == rates.Rate(flops=4e9, low=1.0, high=1.0, jobs=5)


def test_bases_and_devices_are_learned_apart(store: Store) -> None:
    remember(store, 4e9)
    remember(store, 9e9, device="cuda")
    assert learned(store, base="other") is None
    found = learned(store, device="cuda")
    assert found is not None
    assert found.flops == 9e9
