"""A plan is what the loop then does: counted against the trees that it really trains and looks at."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.training.orders import chat, dpo_order_in, of, order_in, random_lines, reports, write_lines
from tunery.errors import InvalidRequest
from tunery.messages import Checkpointed, Failed, Prepared, Stepped, TrainingOrder
from tunery.models.loader import load
from tunery.models.lora import Lora
from tunery.models.tokenizer import Tokenizer
from tunery.training import data, objectives, plan
from tunery.training.batches import Tree
from tunery.training.plan import Counted, count, flops, sizes_of
from tunery.training.process import settled

PLENTY = 1 << 40


@pytest.fixture
def trees(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Tree]]:
    """The trees that a run trains and evaluates, as it calls for them."""
    seen: dict[str, list[Tree]] = {
        "evaluate_and_backpropagate": [],
        "evaluate_and_backpropagate_examples": [],
        "evaluate": [],
    }

    def watched(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(decoder: object, tree: Tree, *rest: object, **named: object) -> object:
            seen[name].append(tree)
            return call(decoder, tree, *rest, **named)

        return wrapped

    for name in seen:
        monkeypatch.setattr(objectives, name, watched(name, getattr(objectives, name)))
    return seen


def planned(order: TrainingOrder, **more: Any) -> Any:
    return plan.plan(order, data.read(order, Tokenizer.load(order.base.directory)), **{"available": PLENTY, **more})


def nodes(found: list[Tree]) -> int:
    return sum(map(len, found))


def rows(found: list[Tree]) -> int:
    return sum(len(np.unique(tree.edge_nodes)) for tree in found)


def test_a_plan_counts_what_the_run_then_computes(
    tmp_path: Path, tiny: Path, trees: dict[str, list[Tree]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "MICRO_BATCH_TOKENS", (60,))
    order = order_in(tmp_path, tiny)
    found = reports(order)
    told = of(Prepared, found)[0].plan
    trained, evaluated = trees["evaluate_and_backpropagate"], trees["evaluate"]
    assert len(trained) > told.steps == 8
    assert told.computed_tokens == nodes(trained)
    assert told.trained_tokens == of(Stepped, found)[-1].trained_tokens
    counted = Counted(60)
    for tree in trained:
        counted.trained.add(tree)
    for tree in evaluated:
        counted.evaluated.add(tree)
    assert told.flops == pytest.approx(flops(sizes_of(order), counted))
    examples = data.read(order, Tokenizer.load(tiny)).training
    assert told.total_tokens == 2 * sum(len(example.inputs) for example in examples) > told.computed_tokens


def test_a_plan_of_preferences_counts_pairs_and_their_reference(
    tmp_path: Path, tiny: Path, trees: dict[str, list[Tree]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Operations nearly so: the reference's share is taken from the mean epoch, not from the first."""
    monkeypatch.setattr(plan, "MICRO_BATCH_TOKENS", (120,))
    order = dpo_order_in(tmp_path, tiny)
    found = reports(order)
    told = of(Prepared, found)[0].plan
    trained = trees["evaluate_and_backpropagate_examples"]
    assert len(trained) > told.steps == 8
    assert told.computed_tokens == nodes(trained)
    assert told.trained_tokens == of(Stepped, found)[-1].trained_tokens
    counted = Counted(120)
    for tree in trained:
        counted.trained.add(tree)
    for tree in trees["evaluate"]:
        counted.evaluated.add(tree)
    assert told.flops == pytest.approx(flops(sizes_of(order), counted), rel=0.03)


def test_the_operations_of_one_token_are_two_a_weight_forward_and_as_many_back(tmp_path: Path, tiny: Path) -> None:
    """And two more for each weight of the adapter, which alone has a gradient of its own."""
    order = order_in(tmp_path, tiny, validation_file=None)
    sizes, decoder = sizes_of(order), load(tiny)
    matrices = [
        group.weight.numel()  # type: ignore[attr-defined]
        for layer in decoder.layers
        for group in (layer.qkv, layer.o, layer.gate_up, layer.down)
    ]
    adapter = Lora.fresh(decoder.config, rank=4, alpha=8.0, seed=0).parameters()
    assert sizes.linear == sum(matrices)
    assert sizes.adapter == sum(tensor.numel() for tensor in adapter)
    one = Counted(1024)
    one.trained.nodes = 1
    assert flops(sizes, one) == 4 * sizes.linear + 6 * sizes.adapter
    one.trained.loss_rows = 1
    assert flops(sizes, one) == 4 * sizes.linear + 6 * sizes.adapter + 4 * decoder.embedding.numel()


def test_a_long_run_is_scaled_from_some_of_its_steps(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = write_lines(tmp_path / "t.jsonl", random_lines(200, seed=5))
    order = order_in(tmp_path, tiny, training_file=lines)
    whole = planned(order)
    monkeypatch.setattr(plan, "MOST_STEPS", 30)
    monkeypatch.setattr(plan, "MOST_PARTS", 1)
    part = planned(order)
    assert (whole.counted_steps, part.counted_steps, part.steps) == (100, 30, 100)
    for name in ("flops", "computed_tokens", "trained_tokens", "total_tokens"):
        assert getattr(part, name) == pytest.approx(getattr(whole, name), rel=0.05), name
    assert part.memory_bytes >= whole.memory_bytes


def test_a_sample_of_a_file_stands_for_all_of_it(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = write_lines(tmp_path / "t.jsonl", random_lines(300, seed=5))
    order = order_in(tmp_path, tiny, training_file=lines)
    whole = planned(order)
    monkeypatch.setattr(data, "SAMPLED", 100)
    found = data.sample(order, Tokenizer.load(tiny))
    assert len(found.training) == 100 > len(found.validation) == 5
    assert len({example.line for example in found.training}) == 100
    part = plan.plan(order, found, available=PLENTY, examples=(300, 5))
    assert part.steps == whole.steps == 150
    for name in ("flops", "computed_tokens", "trained_tokens", "total_tokens"):
        assert getattr(part, name) == pytest.approx(getattr(whole, name), rel=0.1), name


def test_a_base_that_is_not_there_is_refused(tmp_path: Path, tiny: Path) -> None:
    order = order_in(tmp_path, tiny)
    base = msgspec.structs.replace(order.base, directory=str(tmp_path / "absent"))
    with pytest.raises(InvalidRequest, match="isn't on this machine"):
        sizes_of(msgspec.structs.replace(order, base=base))


def test_counting_keeps_the_largest_trees_of_each_kind(tmp_path: Path, tiny: Path) -> None:
    lines = write_lines(tmp_path / "t.jsonl", [chat("fox " * 40, "dog"), chat("lazy", "fox")])
    order = order_in(tmp_path, tiny, training_file=lines, batch_size=2, n_epochs=1)
    found = data.read(order, Tokenizer.load(tiny))
    lengths = sorted(len(example.inputs) for example in found.training)
    counted = count(order, found, 50)
    assert counted.largest.recomputed == lengths[1] > 50 >= counted.largest.kept == lengths[0]
    assert counted.recomputed.nodes == lengths[1]


# --- too little memory ---


def between(order: TrainingOrder, first: int, second: int) -> int:
    """Bytes with which a run of micro-batches of `second` tokens fits, and of `first` tokens doesn't."""
    larger, smaller = (planned(order, micro_batch_tokens=tokens).memory_bytes for tokens in (first, second))
    assert smaller < larger
    return int((smaller + larger) // 2)


def test_where_memory_is_short_smaller_parts_are_trained_to_the_same_adapter(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "MICRO_BATCH_TOKENS", (1024, 60))
    whole = reports(order_in(tmp_path / "whole", tiny))
    order = order_in(tmp_path / "short", tiny)
    short = reports(msgspec.structs.replace(order, memory_bytes=between(order, 1024, 60)))
    assert of(Prepared, whole)[0].plan.micro_batch_tokens == 1024
    assert of(Prepared, short)[0].plan.micro_batch_tokens == 60
    assert of(Prepared, short)[0].plan.fits
    for one, other in zip(of(Stepped, whole), of(Stepped, short), strict=True):
        assert one.metrics.train_loss == pytest.approx(other.metrics.train_loss, rel=1e-4)
    config = load(tiny).config
    start = Lora.fresh(config, rank=4, alpha=8.0, seed=7).tensors()
    ends = [Lora.load(of(Checkpointed, found)[-1].directory, config).tensors() for found in (whole, short)]
    for name, tensor in ends[0].items():
        assert (ends[1][name] - tensor).norm() <= 1e-2 * (tensor - start[name]).norm(), name


def test_a_run_that_goes_on_keeps_its_parts_whatever_memory_there_is_then(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "MICRO_BATCH_TOKENS", (1024, 60))
    order = order_in(tmp_path, tiny)
    order = msgspec.structs.replace(order, memory_bytes=between(order, 1024, 60))
    whole = reports(order)
    state = str(Path(order.directory) / "state-3")
    for memory in (PLENTY, 1):
        resumed = reports(msgspec.structs.replace(order, resume_from=state, memory_bytes=memory))
        prepared = of(Prepared, resumed)[0]
        assert (prepared.plan.micro_batch_tokens, prepared.steps_done) == (60, 3)
        assert of(Checkpointed, resumed)[-1].digest == of(Checkpointed, whole)[-1].digest


def test_a_run_that_can_t_fit_is_refused_before_its_first_step_with_the_numbers(tmp_path: Path, tiny: Path) -> None:
    found = list(settled(order_in(tmp_path, tiny, memory_bytes=1 << 20), lambda: False))
    assert len(found) == 1
    assert isinstance(found[0], Failed)
    assert found[0].code == "insufficient_memory"
    assert "0.0 GiB are free" in found[0].message
    assert "longest examples" in found[0].message
