"""Hyperparameters: both spellings, all bounds with their sentences, and what automatic becomes."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunery import recipe
from tunery.bases import BaseModel
from tunery.errors import InvalidRequest
from tunery.messages import Dpo
from tunery.recipe import Recipe, Requested

BASE = BaseModel(name="base", directory="", learning_rate=2e-4, largest_batch=32)


def parse(hyperparameters: dict[str, Any] | None = None, method: dict[str, Any] | None = None) -> Requested:
    return recipe.parse(hyperparameters, method, base=BASE)


def supervised(**hyperparameters: Any) -> dict[str, Any]:
    return {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}


def dpo(beside: dict[str, Any] | None = None, **hyperparameters: Any) -> dict[str, Any]:
    return {"type": "dpo", "dpo": {**(beside or {}), "hyperparameters": hyperparameters}}


@pytest.mark.parametrize("automatic", ["auto", -1, -1.0, None])
def test_automatic_has_four_spellings(automatic: Any) -> None:
    names = ("n_epochs", "batch_size", "learning_rate_multiplier")
    assert parse(dict.fromkeys(names, automatic)) == parse({}) == parse(None) == Requested()


def test_numbers_are_taken_from_either_place() -> None:
    given = {"n_epochs": 3, "batch_size": 8.0, "learning_rate_multiplier": 1}
    expected = Requested(n_epochs=3, batch_size=8, learning_rate_multiplier=1.0)
    assert parse(given) == parse(None, supervised(**given)) == expected


def test_the_method_wins_over_the_older_place() -> None:
    assert parse({"n_epochs": 3, "batch_size": 2}, supervised(n_epochs=4)) == Requested(n_epochs=4, batch_size=2)


@pytest.mark.parametrize(
    "method", [{}, {"type": "supervised"}, {"supervised": None}, {"type": "supervised", "dpo": None}]
)
def test_a_method_may_leave_everything_automatic(method: dict[str, Any]) -> None:
    assert parse({"n_epochs": 2}, method) == Requested(n_epochs=2)


def test_dpo_s_numbers_are_taken_from_either_level() -> None:
    expected = Requested(n_epochs=2, dpo=Dpo(beta=0.3, l2_multiplier=0.1))
    assert parse(None, dpo(n_epochs=2, beta=0.3, l2_multiplier=0.1)) == expected
    assert parse(None, dpo({"beta": 0.3, "l2_multiplier": 0.1}, n_epochs=2)) == expected
    assert parse(None, {"type": "dpo", "dpo": {"beta": 0.3, "l2_multiplier": 0.1, "hyperparameters": None}}) == (
        Requested(dpo=Dpo(beta=0.3, l2_multiplier=0.1))
    )
    assert parse(None, dpo({"beta": 0.3}, beta=0.4)) == Requested(dpo=Dpo(beta=0.4))


@pytest.mark.parametrize("method", [{"type": "dpo"}, {"type": "dpo", "dpo": {}}, dpo(beta="auto", l2_multiplier=-1)])
def test_dpo_may_leave_everything_automatic(method: dict[str, Any]) -> None:
    assert parse({"n_epochs": 2}, method) == Requested(n_epochs=2, dpo=Dpo(beta=0.1, l2_multiplier=0.0))
    resolved = recipe.resolve(parse(None, method), 50, BASE, 1)
    assert resolved.dpo == Dpo(beta=0.1, l2_multiplier=0.0)
    assert (resolved.learning_rate_multiplier, resolved.learning_rate) == (0.1, pytest.approx(0.1 * BASE.learning_rate))


@pytest.mark.parametrize(
    ("name", "value", "bounds"),
    [
        *(("beta", value, "above 0 up to 2") for value in (0, 2.001, True, "0.1", math.nan, math.inf)),
        *(("l2_multiplier", value, "from 0 to 1") for value in (-0.1, 1.001, True, "0.1", math.nan)),
    ],
)
def test_dpo_s_numbers_beyond_their_bounds_are_refused_where_they_stand(name: str, value: Any, bounds: str) -> None:
    for method, param in (
        (dpo(**{name: value}), f"method.dpo.hyperparameters.{name}"),
        (dpo({name: value}), f"method.dpo.{name}"),
    ):
        with pytest.raises(InvalidRequest, match=bounds) as refused:
            parse(None, method)
        assert refused.value.param == param


def test_dpo_s_numbers_at_their_bounds_are_taken() -> None:
    assert parse(None, dpo(beta=2, l2_multiplier=1)).dpo == Dpo(beta=2.0, l2_multiplier=1.0)
    assert parse(None, dpo(beta=1e-3, l2_multiplier=0)).dpo == Dpo(beta=1e-3, l2_multiplier=0.0)


@pytest.mark.parametrize("weight", [0, 0.1, 1])
def test_a_prompt_loss_weight_cancels_out_of_dpo(weight: float) -> None:
    assert parse(None, dpo(prompt_loss_weight=weight)) == parse(None, dpo())


BOUNDS = [
    ("n_epochs", [1, 50], [0, 51, -2, 1.5, True, False, "3", [], math.nan, math.inf, -math.inf, 10**400]),
    ("batch_size", [1, 32], [0, 33, 2.5, True, {}, 1e300]),
    ("learning_rate_multiplier", [1e-9, 0.02, 10], [0, 0.0, -0.5, 10.1, True, "1.0", math.nan, math.inf, 10**400]),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values, _ in BOUNDS for value in values])
def test_values_at_the_bounds_are_taken(name: str, value: float) -> None:
    assert getattr(parse({name: value}), name) == value


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, _, values in BOUNDS for value in values])
def test_values_beyond_are_refused_with_place_and_bounds(name: str, value: Any) -> None:
    bounds = {"n_epochs": "1 to 50", "batch_size": "1 to 32", "learning_rate_multiplier": "above 0 up to 10"}[name]
    for arguments, param in (
        (({name: value},), f"hyperparameters.{name}"),
        (({name: 1}, supervised(**{name: value})), f"method.supervised.hyperparameters.{name}"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            parse(*arguments)
        assert refused.value.param == param
        assert bounds in refused.value.message
        assert len(refused.value.message) < 250


def test_a_fault_is_placed_where_it_stands() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse({"batch_size": 0}, supervised(n_epochs=3))
    assert refused.value.param == "hyperparameters.batch_size"


REFUSED = [
    ({"epochs": 3}, None, "hyperparameters.epochs", "n_epochs, batch_size, learning_rate_multiplier"),
    (None, {"type": "reinforcement"}, "method.type", "'supervised' and 'dpo' are"),
    (None, {"type": "dpo", "supervised": {"hyperparameters": {}}}, "method", "'supervised'"),
    (None, {"type": "dpo", "dpo": {"n_epochs": 3}}, "method.dpo", "'n_epochs'"),
    (None, dpo(gamma=0.1), "method.dpo.hyperparameters.gamma", "batch_size, learning_rate_multiplier, beta, l2"),
    (None, dpo(prompt_loss_weight=1.5), "method.dpo.hyperparameters.prompt_loss_weight", "from 0 to 1"),
    ({"beta": 0.1}, None, "hyperparameters.beta", "'beta'"),
    (None, {"type": None}, "method.type", "None"),
    (None, {"type": ["supervised"]}, "method.type", "supervised"),
    (None, {"type": "supervised", "supervised": {"n_epochs": 3}}, "method.supervised", "'n_epochs'"),
    (None, {"type": "supervised", "supervised": 3}, "method.supervised", "object"),
    (None, {"type": "supervised", "dpo": {}}, "method", "'dpo'"),
    (None, supervised(beta=0.1), "method.supervised.hyperparameters.beta", "'beta'"),
    ({"prompt_loss_weight": 0.01}, None, "hyperparameters.prompt_loss_weight", "has to be 0"),
    ({"x" * 10_000: 3}, None, f"hyperparameters.{'x' * 64}", "unknown"),
]


@pytest.mark.parametrize(("hyperparameters", "method", "param", "said"), REFUSED)
def test_nothing_that_is_asked_for_is_passed_over(hyperparameters: Any, method: Any, param: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as refused:
        parse(hyperparameters, method)
    assert refused.value.param == param
    assert len(refused.value.message) < 250


@pytest.mark.parametrize("weight", [0, 0.0, None])
def test_a_prompt_loss_weight_of_nothing_is_what_happens_anyway(weight: float | None) -> None:
    assert parse({"prompt_loss_weight": weight}) == Requested()


def test_what_was_asked_for_is_what_is_trained_with() -> None:
    requested = Requested(n_epochs=7, batch_size=2, learning_rate_multiplier=0.5)
    assert recipe.resolve(requested, 1000, BASE, 7) == Recipe(
        n_epochs=7, batch_size=2, learning_rate_multiplier=0.5, learning_rate=1e-4, seed=7
    )


@pytest.mark.parametrize(
    ("examples", "epochs", "batch_size"),
    [
        (1, 25, 1),
        (4, 25, 4),
        (5, 20, 4),
        (10, 10, 4),
        (33, 3, 4),
        (34, 3, 4),
        (1199, 3, 4),
        (1200, 3, 8),
        (2399, 3, 8),
        (2400, 3, 16),
        (8333, 3, 16),
        (8334, 2, 16),
        (12_501, 1, 16),
        (1_000_000, 1, 16),
    ],
)
def test_automatic_values_follow_the_number_of_examples(examples: int, epochs: int, batch_size: int) -> None:
    resolved = recipe.resolve(Requested(), examples, BASE, 0)
    assert (resolved.n_epochs, resolved.batch_size, resolved.learning_rate_multiplier) == (epochs, batch_size, 1.0)
    assert resolved.learning_rate == BASE.learning_rate


@given(
    st.builds(
        Requested,
        n_epochs=st.none() | st.integers(1, 50),
        batch_size=st.none() | st.integers(1, 32),
        learning_rate_multiplier=st.none() | st.floats(0.001, 10),
    ),
    st.integers(0, 10**7),
    st.integers(1, 512),
)
def test_whatever_is_left_open_becomes_something_that_may_be_asked_for(
    requested: Requested, examples: int, largest: int
) -> None:
    base = BaseModel(name="base", directory="", learning_rate=1e-4, largest_batch=largest)
    resolved = recipe.resolve(requested, examples, base, 0)
    assert 1 <= resolved.n_epochs <= 50
    assert 1 <= resolved.batch_size <= max(1, examples)
    assert resolved.batch_size <= (requested.batch_size or min(16, largest))
    assert 0 < resolved.learning_rate <= 10 * base.learning_rate


def test_a_seed_is_kept_or_drawn() -> None:
    assert [recipe.seed(given) for given in (0, 7, 2**31 - 1)] == [0, 7, 2**31 - 1]
    drawn = {recipe.seed(None) for _ in range(20)}
    assert len(drawn) > 1
    assert all(0 <= each < 2**31 for each in drawn)


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_a_seed_has_31_bits(seed: int) -> None:
    with pytest.raises(InvalidRequest, match=f"0 to {2**31 - 1}") as refused:
        recipe.seed(seed)
    assert refused.value.param == "seed"


@pytest.mark.parametrize("suffix", [None, "a", "Az_09-", "x" * 40])
def test_plain_suffixes_are_taken(suffix: str | None) -> None:
    recipe.validate_suffix(suffix)


@pytest.mark.parametrize("suffix", ["", "a.b", "a b", "ä", "a\n", "x" * 41, "x" * 10**6])
def test_other_suffixes_are_refused(suffix: str) -> None:
    with pytest.raises(InvalidRequest, match="1 to 40 letters") as refused:
        recipe.validate_suffix(suffix)
    assert refused.value.param == "suffix"
    assert len(refused.value.message) < 200


@pytest.mark.parametrize("metadata", [None, {}, {"k" * 64: "v" * 512}, {str(n): "" for n in range(16)}])
def test_metadata_within_bounds_is_taken(metadata: dict[str, str] | None) -> None:
    recipe.check_metadata(metadata)


@pytest.mark.parametrize("metadata", [{"": ""}, {"k" * 65: ""}, {"k": "v" * 513}, {str(n): "" for n in range(17)}])
def test_metadata_beyond_them_is_refused(metadata: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        recipe.check_metadata(metadata)
    assert refused.value.param == "metadata"
    assert len(refused.value.message) < 200
