"""Preferences: loss, rewards and gradients beside the plain formula."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.models.test_lora import trained
from tests.training.test_batches import assert_same, gradients, many, ready, tokens
from tunery.models.decoder import Decoder, attend_causally
from tunery.models.loader import load
from tunery.models.lora import Lora
from tunery.training import losses
from tunery.training.batches import Example, micro_batches, tree_of
from tunery.training.metrics import PairTally
from tunery.training.objectives import Preferences, Reference

BETA = 0.4


@st.composite
def pairs(draw: st.DrawFn) -> list[Example]:
    """Answers that may share their beginning, be equal, or begin another one."""
    prompts = draw(st.lists(st.lists(tokens, min_size=1, max_size=15), min_size=1, max_size=2))
    found = []
    for line in range(draw(st.integers(1, 4))):
        prompt = draw(st.sampled_from(prompts))
        for _ in range(2):
            answer = draw(st.lists(tokens, min_size=1, max_size=8))
            trained = (
                [False] * len(prompt)
                + [True]
                + draw(st.lists(st.booleans(), min_size=len(answer) - 1, max_size=len(answer) - 1))
            )
            found.append(Example(line, np.array([*prompt, *answer]), np.array(trained)))
    return found


def plainly(tiny: Path, adapter: Lora, start: Lora, batch: list[Example]) -> tuple[float, Tensor, dict[str, Tensor]]:
    """(loss, rewards, gradients), an example at a time."""
    decoder = load(tiny, dtype=adapter.b["o_proj"][0].dtype)

    def log_probability(example: Example, lora: Lora) -> Tensor:
        ids = torch.from_numpy(example.ids)
        logits = decoder.logits(decoder.hidden(ids, torch.arange(len(ids)), attend_causally, lora))
        labels = torch.where(torch.from_numpy(example.trained), ids, -100)
        return -F.cross_entropy(logits[:-1], labels[1:], reduction="sum")

    with torch.no_grad():
        reference = torch.stack([log_probability(example, start) for example in batch])
    rewards = BETA * (torch.stack([log_probability(example, adapter) for example in batch]) - reference).view(-1, 2)
    loss = -F.logsigmoid(rewards[:, 0] - rewards[:, 1]).mean()
    loss.backward()
    return loss.item(), rewards.detach(), gradients(adapter)


def preferences(
    decoder: Decoder, adapter: Lora, start: Lora | None, batch: list[Example], most_tokens: int = 1024
) -> Preferences:
    return Preferences(decoder, adapter, Reference(decoder, start, [batch], most_tokens), most_tokens, beta=BETA)


def ours(
    tiny: Path, adapter: Lora, start: Lora, batch: list[Example], most_tokens: int
) -> tuple[PairTally, dict[str, Tensor]]:
    decoder = load(tiny, dtype=adapter.b["o_proj"][0].dtype)
    return preferences(decoder, adapter, start, batch, most_tokens).train(batch), gradients(adapter)


@settings(many, max_examples=30)
@given(batch=pairs(), most_tokens=st.sampled_from([10, 40, 1024]))
def test_loss_rewards_and_gradients_are_those_of_the_formula(
    tiny: Path, batch: list[Example], most_tokens: int
) -> None:
    adapter, start = ready(tiny, torch.float64), trained(tiny, seed=2).to("cpu", torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "HEAD_ROWS", 3)
        tally, found = ours(tiny, adapter, start, batch, most_tokens)
    loss, rewards, expected = plainly(tiny, adapter, start, batch)
    assert tally.loss == pytest.approx(loss, rel=1e-11)
    whole = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for name, gradient in expected.items():  # of equal answers it is nothing, and by the formula nearly nothing
        assert (found[name] - gradient).norm() <= 1e-11 * (gradient.norm() + 0.1 * whole) + 1e-13, name
    chosen, rejected = rewards.mean(0).tolist()
    assert (tally.rewards.chosen, tally.rewards.rejected) == pytest.approx((chosen, rejected), rel=1e-9, abs=1e-12)
    assert tally.rewards.margins == pytest.approx(chosen - rejected, rel=1e-9, abs=1e-12)


def some_pairs() -> list[Example]:
    rng = np.random.default_rng(0)
    stem = rng.integers(3, 300, 40)
    lengths = [3, 9, 5, 5, 12, 2]
    return [
        Example(i // 2, np.concatenate([stem, rng.integers(3, 300, length)]), np.arange(40 + length) >= 40)
        for i, length in enumerate(lengths)
    ]


def test_they_are_those_of_transformers_and_peft_on_a_padded_batch(tiny: Path, tmp_path: Path) -> None:
    """In float32; the reference is the base without adapter."""
    adapter, batch = ready(tiny), some_pairs()
    adapter.save(tmp_path, "tiny")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), tmp_path, is_trainable=True)
    width = max(len(example.ids) for example in batch)
    ids, labels = torch.zeros(len(batch), width, dtype=torch.int64), torch.full((len(batch), width), -100)
    for row, example in enumerate(batch):
        ids[row, : len(example.ids)] = torch.from_numpy(example.ids)
        labels[row, 40 : len(example.ids)] = torch.from_numpy(example.ids[40:])
    mask = (torch.arange(width) < torch.tensor([[len(example.ids)] for example in batch])).long()

    def log_probabilities() -> Tensor:
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
        return -F.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none").sum(1)

    with torch.no_grad(), model.disable_adapter():
        reference = log_probabilities()
    rewards = BETA * (log_probabilities() - reference).view(-1, 2)
    loss = -F.logsigmoid(rewards[:, 0] - rewards[:, 1]).mean()
    loss.backward()
    theirs = {name.replace(".default", ""): p.grad for name, p in model.named_parameters() if p.requires_grad}

    decoder = load(tiny)
    tally = preferences(decoder, adapter, None, batch).train(batch)
    assert_same((tally.loss, gradients(adapter)), (loss.item(), theirs), 1e-5)
    assert [tally.rewards.chosen, tally.rewards.rejected] == pytest.approx(rewards.mean(0).tolist(), rel=1e-5)
    assert tally.rewards.accuracies == (rewards[:, 0] > rewards[:, 1]).double().mean().item()
    assert tally.tokens == 36


def test_evaluation_finds_what_training_finds(tiny: Path) -> None:
    decoder, batch = load(tiny), some_pairs()
    objective = preferences(decoder, ready(tiny), None, batch)
    trained, evaluated = objective.train(batch), objective.evaluate(batch)
    assert evaluated.loss == pytest.approx(trained.loss, rel=1e-6)
    assert evaluated.rewards.margins == pytest.approx(trained.rewards.margins, rel=1e-5)
    assert (evaluated.token_accuracy, evaluated.tokens) == (trained.token_accuracy, trained.tokens)


def test_at_the_start_no_answer_is_ahead(tiny: Path) -> None:
    """Policy and reference are then the same numbers, not nearly the same."""
    decoder, batch, start = load(tiny), some_pairs(), trained(tiny)
    tally = preferences(decoder, ready(tiny), start, batch).train(batch)
    assert (tally.rewards.margins, tally.rewards.accuracies) == (0.0, 0.0)
    assert tally.loss == pytest.approx(np.log(2))


def test_accuracies_are_of_the_chosen_answers_alone(tiny: Path) -> None:
    """The model's own favourite is chosen; what it thinks least of is rejected."""
    decoder = load(tiny)
    with torch.inference_mode():
        logits = decoder.logits(decoder.hidden(torch.tensor([5, 6]), torch.arange(2), attend_causally))[-1]
    prompt, bears = np.array([5, 6]), np.array([False, False, True])
    batch = [Example(1, np.append(prompt, int(token)), bears) for token in (logits.argmax(), logits.argmin())]
    fresh = Lora.fresh(decoder.config, rank=2, alpha=2.0, seed=0)
    for order, accuracy in ((batch, 1.0), (batch[::-1], 0.0)):
        tally = preferences(decoder, fresh, None, order).evaluate(order)
        assert (tally.token_accuracy, tally.sequence_accuracy) == (accuracy, accuracy)


def test_a_reference_does_not_depend_on_what_is_asked_first(tiny: Path) -> None:
    decoder, batch = load(tiny), some_pairs()
    one, other = (Reference(decoder, None, [batch[:4], batch[4:]], 1024) for _ in range(2))
    forwards, backwards = one.of(batch).tolist(), other.of(batch[::-1]).tolist()
    assert forwards == backwards[::-1]


@settings(many, max_examples=30)
@given(batch=pairs(), most_tokens=st.integers(1, 60))
def test_micro_batches_hold_whole_pairs_and_keep_to_their_size(batch: list[Example], most_tokens: int) -> None:
    parts = list(micro_batches(batch, most_tokens, together=2))
    held = [(part[i], part[i + 1]) for part in parts for i in range(0, len(part), 2)]
    assert set(held) == set(zip(batch[::2], batch[1::2], strict=True))
    assert len(held) == len(batch) // 2
    assert all(len(tree_of(part)) <= most_tokens or len(part) == 2 for part in parts)
