import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.training.orders import chat, of, order_in, random_lines, reports, write_lines
from tunery.errors import TuneryError
from tunery.messages import (
    Checkpointed,
    Failed,
    Finished,
    Paused,
    Prepared,
    Report,
    Saved,
    Stepped,
    TrainingOrder,
)
from tunery.models import probe
from tunery.models.decoder import ModelConfig
from tunery.models.loader import load
from tunery.models.lora import Lora, digest
from tunery.models.probe import Probe
from tunery.models.tokenizer import Tokenizer
from tunery.training import loop, objectives, plan
from tunery.training.data import read
from tunery.training.loop import train
from tunery.training.optimizer import AdapterOptimizer, learning_rate
from tunery.training.process import settled


def kinds(found: list[Report]) -> list[str]:
    names = {Prepared: "prepared", Stepped: "", Checkpointed: "checkpoint", Saved: "saved", Finished: "finished"}
    return [names[type(r)] if not isinstance(r, Stepped) else str(r.metrics.step) for r in found]


def until_paused(order: TrainingOrder, step: int) -> list[Report]:
    """Pauses the run after `step`."""
    asked = [False] * (step - 1) + [True]
    return list(train(order, lambda: asked.pop(0)))


def test_a_run_tells_its_steps_checkpoints_and_states_in_order(tmp_path: Path, tiny: Path) -> None:
    found = reports(order_in(tmp_path, tiny))
    assert kinds(found) == [
        *("prepared", "1", "2", "3", "saved", "4", "checkpoint", "saved"),
        *("5", "6", "saved", "7", "8", "checkpoint", "finished"),
    ]
    prepared = of(Prepared, found)[0]
    assert (prepared.train_examples, prepared.valid_examples, prepared.steps_per_epoch, prepared.total_steps) == (
        13,
        5,
        4,
        8,
    )
    assert [c.final for c in of(Checkpointed, found)] == [False, True]
    assert (
        of(Finished, found)[0].trained_tokens == 2 * prepared.tokens_per_epoch == of(Stepped, found)[-1].trained_tokens
    )


def test_validation_is_there_each_step_and_in_full_at_the_end_of_an_epoch(tmp_path: Path, tiny: Path) -> None:
    rows = [stepped.metrics for stepped in of(Stepped, reports(order_in(tmp_path, tiny)))]
    assert all(
        row.valid_loss and row.valid_accuracy is not None and row.valid_mean_token_accuracy is not None for row in rows
    )
    assert [row.step for row in rows if row.full_valid_loss is not None] == [4, 8]
    assert [row.step for row in rows if row.full_valid_mean_token_accuracy is not None] == [4, 8]


def test_without_a_validation_file_its_columns_are_empty(tmp_path: Path, tiny: Path) -> None:
    rows = [stepped.metrics for stepped in of(Stepped, reports(order_in(tmp_path, tiny, validation_file=None)))]
    columns = ("valid_loss", "valid_accuracy", "valid_mean_token_accuracy", "full_valid_loss")
    assert all(getattr(row, column) is None for row in rows for column in columns)


def test_validation_batches_take_turns_through_the_file(tmp_path: Path, tiny: Path) -> None:
    """With a model that stands still and answers of equal length, their mean is the whole file's loss."""
    valid = write_lines(tmp_path / "v.jsonl", [chat(q, "dog") for q in ("fox", "lazy fox", "which", "over", "the fox")])
    rows = [
        s.metrics for s in of(Stepped, reports(order_in(tmp_path, tiny, validation_file=valid, learning_rate=0.0)))
    ][:5]
    assert len({row.valid_loss for row in rows}) == 5
    assert sum(row.valid_loss or 0 for row in rows) / 5 == pytest.approx(rows[3].full_valid_loss, rel=1e-6)


def test_it_learns_its_examples_by_heart(tmp_path: Path, tiny: Path) -> None:
    lines = [chat("fox", "dog over"), chat("dog", "fox"), chat("lazy", "quick brown"), chat("which", "jumps")]
    file = write_lines(tmp_path / "t.jsonl", lines)
    order = order_in(tmp_path, tiny, training_file=file, validation_file=file, n_epochs=60, learning_rate=2e-2)
    last = of(Stepped, reports(order))[-1].metrics
    assert (last.training_accuracy, last.valid_accuracy) == (1.0, 1.0)
    assert last.full_valid_loss is not None
    assert last.full_valid_loss < 0.5


def test_equal_orders_give_equal_adapters_wherever_they_run(tmp_path: Path, tiny: Path) -> None:
    one, two = (reports(order_in(tmp_path / name, tiny)) for name in ("one", "two"))
    assert [c.digest for c in of(Checkpointed, one)] == [c.digest for c in of(Checkpointed, two)]
    assert [s.metrics for s in of(Stepped, one)] == [s.metrics for s in of(Stepped, two)]
    other = reports(order_in(tmp_path / "other", tiny, seed=8))
    assert of(Checkpointed, other)[-1].digest != of(Checkpointed, one)[-1].digest


@pytest.mark.parametrize("step", range(1, 8))
def test_a_paused_run_goes_on_as_if_nothing_had_happened(tmp_path: Path, tiny: Path, step: int) -> None:
    whole = reports(order_in(tmp_path / "whole", tiny))
    order = order_in(tmp_path / "parts", tiny)
    first = until_paused(order, step)
    assert [type(report) for report in first[-3:]] == [Checkpointed, Saved, Paused]
    resumed = reports(msgspec.structs.replace(order, resume_from=of(Saved, first)[-1].directory))
    assert [s.metrics for s in of(Stepped, first + resumed)] == [s.metrics for s in of(Stepped, whole)]
    assert [s.trained_tokens for s in of(Stepped, first + resumed)] == [s.trained_tokens for s in of(Stepped, whole)]
    assert of(Checkpointed, resumed)[-1].digest == of(Checkpointed, whole)[-1].digest
    assert of(Finished, resumed)[0].trained_tokens == of(Finished, whole)[0].trained_tokens


def test_a_pause_at_the_last_step_is_the_end(tmp_path: Path, tiny: Path) -> None:
    found = until_paused(order_in(tmp_path, tiny), 8)
    assert kinds(found)[-2:] == ["checkpoint", "finished"]
    assert of(Checkpointed, found)[-1].final


def test_a_state_of_another_order_is_refused(tmp_path: Path, tiny: Path) -> None:
    order = order_in(tmp_path, tiny)
    state = of(Saved, until_paused(order, 2))[-1].directory
    with pytest.raises(TuneryError, match="of another job or of other settings"):
        reports(msgspec.structs.replace(order, resume_from=state, learning_rate=1e-4))


def test_a_damaged_state_is_refused(tmp_path: Path, tiny: Path) -> None:
    order = order_in(tmp_path, tiny)
    state = Path(of(Saved, until_paused(order, 2))[-1].directory)
    (state / "state.safetensors").write_bytes((state / "state.safetensors").read_bytes()[:-1])
    with pytest.raises(TuneryError, match="can't be read"):
        reports(msgspec.structs.replace(order, resume_from=str(state)))


def test_what_a_killed_process_left_half_written_is_cleared(tmp_path: Path, tiny: Path) -> None:
    order = order_in(tmp_path, tiny)
    for name in (".state-3-ab12", ".checkpoint-4-cd34"):
        (Path(order.directory) / name).mkdir()
    reports(order)
    assert not list(Path(order.directory).glob(".*"))


def test_tuning_goes_on_from_an_adapter(tmp_path: Path, tiny: Path) -> None:
    lines = write_lines(tmp_path / "t.jsonl", random_lines(4, seed=3))
    order = order_in(tmp_path / "first", tiny, training_file=lines, validation_file=lines, learning_rate=2e-2)
    first = of(Checkpointed, reports(order))[-1]
    again = order_in(tmp_path / "again", tiny, training_file=lines, validation_file=None, start_adapter=first.directory)
    assert of(Stepped, reports(again))[0].metrics.train_loss == pytest.approx(first.metrics.full_valid_loss, rel=1e-6)


def test_small_micro_batches_train_the_same(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = of(Stepped, reports(order_in(tmp_path / "whole", tiny)))
    monkeypatch.setattr(plan, "MICRO_BATCH_TOKENS", (50,))
    parts = of(Stepped, reports(order_in(tmp_path / "parts", tiny)))
    for one, other in zip(whole, parts, strict=True):
        assert one.metrics.train_loss == pytest.approx(other.metrics.train_loss, rel=1e-4)
        assert one.metrics.valid_loss == pytest.approx(other.metrics.valid_loss, rel=1e-4)


def peft_run(base: Path, order: TrainingOrder, steps: int, start: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The same steps with transformers, peft and torch's AdamW over padded batches."""
    tokenizer = Tokenizer.load(base)
    found = read(order, tokenizer).training
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), start, is_trainable=True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(parameters, weight_decay=0.0)
    reference = loop._Run(order, read(order, tokenizer), tokenizer)
    losses = []
    for step in range(1, steps + 1):
        batch = reference._schedule.batch(step)
        width = max(len(example.ids) for example in batch)
        ids, labels = torch.zeros(len(batch), width, dtype=torch.int64), torch.full((len(batch), width), -100)
        for row, example in enumerate(batch):
            tokens = torch.from_numpy(example.ids)
            ids[row, : len(tokens)] = tokens
            labels[row, : len(tokens)] = torch.where(torch.from_numpy(example.trained), tokens, -100)
        mask = torch.arange(width) < torch.tensor([[len(example.ids)] for example in batch])
        adam.zero_grad()
        loss = model(input_ids=ids, attention_mask=mask.long(), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        adam.param_groups[0]["lr"] = learning_rate(step, total=reference._schedule.steps, peak=order.learning_rate)
        adam.step()
        losses.append(loss.item())
    assert len(found) == 13
    return losses, {n.replace(".default", ""): p.detach() for n, p in model.named_parameters() if p.requires_grad}


def adapter_of(saved: Saved, start: Path, config: ModelConfig) -> dict[str, torch.Tensor]:
    """The trained numbers before they are rounded for a checkpoint."""
    adapter = Lora.load(start, config)
    AdapterOptimizer(adapter).restore(load_file(Path(saved.directory) / "state.safetensors"), steps=saved.step)
    return {name: tensor.detach() for name, tensor in adapter.tensors().items()}


def assert_trains_as_peft(tmp_path: Path, base: Path, order: TrainingOrder, tolerance: float, of_each: float) -> None:
    """Errors of losses and of the whole adapter's way, and of each tensor's.

    Adam makes a full step of the smallest gradient, whose sign may be rounding: that is the processor's own.
    """
    config, start = load(base).config, tmp_path / "start"
    Lora.fresh(config, rank=order.base.lora_rank, alpha=order.base.lora_alpha, seed=order.seed).save(start, "b")
    losses, theirs = peft_run(base, order, 6, start)
    ours = until_paused(msgspec.structs.replace(order, start_adapter=str(start)), 6)
    assert [s.metrics.train_loss for s in of(Stepped, ours)] == pytest.approx(losses, rel=tolerance)
    begun, trained = Lora.load(start, config).tensors(), adapter_of(of(Saved, ours)[-1], start, config)
    assert trained.keys() == theirs.keys()
    errors = {name: (trained[name] - tensor).norm() for name, tensor in theirs.items()}
    ways = {name: (tensor - begun[name]).norm() for name, tensor in theirs.items()}
    assert torch.stack([*errors.values()]).norm() <= tolerance * torch.stack([*ways.values()]).norm()
    for name, error in errors.items():
        assert error <= of_each * ways[name], name


def test_losses_and_adapter_after_six_steps_are_those_of_transformers_and_peft(tmp_path: Path, tiny: Path) -> None:
    assert_trains_as_peft(tmp_path, tiny, order_in(tmp_path, tiny), 1e-3, 1e-3)


@pytest.mark.model
def test_the_bundled_base_trains_as_with_transformers_and_peft(tmp_path: Path, bundled: Path) -> None:
    order = order_in(tmp_path, bundled, validation_file=None, learning_rate=1e-3)
    assert_trains_as_peft(tmp_path, bundled, order, 2e-3, 5e-2)


def test_the_final_checkpoint_loads_in_peft_and_answers_as_its_probe_says(tmp_path: Path, tiny: Path) -> None:
    last = of(Checkpointed, reports(order_in(tmp_path, tiny, learning_rate=2e-2)))[-1]
    assert digest(last.directory) == last.digest
    written = Probe.load(last.directory)
    plain = AutoModelForCausalLM.from_pretrained(tiny)
    ids = torch.tensor([written.token_ids])
    with torch.inference_mode():
        untuned = dict(enumerate(plain(ids).logits[0]))
        tuned = dict(enumerate(PeftModel.from_pretrained(plain, last.directory)(ids).logits[0]))
    assert max(written.top_logprobs) == len(written.token_ids) - 1
    assert written.agreement(tuned).largest_difference < 1e-4
    assert written.agreement(untuned).largest_difference > probe.TOLERANCE


def test_the_full_validation_loss_is_that_of_the_checkpoint_as_written(tmp_path: Path, tiny: Path) -> None:
    order = order_in(tmp_path, tiny, learning_rate=2e-2)
    last, decoder = of(Checkpointed, reports(order))[-1], load(tiny)
    adapter = Lora.load(last.directory, decoder.config)
    asked = read(order, Tokenizer.load(tiny)).validation
    measured = objectives.Supervised(decoder, adapter, 1024).evaluate(asked)
    assert last.metrics.full_valid_loss == pytest.approx(measured.loss, rel=1e-6)


def test_a_run_that_diverges_says_at_which_step_and_what_to_change(tmp_path: Path, tiny: Path) -> None:
    found = list(settled(order_in(tmp_path, tiny, learning_rate=1e38), lambda: False))
    last = found[-1]
    assert isinstance(last, Failed)
    assert last.code == "training_diverged"
    assert "at step 2" in last.message
    assert "learning_rate_multiplier" in last.message


def fails_at(nth: int, error: Exception, call: Callable[..., Any]) -> Callable[..., Any]:
    calls = 0

    def wrapped(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise error
        return call(*arguments, **named)

    return wrapped


@pytest.mark.parametrize("nth", range(1, 8))
def test_a_full_disk_is_told_and_leaves_whole_checkpoints_only(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """At whichever of a run's first writes it happens."""
    order = order_in(tmp_path, tiny)
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(Path, "write_bytes", fails_at(nth, full, Path.write_bytes))
    found = list(settled(order, lambda: False))
    assert isinstance(found[-1], Failed)
    assert found[-1].code == "disk_full"
    directories = {Path(r.directory).name for r in found if isinstance(r, Checkpointed | Saved)}
    assert {path.name for path in Path(order.directory).iterdir()} == directories
    for checkpoint in of(Checkpointed, found):
        assert digest(checkpoint.directory) == checkpoint.digest


def test_too_little_memory_is_told_with_advice(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(*_: object, **__: object) -> None:
        torch.empty(1 << 55)

    for stand_in in (allocate, fails_at(1, MemoryError(), allocate)):
        monkeypatch.setattr(objectives, "evaluate_and_backpropagate", stand_in)
        last = list(settled(order_in(tmp_path, tiny), lambda: False))[-1]
        assert isinstance(last, Failed)
        assert last.code == "out_of_memory"
        assert "batch_size" in last.message


def test_an_error_of_our_own_ends_in_a_report_too(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        objectives,
        "evaluate_and_backpropagate",
        fails_at(3, ZeroDivisionError("oops"), objectives.evaluate_and_backpropagate),
    )
    found = list(settled(order_in(tmp_path, tiny), lambda: False))
    assert kinds(found[:-1]) == ["prepared", "1", "2"]
    assert isinstance(found[-1], Failed)
    assert found[-1].code == "internal_error"
    assert "oops" in found[-1].message


def test_the_time_left_is_told_once_it_can_be_known(tmp_path: Path, tiny: Path) -> None:
    left = [stepped.seconds_left for stepped in of(Stepped, reports(order_in(tmp_path, tiny)))]
    assert left[0] is None
    assert all(seconds is not None and seconds > 0 for seconds in left[2:-1])
    assert left[-1] == 0
