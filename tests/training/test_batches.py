from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.models.test_lora import trained
from tunery.models.decoder import attend_causally
from tunery.models.loader import load
from tunery.models.lora import Lora
from tunery.training import attention, losses, stretches
from tunery.training import batches as batches_module
from tunery.training.batches import Example, epoch_batches, micro_batches, tree_of
from tunery.training.losses import evaluate, evaluate_and_backpropagate

tokens = st.integers(0, 2)
"""So few that random sequences share their beginnings."""


@st.composite
def examples(draw: st.DrawFn) -> list[Example]:
    stems = draw(st.lists(st.lists(tokens, min_size=1, max_size=25), min_size=1, max_size=3))
    found = []
    for line in range(draw(st.integers(1, 7))):
        ids = [*draw(st.sampled_from(stems)), *draw(st.lists(tokens, min_size=1, max_size=12))]
        trained = draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
        trained[draw(st.integers(1, len(ids) - 1))] = True
        found.append(Example(line, np.array(ids), np.array(trained)))
    return found


many = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def gradients(adapter: Lora) -> dict[str, Tensor]:
    """By PEFT name, in float32; resets them."""
    grads = Lora(
        adapter.config, adapter.rank, adapter.scale, {n: torch.zeros_like(t) for n, t in adapter.tensors().items()}
    )
    for mine, theirs in zip(grads.parameters(), adapter.parameters(), strict=True):
        assert theirs.grad is not None
        mine.copy_(theirs.grad)
        theirs.grad = None
    return grads.tensors()


def one_by_one(tiny: Path, adapter: Lora, batch: list[Example]) -> tuple[float, dict[str, Tensor]]:
    """The plain way: each example alone, causal attention, all logits, cross entropy; mean over the batch's targets."""
    decoder = load(tiny, dtype=adapter.b["o_proj"][0].dtype)
    total = sum(len(example.targets) for example in batch)
    loss = torch.zeros(())
    for example in batch:
        ids = torch.from_numpy(example.ids)
        logits = decoder.logits(decoder.hidden(ids, torch.arange(len(ids)), attend_causally, adapter))
        labels = torch.where(torch.from_numpy(example.trained), ids, -100)
        loss = loss + torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="sum") / total
    loss.backward()
    return loss.item(), gradients(adapter)


def by_tree(
    tiny: Path, adapter: Lora, batch: list[Example], most_tokens: int = 10_000, recomputed_tokens: int = 10_000
) -> tuple[float, dict[str, Tensor]]:
    decoder = load(tiny, dtype=adapter.b["o_proj"][0].dtype)
    total = sum(len(example.targets) for example in batch)
    parts = [tree_of(part) for part in micro_batches(batch, most_tokens)]
    outcomes = [
        evaluate_and_backpropagate(decoder, tree, adapter, loss_tokens=total, recompute=len(tree) > recomputed_tokens)
        for tree in parts
    ]
    return sum(outcome.loss_sum for outcome in outcomes) / total, gradients(adapter)


def ready(tiny: Path, dtype: torch.dtype = torch.float32) -> Lora:
    adapter = trained(tiny).to("cpu", dtype)
    for parameter in adapter.parameters():
        parameter.requires_grad_()
    return adapter


def assert_same(ours: tuple[float, dict[str, Tensor]], theirs: tuple[float, dict[str, Tensor]], error: float) -> None:
    """Relative error in the loss and in every tensor's gradient.

    Random trees hold gradients that are zero but for rounding: a tenth of that error of the whole is allowed too.
    """
    assert ours[0] == pytest.approx(theirs[0], rel=error)
    whole = torch.stack([gradient.norm() for gradient in theirs[1].values()]).norm()
    for name, gradient in theirs[1].items():
        assert (ours[1][name] - gradient).norm() <= error * (gradient.norm() + 0.1 * whole), name


@many
@given(batch=examples(), dtype_and_error=st.sampled_from([(torch.float32, 1e-5), (torch.float64, 1e-12)]))
def test_loss_and_gradients_of_the_tree_are_those_of_the_examples_one_by_one(
    tiny: Path, batch: list[Example], dtype_and_error: tuple[torch.dtype, float]
) -> None:
    dtype, error = dtype_and_error
    adapter = ready(tiny, dtype)
    assert_same(by_tree(tiny, adapter, batch), one_by_one(tiny, adapter, batch), error)


@settings(many, max_examples=15)
@given(batch=examples(), most_tokens=st.integers(1, 40))
def test_micro_batches_short_stretches_and_recomputation_change_nothing(
    tiny: Path, batch: list[Example], most_tokens: int
) -> None:
    adapter = ready(tiny, torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stretches, "STRETCH", 5)
        patch.setattr(attention, "BATCH_PAIRS", 5 * 40)
        patch.setattr(attention, "KEPT_COLUMNS", 20)
        patch.setattr(losses, "HEAD_ROWS", 3)
        ours = by_tree(tiny, adapter, batch, most_tokens, recomputed_tokens=20)
    assert_same(ours, one_by_one(tiny, adapter, batch), 1e-12)


def test_loss_and_gradients_are_those_of_transformers_and_peft_on_a_padded_batch(tiny: Path, tmp_path: Path) -> None:
    adapter = ready(tiny)
    adapter.save(tmp_path, "tiny")
    rng = np.random.default_rng(0)
    stem = rng.integers(3, 300, 40)
    batch = [
        Example(i, np.concatenate([stem, rng.integers(3, 300, 5 + 3 * i)]), np.arange(45 + 3 * i) >= 42)
        for i in range(6)
    ]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), tmp_path, is_trainable=True)
    width = max(len(example.ids) for example in batch)
    ids, labels = torch.zeros(6, width, dtype=torch.int64), torch.full((6, width), -100)
    for row, example in enumerate(batch):
        ids[row, : len(example.ids)] = torch.from_numpy(example.ids)
        labels[row, 42 : len(example.ids)] = torch.from_numpy(example.ids[42:])
    mask = torch.arange(width) < torch.tensor([[len(example.ids)] for example in batch])
    loss = model(input_ids=ids, attention_mask=mask.long(), labels=labels).loss
    loss.backward()
    theirs = {name.replace(".default", ""): p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert theirs.keys() == adapter.tensors().keys()
    assert_same(by_tree(tiny, adapter, batch), (loss.item(), theirs), 1e-5)


@many
@given(batch=examples())
def test_each_distinct_beginning_is_one_node(batch: list[Example]) -> None:
    tree = tree_of(batch)
    inputs = [tuple(example.inputs.tolist()) for example in batch]
    beginnings = {sequence[: end + 1] for sequence in inputs for end in range(len(sequence))}
    assert len(tree) == len(beginnings)
    path: list[int] = []
    for node, (token, depth) in enumerate(zip(tree.token_ids, tree.depths, strict=True)):
        path = [*path[:depth], int(token)]
        beginnings.remove(tuple(path))
        deeper = [other for other in range(node, len(tree)) if all(tree.depths[node + 1 : other + 1] > depth)]
        assert tree.ends[node] == deeper[-1] + 1
    assert not beginnings


@many
@given(batch=examples())
def test_edges_count_every_trained_token_of_every_example(batch: list[Example]) -> None:
    tree = tree_of(batch)
    assert tree.edge_counts.sum() == sum(example.trained[1:].sum() for example in batch)
    for example, edges in zip(batch, tree.example_edges, strict=True):
        assert tree.edge_targets[edges].tolist() == example.ids[example.targets].tolist()
        assert tree.depths[tree.edge_nodes[edges]].tolist() == (example.targets - 1).tolist()


@many
@given(batch=examples(), most_tokens=st.integers(1, 60))
def test_micro_batches_hold_every_example_once_and_keep_to_their_size(batch: list[Example], most_tokens: int) -> None:
    parts = list(micro_batches(batch, most_tokens))
    assert sorted(example.line for part in parts for example in part) == list(range(len(batch)))
    assert all(len(tree_of(part)) <= most_tokens or len(part) == 1 for part in parts)


def test_evaluation_finds_the_loss_that_training_finds(tiny: Path) -> None:
    adapter, decoder = ready(tiny), load(tiny)
    batch = [Example(i, np.arange(5, 30 + i), np.arange(25 + i) > 10) for i in range(4)]
    tree = tree_of(batch)
    trained_one = evaluate_and_backpropagate(decoder, tree, adapter, loss_tokens=1)
    evaluated = evaluate(decoder, tree, adapter)
    assert evaluated.loss_sum == pytest.approx(trained_one.loss_sum, rel=1e-6)
    assert evaluated.right.tolist() == trained_one.right.tolist()


def worded(*texts: str) -> list[Example]:
    """Examples with a token a letter; loss on the last."""
    found = []
    for line, text in enumerate(texts):
        ids = np.array([ord(letter) for letter in text])
        found.append(Example(line, ids, np.arange(len(ids)) == len(ids) - 1))
    return found


def nodes(found: list[Example], batches: list[list[int]]) -> int:
    return sum(len(tree_of([found[i] for i in batch])) for batch in batches)


def test_the_batches_of_an_epoch_depend_on_seed_and_epoch_alone() -> None:
    ten = worded(*(f"{i} and so on" for i in range(10)))
    assert epoch_batches(ten, 4, seed=7, epoch=0) == [[2, 7, 4, 5], [3, 9, 1, 8], [6, 0]]
    assert epoch_batches(ten, 4, seed=7, epoch=1) != epoch_batches(ten, 4, seed=7, epoch=0)
    assert epoch_batches(ten, 4, seed=8, epoch=0) != epoch_batches(ten, 4, seed=7, epoch=0)


@many
@given(st.lists(examples(), min_size=1, max_size=8), st.integers(1, 5), st.integers(0, 3))
def test_each_example_comes_once_an_epoch_and_only_the_last_batch_is_smaller(
    files: list[list[Example]], batch_size: int, epoch: int
) -> None:
    found = [example for file in files for example in file]
    batches = epoch_batches(found, batch_size, seed=1, epoch=epoch)
    assert sorted(i for batch in batches for i in batch) == list(range(len(found)))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert 1 <= len(batches[-1]) <= batch_size


def test_examples_with_the_same_beginning_among_several_come_together() -> None:
    stems = [f"{name} is the name of the one who answers here, in short sentences. " for name in ("Ada", "Bob", "Cyd")]
    found = worded(*(f"{stems[i % 3]}{chr(300 + i)} and {i}" for i in range(96)))
    batches = epoch_batches(found, 8, seed=3, epoch=0)
    assert all(len({i % 3 for i in batch}) == 1 for batch in batches)
    assert nodes(found, batches) < 0.5 * nodes(found, [list(range(k, k + 8)) for k in range(0, 96, 8)])
    assert [i % 3 for i, *_ in batches] != sorted(i % 3 for i, *_ in batches), "batches come in random order"


def test_one_beginning_that_all_share_leaves_the_order_to_the_seed() -> None:
    found = worded(*(f"The same long instruction stands on every line. {chr(300 + i)}{i}" for i in range(40)))
    told_apart = worded(*(f"{chr(300 + i)}{i}" for i in range(40)))
    assert epoch_batches(found, 4, seed=5, epoch=2) == epoch_batches(told_apart, 4, seed=5, epoch=2)


def test_a_window_bounds_how_far_examples_are_fetched_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "WINDOW", 2)
    found = worded(*(f"{['left', 'right'][i % 2]} {chr(300 + i)}" for i in range(64)))
    order = [i for batch in epoch_batches(found, 4, seed=1, epoch=0) for i in batch]
    monkeypatch.setattr(batches_module, "ALIKE", 2.0)
    plain = [i for batch in epoch_batches(found, 4, seed=1, epoch=0) for i in batch]
    for start in range(0, 64, 8):
        assert sorted(order[start : start + 8]) == sorted(plain[start : start + 8])
