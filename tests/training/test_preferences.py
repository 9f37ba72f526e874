"""Preference tuning as a run: what it learns, tells and keeps."""

from pathlib import Path

import msgspec
import pytest

from tests.training.orders import (
    chat,
    dpo_order_in,
    of,
    order_in,
    preference,
    random_preferences,
    reports,
    write_lines,
)
from tests.training.test_loop import kinds, until_paused
from tests.waiting import PATIENCE
from tunery.bases import BaseModel
from tunery.errors import InvalidRequest, TuneryError
from tunery.messages import (
    Checkpointed,
    Dpo,
    Failed,
    Finished,
    Note,
    Prepared,
    Saved,
    StepMetrics,
    Stepped,
    TrainingOrder,
)
from tunery.models.loader import load
from tunery.models.lora import Lora
from tunery.models.tokenizer import Tokenizer
from tunery.training import plan
from tunery.training.data import read
from tunery.training.local import LocalTrainer
from tunery.training.process import settled
from tunery.training.state import fingerprint


def rows_of(order: TrainingOrder) -> list[StepMetrics]:
    return [stepped.metrics for stepped in of(Stepped, reports(order))]


def test_lines_are_counted_as_pairs(tmp_path: Path, tiny: Path) -> None:
    found = reports(dpo_order_in(tmp_path, tiny))
    assert kinds(found) == [
        *("prepared", "1", "2", "3", "saved", "4", "checkpoint", "saved"),
        *("5", "6", "saved", "7", "8", "checkpoint", "finished"),
    ]
    prepared = of(Prepared, found)[0]
    assert (prepared.train_examples, prepared.valid_examples, prepared.steps_per_epoch) == (13, 5, 4)
    assert of(Finished, found)[0].trained_tokens == 2 * prepared.tokens_per_epoch


def test_it_learns_which_answer_is_preferred(tmp_path: Path, tiny: Path) -> None:
    """Loss begins at log 2 and falls, margins rise, every pair is ranked right in the end."""
    lines = [preference(q, "quick fox", "lazy dog") for q in ("fox", "which name", "over the dog", "jumps")]
    lines += [preference(q, "lazy dog", "quick fox") for q in ("weather", "brown", "the intent", "name which")]
    file = write_lines(tmp_path / "t.jsonl", lines)
    order = dpo_order_in(tmp_path, tiny, training_file=file, validation_file=file, n_epochs=25, learning_rate=5e-3)
    rows = rows_of(order)
    first, last = rows[0], rows[-1]
    assert first.rewards is not None and last.rewards is not None and last.full_valid_rewards is not None
    assert first.train_loss == pytest.approx(0.693147, abs=1e-5)
    assert (first.rewards.margins, first.rewards.accuracies) == (0.0, 0.0)
    assert last.train_loss < 0.1
    assert last.rewards.margins > 2
    assert last.rewards.accuracies == last.full_valid_rewards.accuracies == 1.0
    assert last.full_valid_rewards.margins > 2


def test_rewards_of_validation_stand_where_its_losses_do(tmp_path: Path, tiny: Path) -> None:
    rows = rows_of(dpo_order_in(tmp_path, tiny))
    assert all(row.rewards and row.valid_rewards for row in rows)
    assert [row.step for row in rows if row.full_valid_rewards] == [4, 8]
    assert [row.step for row in rows if row.full_valid_loss] == [4, 8]
    alone = rows_of(dpo_order_in(tmp_path / "alone", tiny, validation_file=None))
    assert not any(row.valid_rewards or row.full_valid_rewards for row in alone)


def test_a_supervised_run_has_no_rewards(tmp_path: Path, tiny: Path) -> None:
    assert not any(
        row.rewards or row.valid_rewards or row.full_valid_rewards for row in rows_of(order_in(tmp_path, tiny))
    )


@pytest.mark.parametrize("step", range(1, 8))
@pytest.mark.parametrize("kind", ["fresh", "tuned further"])
def test_a_paused_run_goes_on_as_if_nothing_had_happened(tmp_path: Path, tiny: Path, step: int, kind: str) -> None:
    start = None
    if kind == "tuned further":
        start = of(Checkpointed, reports(order_in(tmp_path / "start", tiny)))[-1].directory
    whole = reports(dpo_order_in(tmp_path / "whole", tiny, start_adapter=start))
    order = dpo_order_in(tmp_path / "parts", tiny, start_adapter=start)
    first = until_paused(order, step)
    resumed = reports(msgspec.structs.replace(order, resume_from=of(Saved, first)[-1].directory))
    assert [s.metrics for s in of(Stepped, first + resumed)] == [s.metrics for s in of(Stepped, whole)]
    assert of(Checkpointed, resumed)[-1].digest == of(Checkpointed, whole)[-1].digest
    assert of(Finished, resumed)[0].trained_tokens == of(Finished, whole)[0].trained_tokens


def test_a_killed_process_s_run_ends_with_the_same_bytes(tmp_path: Path, tiny: Path) -> None:
    epochs = 40  # far from done after six steps, also where this test runs slowly and the trainer doesn't
    whole = reports(dpo_order_in(tmp_path / "whole", tiny, n_epochs=epochs))
    order = dpo_order_in(tmp_path / "killed", tiny, n_epochs=epochs)
    told: dict[int, StepMetrics] = {}
    for kill_after in (6, None):
        run, found = LocalTrainer().start(order), []
        for report in run.reports(wait=PATIENCE):
            assert report is not None
            found.append(report)
            if isinstance(report, Stepped) and report.metrics.step == kill_after:
                break
        assert run.stop() == ("stopped" if kill_after else None)
        told |= {stepped.metrics.step: stepped.metrics for stepped in of(Stepped, found)}
        order = msgspec.structs.replace(order, resume_from=of(Saved, found)[-1].directory)
    assert list(told.values()) == [stepped.metrics for stepped in of(Stepped, whole)]
    assert of(Checkpointed, found)[-1].digest == of(Checkpointed, whole)[-1].digest


def test_tuning_further_is_measured_from_where_it_starts(tmp_path: Path, tiny: Path) -> None:
    """Not from the base: the first step has no margin yet, whatever the start adapter prefers."""
    first = of(Checkpointed, reports(dpo_order_in(tmp_path / "first", tiny, learning_rate=2e-2)))[-1]
    rows = rows_of(dpo_order_in(tmp_path / "again", tiny, start_adapter=first.directory))
    assert rows[0].rewards is not None and rows[1].rewards is not None
    assert (rows[0].rewards.margins, rows[0].rewards.chosen) == (0.0, 0.0)
    assert rows[1].rewards.chosen != 0.0


def test_small_micro_batches_train_the_same(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rows_of(dpo_order_in(tmp_path / "whole", tiny))
    monkeypatch.setattr(plan, "MICRO_BATCH_TOKENS", (60,))
    for one, other in zip(whole, rows_of(dpo_order_in(tmp_path / "parts", tiny)), strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-4)
        assert one.valid_loss == pytest.approx(other.valid_loss, rel=1e-4)


def test_l2_multiplier_keeps_the_adapter_smaller(tmp_path: Path, tiny: Path) -> None:
    def size(l2_multiplier: float) -> float:
        dpo = Dpo(beta=0.1, l2_multiplier=l2_multiplier)
        order = dpo_order_in(tmp_path / str(l2_multiplier), tiny, dpo=dpo, learning_rate=2e-2)
        adapter = Lora.load(of(Checkpointed, reports(order))[-1].directory, load(tiny).config)
        return sum(float(tensor.square().sum()) for tensor in adapter.parameters())

    assert size(1.0) < 0.95 * size(0.0)


def test_a_run_that_diverges_says_so(tmp_path: Path, tiny: Path) -> None:
    last = list(settled(dpo_order_in(tmp_path, tiny, learning_rate=1e38), lambda: False))[-1]
    assert isinstance(last, Failed)
    assert last.code == "training_diverged"


def test_beta_is_part_of_what_a_state_is_of(tmp_path: Path, tiny: Path) -> None:
    order = dpo_order_in(tmp_path, tiny)
    state = of(Saved, until_paused(order, 2))[-1].directory
    with pytest.raises(TuneryError, match="of other settings"):
        reports(msgspec.structs.replace(order, resume_from=state, dpo=Dpo(beta=0.31)))


def test_states_of_supervised_jobs_from_before_dpo_stay_good() -> None:
    """What 0.1.0 wrote for this order."""
    order = TrainingOrder(
        job_id="ftjob-1",
        base=BaseModel(name="b", directory="", learning_rate=1e-3),
        start_adapter=None,
        training_file="t",
        validation_file=None,
        n_epochs=2,
        batch_size=4,
        learning_rate=5e-3,
        seed=7,
        directory="d",
        resume_from=None,
    )
    assert fingerprint(order) == "16b9b5844848e9fb8ff47000d54a51ca9f53c33c21ffc131e39e21dc76d55660"
    assert fingerprint(msgspec.structs.replace(order, dpo=Dpo())) != fingerprint(order)


def test_both_answers_of_a_line_become_examples(tmp_path: Path, tiny: Path) -> None:
    tokenizer, order = Tokenizer.load(tiny), dpo_order_in(tmp_path, tiny, validation_file=None)
    write_lines(Path(order.training_file), [preference("fox?", "dog", "lazy fox")])
    data = read(order, tokenizer)
    chosen, rejected = data.training
    assert data.together == 2
    assert (chosen.line, rejected.line) == (1, 1)
    assert tokenizer.decode(chosen.ids[chosen.trained].tolist()) == "dog<|im_end|>"
    assert tokenizer.decode(rejected.ids[rejected.trained].tolist()) == "lazy fox<|im_end|>"
    prompt = int(chosen.targets[0])
    assert chosen.ids[:prompt].tolist() == rejected.ids[:prompt].tolist()
    assert tokenizer.decode(chosen.ids[:prompt].tolist()).endswith("user\nfox?<|im_end|>\n<|im_start|>assistant\n")


def test_a_line_of_which_an_answer_is_cut_is_named_once(tmp_path: Path, tiny: Path) -> None:
    order = dpo_order_in(tmp_path, tiny, validation_file=None)
    write_lines(
        Path(order.training_file), [preference("fox", "dog " * 200, "fox " * 200), preference("fox", "dog", "fox")]
    )
    (note,) = read(order, Tokenizer.load(tiny)).notes
    assert "1 example of the training file had more than 200 tokens" in note.message
    assert note.message.endswith("line 1.")


def test_pairs_of_equal_answers_are_told(tmp_path: Path, tiny: Path) -> None:
    order = dpo_order_in(tmp_path, tiny, validation_file=None)
    write_lines(Path(order.training_file), [preference("fox", "dog", "fox"), preference("fox", "dog", "dog")])
    (note,) = read(order, Tokenizer.load(tiny)).notes
    assert note.message == (
        "1 pair of the training file had twice the same answer, from which nothing is learnt: line 2."
    )


def test_pairs_that_both_files_hold_are_told(tmp_path: Path, tiny: Path) -> None:
    lines = random_preferences(4, seed=5)
    file = write_lines(tmp_path / "both.jsonl", lines)
    (note,) = of(Note, reports(dpo_order_in(tmp_path, tiny, training_file=file, validation_file=file, n_epochs=1)))
    assert "4 examples of the validation file also stand" in note.message


def test_files_that_do_not_fit_the_method_are_refused(tmp_path: Path, tiny: Path) -> None:
    tokenizer = Tokenizer.load(tiny)
    pairs = dpo_order_in(tmp_path, tiny)
    chats = write_lines(tmp_path / "chats.jsonl", [chat("fox", "dog")])
    with pytest.raises(
        InvalidRequest, match=r"holds chat or completion examples; .* on preference examples"
    ) as refused:
        read(msgspec.structs.replace(pairs, validation_file=chats), tokenizer)
    assert (refused.value.param, refused.value.code) == ("validation_file", "invalid_validation_file")
    with pytest.raises(InvalidRequest, match=r"holds preference examples; .* on chat or completion examples"):
        read(msgspec.structs.replace(pairs, dpo=None), tokenizer)
