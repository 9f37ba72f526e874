"""What the evaluations of a job say: read as its user reads them, in events."""

import pytest

from tests.fake_training import Died, FakeTrainer
from tests.test_worker import Shop, shop
from tunery.messages import TrainingOrder
from tunery.overfitting import Evaluated, of_checkpoints, summary, warning
from tunery.records import Checkpoint

__all__ = ["shop"]


def found(*losses: float) -> list[Evaluated]:
    return [Evaluated(step, f"m:ckpt-step-{step}", loss) for step, loss in enumerate(losses, start=1)]


@pytest.mark.parametrize("losses", [(), (1.0,), (1.0, 1.1), (1.0, 1.1, 1.1), (1.0, 1.1, 1.05, 1.2), (1.2, 1.1, 1.0)])
def test_one_rise_is_no_overfitting(losses: tuple[float, ...]) -> None:
    assert warning(found(*losses)) is None


def test_two_rises_in_a_row_are_and_name_the_best_checkpoint() -> None:
    advice = warning(found(1.3, 0.9, 1.0, 1.1))
    assert advice is not None
    assert "0.9000 to 1.0000 to 1.1000" in advice
    assert "m:ckpt-step-2 of step 2" in advice
    for word in ("Fewer epochs", "more data", "learning_rate_multiplier"):
        assert word in advice


def test_of_equal_checkpoints_the_earlier_is_best_and_the_last_needs_no_word() -> None:
    assert "m:ckpt-step-1 " in (summary(found(0.5, 0.5, 0.7)) or "")
    assert summary(found(0.9, 0.5)) is None
    assert summary([]) is None


def levels(shop: Shop, job_id: str) -> list[tuple[str, str]]:
    job = shop.jobs.get(1, job_id)
    events = shop.jobs.events(job, limit=1000)[0][::-1]
    return [(event.level, event.message) for event in events if "best checkpoint" in event.message]


def test_a_job_that_overfits_says_so_once_and_names_its_best_checkpoint_at_the_end(shop: Shop) -> None:
    deaths = iter([11])

    def between(_order: TrainingOrder, step: int) -> None:
        if step == 11 and next(deaths, None):
            raise Died

    job = shop.job()
    shop.run(FakeTrainer(between=between, valid_losses={2: 0.9, 4: 0.5, 6: 0.6, 8: 0.7, 10: 0.8, 12: 0.9}))
    told = levels(shop, job.id)
    assert [level for level, _ in told] == ["warning", "info"]
    best = f"{job.output_name}:ckpt-step-4"
    assert all(f"{best} of step 4" in message for _, message in told)
    assert shop.catalog.find(1, best).adapter is not None


def test_a_job_that_got_better_to_its_end_says_nothing(shop: Shop) -> None:
    job = shop.job()
    shop.run(FakeTrainer(valid_losses={4: 0.9, 8: 0.7, 12: 0.5}))
    assert levels(shop, job.id) == []


def test_checkpoints_that_were_read_say_the_same_in_any_order() -> None:
    made = [
        Checkpoint(
            id=f"ftchkpt-{step}",
            job_id="ftjob-1",
            account_id=1,
            created_at=0,
            step=step,
            name=f"m:ckpt-step-{step}",
            adapter="",
            metrics={"full_valid_loss": loss} if loss else {"train_loss": 1.0},
        )
        for step, loss in ((3, 0.7), (1, 0.9), (2, None))
    ]
    assert [(each.step, each.loss) for each in of_checkpoints(made)] == [(1, 0.9), (3, 0.7)]
