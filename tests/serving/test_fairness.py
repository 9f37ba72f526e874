from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tunery.serving.fairness import shares

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
