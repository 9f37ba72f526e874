"""Divergence is told from noise."""

from pathlib import Path
from random import Random

import msgspec
import pytest

from tests.training.orders import chat, of, order_in, reports, write_lines
from tunery.messages import Checkpointed, Failed, Saved, Stepped
from tunery.training import trend
from tunery.training.process import settled
from tunery.training.trend import PATIENCE, Trend


def after(losses: list[float]) -> Trend:
    found = Trend()
    for loss in losses:
        found = found.after(loss)
    return found


def first_bad_step(losses: list[float]) -> int | None:
    found = Trend()
    for step, loss in enumerate(losses, start=1):
        found = found.after(loss)
        if found.diverging:
            return step
    return None


def test_a_loss_that_runs_away_is_told_within_some_tens_of_steps() -> None:
    falling = [4.0 - 0.1 * step for step in range(30)]
    assert first_bad_step(falling) is None
    step = first_bad_step(falling + [9.0] * 60)
    assert step is not None
    assert 30 + PATIENCE <= step <= 60 + PATIENCE


@pytest.mark.parametrize("seed", range(20))
def test_noise_around_a_falling_or_a_standing_loss_is_not_divergence(seed: int) -> None:
    random = Random(seed)
    falling = [abs(random.gauss(0.5 + 4.0 * 0.97**step, 0.8)) for step in range(600)]
    standing = [random.expovariate(1.0) for _ in range(600)]
    assert first_bad_step(falling) is None
    assert first_bad_step(standing) is None


def test_neither_a_short_jump_nor_a_rise_among_small_losses_is_divergence() -> None:
    assert first_bad_step([3.0] * 5 + [0.2] * 50 + [9.0] * 5 + [0.2] * 50) is None
    assert first_bad_step([0.05] * 20 + [0.6] * 200) is None


def test_a_trend_that_was_written_down_and_read_again_judges_alike() -> None:
    random = Random(3)
    losses = [random.uniform(0, 9) for _ in range(80)]
    found = Trend()
    for loss in losses:
        found = msgspec.json.decode(msgspec.json.encode(found), type=Trend).after(loss)
    assert found == after(losses)
    assert found.steps == 80


def test_a_run_that_diverges_stops_where_it_would_have_without_the_pause(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter that knows its examples by heart loses them at a far too high learning rate, in finite numbers."""
    lines = [chat("fox", "dog over"), chat("dog", "fox"), chat("lazy", "quick brown"), chat("which", "jumps")]
    named = {"training_file": write_lines(tmp_path / "t.jsonl", lines), "validation_file": None, "batch_size": 2}
    start = of(Checkpointed, reports(order_in(tmp_path / "a", tiny, **named, n_epochs=40, learning_rate=2e-2)))[-1]
    monkeypatch.setattr(trend, "PATIENCE", 8)
    named |= {"start_adapter": start.directory, "n_epochs": 60, "learning_rate": 0.5}
    order = order_in(tmp_path / "b", tiny, **named)
    order = msgspec.structs.replace(order, base=msgspec.structs.replace(order.base, learning_rate=1))
    whole = list(settled(order, lambda: False))
    failed, steps = whole[-1], of(Stepped, whole)
    assert isinstance(failed, Failed), [step.metrics.train_loss for step in steps]
    assert failed.code == "training_diverged"
    assert f"At step {steps[-1].metrics.step} the mean loss" in failed.message
    assert "learning_rate_multiplier was 0.5; try 0.125" in failed.message
    state = of(Saved, whole)[-1].directory
    resumed = list(settled(msgspec.structs.replace(order, resume_from=state), lambda: False))
    assert resumed[-1] == failed


def test_a_loss_that_runs_away_at_once_is_told_too() -> None:
    assert first_bad_step([4.5, 4.4, 6.0] + [7.5 + 0.3 * (step % 3) for step in range(60)]) is not None
