from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tunery.serving.fairness import TokenCounters, shares

WISHES = st.lists(st.integers(0, 1000), max_size=8)


@given(WISHES, st.integers(0, 2000), st.integers(1, 100))
def test_shares_use_the_budget_and_nobody_gets_more_than_wished(wanted: list[int], budget: int, least: int) -> None:
    parts = shares(wanted, budget, least=least)
    assert sum(parts) == min(sum(wanted), budget)
    assert all(0 <= part <= wish for part, wish in zip(parts, wanted, strict=True))


@given(WISHES, st.integers(0, 2000))
def test_nobody_gets_less_than_another_who_wanted_less(wanted: list[int], budget: int) -> None:
    ranked = sorted(zip(wanted, shares(wanted, budget), strict=True))
    assert all(part + 1 >= before for (_, before), (_, part) in pairwise(ranked))


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 1000))
def test_what_was_served_before_an_idle_time_is_nobody_s_debt(first: int, second: int, since: int) -> None:
    counters = TokenCounters()
    for owner, tokens in (("often here", first), ("now and then", second)):
        counters.join(owner, ())
        counters.charge(owner, tokens)
    counters.join("new", ())
    counters.charge("new", since)
    for owner in ("often here", "now and then"):
        counters.join(owner, ("new",))
        assert counters.served(owner) == counters.served("new")
