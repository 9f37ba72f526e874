import math
from collections import Counter
from random import Random

import pytest
import torch

from tunery.serving.sampler import Chooser, score

LOGITS = torch.log(torch.tensor([0.5, 0.25, 0.15, 0.1]))


def drawn(chooser: Chooser, logits: torch.Tensor, times: int = 2000) -> Counter[int]:
    return Counter(chooser.choose(logits) for _ in range(times))


def test_temperature_zero_takes_the_most_likely_token() -> None:
    assert Chooser(temperature=0).choose(torch.tensor([1.0, 3.0, 2.0])) == 1


def test_shares_follow_the_probabilities() -> None:
    shares = drawn(Chooser(random=Random(1)), LOGITS, 4000)
    for token, probability in enumerate([0.5, 0.25, 0.15, 0.1]):
        assert shares[token] / 4000 == pytest.approx(probability, abs=0.03)


def test_temperature_sharpens_the_distribution() -> None:
    shares = drawn(Chooser(temperature=0.5, random=Random(2)), LOGITS, 4000)
    squares = [0.25, 0.0625, 0.0225, 0.01]
    for token, square in enumerate(squares):
        assert shares[token] / 4000 == pytest.approx(square / sum(squares), abs=0.03)


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.0, {0}), (0.4, {0}), (0.6, {0, 1}), (0.8, {0, 1, 2}), (0.95, {0, 1, 2, 3})],
)
def test_top_p_keeps_the_fewest_tokens_that_reach_it(top_p: float, kept: set[int]) -> None:
    assert set(drawn(Chooser(top_p=top_p, random=Random(3)), LOGITS)) == kept


def test_top_p_sorts_everything_when_the_likely_tokens_do_not_reach_it() -> None:
    flat = torch.zeros(2000)
    assert len(drawn(Chooser(top_p=0.9, random=Random(4)), flat, 4000)) > 1000


def test_presence_penalty_counts_a_token_once() -> None:
    chooser = Chooser(temperature=0, presence_penalty=1.0)
    logits = torch.tensor([2.5, 2.0, 0.0])
    assert [chooser.choose(logits) for _ in range(4)] == [0, 1, 0, 0]


def test_frequency_penalty_grows_with_each_use() -> None:
    chooser = Chooser(temperature=0, frequency_penalty=1.0)
    logits = torch.tensor([2.6, 2.0, 0.5])
    assert [chooser.choose(logits) for _ in range(6)] == [0, 1, 0, 1, 0, 2]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_logits_are_afterwards_as_they_were(temperature: float, dtype: torch.dtype) -> None:
    """Several choices of a request are made from the same ones, and scored by them."""
    logits = torch.randn(50, generator=torch.Generator().manual_seed(1)).to(dtype)
    before, allowed = logits.clone(), torch.arange(50) < 40
    chooser = Chooser(
        temperature=temperature, presence_penalty=0.3, frequency_penalty=0.1, logit_bias={3: 1.7, 45: 100.0}
    )
    for _ in range(20):
        assert chooser.choose(logits, allowed) < 40
    assert torch.equal(logits, before)


def test_of_equally_likely_tokens_the_first_is_taken() -> None:
    assert Chooser(temperature=0).choose(torch.tensor([1.0, 3.0, 3.0])) == 1


def test_logit_bias_bans_and_forces() -> None:
    assert Chooser(temperature=0, logit_bias={0: -100.0}).choose(LOGITS) == 1
    assert Chooser(temperature=0, logit_bias={3: 100.0}).choose(LOGITS) == 3
    assert drawn(Chooser(logit_bias={0: -100.0}, random=Random(5)), LOGITS)[0] == 0


def test_equal_seeds_draw_equal_tokens() -> None:
    first, second = (Chooser(random=Random("7:0")) for _ in range(2))
    assert [first.choose(LOGITS) for _ in range(50)] == [second.choose(LOGITS) for _ in range(50)]


def test_score_is_the_log_softmax_with_the_best_alternatives_first() -> None:
    (scored,) = score(LOGITS[None] + 5, [2], 2)
    assert scored.logprob == pytest.approx(math.log(0.15), abs=1e-6)
    assert [token for token, _ in scored.top] == [0, 1]
    assert [value for _, value in scored.top] == pytest.approx([math.log(0.5), math.log(0.25)], abs=1e-6)


def test_score_without_alternatives() -> None:
    assert score(LOGITS[None], [0], 0)[0].top == []
