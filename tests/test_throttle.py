"""Requests and tokens a minute: never more than they may be, and nobody waits for ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fake_training import FakeClock
from tunery.errors import RateLimited
from tunery.messages import Generate
from tunery.settings import Settings
from tunery.throttle import MINUTE, UNSTATED_TOKENS, Bucket, Throttle, reserved_tokens

SIZES = st.integers(1, 5000)
STEPS = st.lists(st.tuples(st.floats(0, 90), SIZES), min_size=1, max_size=40)


def admitted(bucket: Bucket, steps: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """Who was let through and when, if each asks once and goes away when it is refused."""
    now, let_through = 0.0, []
    for pause, amount in steps:
        now += pause
        if bucket.wait(amount, now) == 0:
            bucket.take(amount, now)
            let_through.append((now, amount))
    return let_through


@given(size=SIZES, steps=STEPS)
def test_over_any_time_no_more_is_taken_than_a_bucket_the_inflow_and_one_debt(
    size: int, steps: list[tuple[float, int]]
) -> None:
    taken = admitted(Bucket(size, 0.0), steps)
    for first in range(len(taken)):
        total = 0
        for now, amount in taken[first:]:
            total += amount
            inflow = (now - taken[first][0]) * size / MINUTE
            assert total <= size + inflow + max(0, amount - size) + 1e-6


@given(size=SIZES, steps=STEPS, amount=SIZES)
def test_who_comes_back_after_the_wait_that_it_was_told_is_let_through(
    size: int, steps: list[tuple[float, int]], amount: int
) -> None:
    bucket = Bucket(size, 0.0)
    admitted(bucket, steps)
    now = sum(pause for pause, _ in steps)
    wait = bucket.wait(amount, now)
    assert bucket.wait(amount, now + wait + 1e-3) == 0


@given(size=SIZES, steps=STEPS)
def test_every_tenth_that_waits_is_enough_for_all(size: int, steps: list[tuple[float, int]]) -> None:
    bucket, now = Bucket(size, 0.0), 0.0
    for _, amount in steps:
        now += bucket.wait(amount, now) + 1e-3
        assert bucket.wait(amount, now) == 0
        bucket.take(amount, now)
    total = sum(amount for _, amount in steps)
    assert now <= total * MINUTE / size + len(steps) * 1e-3 + MINUTE


@given(
    size=SIZES,
    requests=st.lists(st.tuples(st.floats(0, 90), SIZES, st.floats(0, 1)), min_size=1, max_size=40),
)
def test_what_was_used_stays_below_the_inflow_when_the_rest_is_given_back(
    size: int, requests: list[tuple[float, int, float]]
) -> None:
    bucket, now, used, largest = Bucket(size, 0.0), 0.0, 0.0, 0
    for pause, reserved, share in requests:
        now += pause
        if bucket.wait(reserved, now) == 0:
            bucket.take(reserved, now)
            bucket.take(reserved * share - reserved, now)
            used, largest = used + reserved * share, max(largest, reserved)
            assert used <= size + now * size / MINUTE + max(0, largest - size) + 1e-6


@pytest.fixture
def throttle(settings: Settings, clock: FakeClock) -> Throttle:
    return Throttle(settings, clock)


def test_a_unit_is_six_requests_and_a_thousand_tokens_a_minute(throttle: Throttle, clock: FakeClock) -> None:
    for left in range(5, -1, -1):
        allowance = throttle.admit("1", "d", 1, 100).allowance
        assert allowance == (6, left, 1000, 1000 - 100 * (6 - left))
    with pytest.raises(RateLimited, match="call rate limit of 6 a minute") as refused:
        throttle.admit("1", "D", 1, 100)
    assert refused.value.retry_after == pytest.approx(10)
    clock.advance(10)
    throttle.admit("1", "d", 1, 100)


def test_the_tokens_of_a_refused_request_stay_and_the_wait_is_the_longer_one(throttle: Throttle) -> None:
    throttle.admit("1", "d", 1, 900)
    for _ in range(3):
        with pytest.raises(RateLimited, match="token rate limit of 1000 a minute") as refused:
            throttle.admit("1", "d", 1, 200)
    assert refused.value.retry_after == pytest.approx(6)
    assert refused.value.allowance == (6, 5, 1000, 100)


def test_what_was_reserved_and_not_used_is_given_back_and_what_was_used_beyond_is_a_debt(
    throttle: Throttle, clock: FakeClock
) -> None:
    throttle.admit("1", "d", 1, 1000).settle(400)
    ticket = throttle.admit("1", "d", 1, 600)
    ticket.settle(1100)
    with pytest.raises(RateLimited) as refused:
        throttle.admit("1", "d", 1, 1)
    assert refused.value.retry_after == pytest.approx(60 * 501 / 1000)


def test_a_request_larger_than_a_minute_gets_a_whole_minute_and_not_nothing(
    throttle: Throttle, clock: FakeClock
) -> None:
    throttle.admit("1", "d", 1, 3000)
    clock.advance(179)
    with pytest.raises(RateLimited):
        throttle.admit("1", "d", 1, 3000)
    clock.advance(1)
    throttle.admit("1", "d", 1, 3000)


def test_deployments_and_accounts_don_t_share_buckets_and_a_new_capacity_counts_at_once(throttle: Throttle) -> None:
    throttle.admit("1", "d", 1, 1000)
    throttle.admit("2", "d", 1, 1000)
    throttle.admit("1", "e", 1, 1000)
    assert throttle.admit("1", "d", 2, 1000).allowance == (12, 11, 2000, 1000)


def test_without_capacity_or_with_the_setting_0_there_is_no_limit(settings: Settings, clock: FakeClock) -> None:
    assert Throttle(settings, clock).admit("1", "d", None, 10**9).allowance is None
    off = Throttle(Settings(home=settings.home, tokens_per_unit=0), clock)
    assert off.admit("1", "d", 1, 10**9).allowance is None


def test_full_buckets_are_forgotten_and_others_kept(throttle: Throttle, clock: FakeClock) -> None:
    throttle.admit("1", "d", 1, 1000)
    throttle.tidy()
    with pytest.raises(RateLimited):
        throttle.admit("1", "d", 1, 1000)
    clock.advance(60)
    throttle.tidy()
    assert throttle.admit("1", "d", 1, 0).allowance == (6, 5, 1000, 1000)


@pytest.mark.parametrize(
    ("request_", "tokens"),
    [
        (Generate(id="x", owner="1", prompts=["a" * 400, "b" * 400], best_of=3, max_tokens=10), 100 * 2 + 1 + 60),
        (Generate(id="x", owner="1", prompts=[[1, 2, 3]], max_tokens=10), 13),
        (Generate(id="x", owner="1", prompts=[""]), UNSTATED_TOKENS),
        (Generate(id="x", owner="1", messages=[{"role": "user", "content": "x" * 4000}], max_tokens=0), 1008),
    ],
)
def test_a_reservation_is_the_prompt_s_length_and_the_longest_answers(request_: Generate, tokens: int) -> None:
    assert reserved_tokens(request_) == pytest.approx(tokens, abs=3)
