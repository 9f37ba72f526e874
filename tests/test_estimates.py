"""Estimates without a model: what is asked, answered, refused; a scripted planner stands for the process."""

import threading
from pathlib import Path

import msgspec
import pytest

from tests.fake_training import FakePlanner, FakeTrainer, plan_of
from tests.test_files import jsonl, preference_jsonl
from tests.test_worker import BASE, Shop, shop
from tests.waiting import PATIENCE
from tunery import rates
from tunery.errors import EstimateFailed, InvalidRequest, TooManyRequests
from tunery.estimates import Estimate, Estimates, checked
from tunery.jobs import NewJob
from tunery.messages import Dpo, Failed, Planned, PlanOrder

__all__ = ["shop"]


def estimates(shop: Shop, planner: FakePlanner) -> Estimates:
    return Estimates(shop.store, shop.settings, shop.files, shop.jobs, planner)


def estimate(shop: Shop, planner: FakePlanner | None = None, *, account: int = 1, **more: object) -> Estimate:
    given = more if "training_file" in more else {"training_file": ready(shop), **more}
    wanted = {"model": BASE, **given}
    return estimates(shop, planner or FakePlanner()).create(account, msgspec.convert(wanted, NewJob))


def ready(shop: Shop, content: bytes | None = None) -> str:
    file = shop.file(content)
    while shop.worker().check_once():
        pass
    return file


def test_an_estimate_asks_for_the_job_that_the_same_request_would_create(shop: Shop) -> None:
    planner = FakePlanner()
    file = ready(shop, jsonl(40))
    found = estimate(shop, planner, training_file=file, hyperparameters={"n_epochs": 2, "batch_size": 5}, seed=9)
    question = planner.questions[0]
    job = shop.job(training_file=file, hyperparameters={"n_epochs": 2, "batch_size": 5}, seed=9)
    trainer = FakeTrainer()
    shop.run(trainer)
    order = trainer.orders[0]
    for name in ("base", "n_epochs", "batch_size", "learning_rate", "seed", "training_file", "device", "memory_bytes"):
        assert getattr(question.order, name) == getattr(order, name), name
    assert (question.training_examples, question.validation_examples) == (40, 0)
    assert (found.model, found.base) == (job.model, "smollm2-135m-instruct")
    assert (found.training_examples, found.epochs, found.batch_size) == (40, 2, 5)
    assert (found.total_tokens, found.shared_tokens, found.computed_tokens) == (600, 240, 360)
    assert found.fits


def test_the_first_estimate_is_a_guess_from_a_measured_product_and_says_so(shop: Shop) -> None:
    planner = FakePlanner()
    found = estimate(shop, planner)
    assert planner.questions[0].measure
    assert found.seconds == rates.START_SECONDS + round(12e9 / (rates.EFFICIENCY * 1e9))
    assert (found.seconds_low, found.seconds_high) == (None, None)
    assert any("first guess" in note and "no error can be given" in note for note in found.notes)


def test_finished_jobs_teach_the_time_and_its_error(shop: Shop) -> None:
    for seconds in (24.0, 30.0):
        shop.job()
        shop.run(FakeTrainer(seconds=seconds))
    planner = FakePlanner()
    found = estimate(shop, planner)
    assert not planner.questions[0].measure
    assert found.seconds == rates.START_SECONDS + round(12e9 / ((12e9 / 24 + 12e9 / 30) / 2))
    assert found.seconds_low is not None
    assert found.seconds_high is not None
    assert found.seconds_low < found.seconds < found.seconds_high
    assert not any("first guess" in note for note in found.notes)


def test_a_job_that_was_paused_is_measured_by_its_steps_alone(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunery.run.FLUSH_SECONDS", 0.0)
    job = shop.job()
    shop.run(FakeTrainer(between=lambda _order, step: shop.jobs.pause(1, job.id) and None if step == 7 else None))
    with shop.store.database.read() as connection:
        assert rates.learned(connection, "smollm2-135m-instruct", "cpu") is None
    shop.jobs.resume(1, job.id)
    shop.run(FakeTrainer(seconds=60.0))
    with shop.store.database.read() as connection:
        rate = rates.learned(connection, "smollm2-135m-instruct", "cpu")
    assert rate is not None
    assert rate.flops == 12e9 / 60


def test_a_job_s_own_forecast_follows_its_plan_once_there_is_a_rate(shop: Shop) -> None:
    shop.job()
    shop.run(FakeTrainer(seconds=600.0))
    job = shop.job()
    seen = []
    shop.run(FakeTrainer(between=lambda _order, step: seen.append(shop.jobs.get(1, job.id).estimated_finish)))
    assert seen[0] == shop.store.now() + 600


def test_the_notes_say_what_was_sampled_and_what_would_be_refused(shop: Shop) -> None:
    plan = msgspec.structs.replace(plan_of(500), counted_steps=200, memory_available_bytes=1024**3)
    found = estimate(shop, FakePlanner(Planned(plan=plan, gemm_flops=1e9)))
    assert not found.fits
    assert any("200 of 500 steps" in note for note in found.notes)
    assert any("would be refused" in note for note in found.notes)
    assert "doesn't fit" in found.described()


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": "gpt-9"}, "model"),
        ({"training_file": "file-none"}, "training_file"),
        ({"validation_file": "file-none"}, "validation_file"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
        ({"method": {"type": "magic"}}, "method.type"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_a_create_refuses_an_estimate_refuses(shop: Shop, change: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        estimate(shop, **change)
    assert refused.value.param == param


def test_a_file_that_is_still_checked_or_doesn_t_fit_the_model_is_refused(shop: Shop) -> None:
    with pytest.raises(InvalidRequest, match="still being checked") as refused:
        estimate(shop, training_file=shop.file())
    assert refused.value.param == "training_file"
    lines = b"".join(b'{"prompt": "p%d", "completion": "c"}\n' % number for number in range(12))
    with pytest.raises(InvalidRequest, match="completion examples"):
        estimate(shop, training_file=ready(shop, lines))
    with pytest.raises(InvalidRequest, match="can't be used"):
        estimate(shop, training_file=ready(shop, b"{broken\n" * 20))


def test_files_of_two_formats_are_refused(shop: Shop) -> None:
    lines = b"".join(b'{"prompt": "p%d", "completion": "c"}\n' % number for number in range(12))
    with pytest.raises(InvalidRequest, match="holds completion examples") as refused:
        estimate(shop, model="smollm2-135m-instruct", validation_file=ready(shop, lines))
    assert refused.value.param == "validation_file"


def test_other_accounts_files_do_not_exist(shop: Shop) -> None:
    with pytest.raises(InvalidRequest, match="does not exist"):
        estimate(shop, account=2)


def test_what_the_process_refuses_is_the_request_s_fault_and_what_breaks_it_isn_t(shop: Shop) -> None:
    refusal = Failed(code="invalid_training_file", message="Line 3 has no text to train on.", param="training_file")
    with pytest.raises(InvalidRequest, match="Line 3") as refused:
        estimate(shop, FakePlanner(refusal))
    assert refused.value.param == "training_file"
    with pytest.raises(EstimateFailed, match="oops"):
        estimate(shop, FakePlanner(Failed(code="internal_error", message="oops")))


class Late(FakePlanner):
    def plan(self, question: PlanOrder, *, seconds: float) -> None:  # type: ignore[override]
        assert seconds > 0


def test_an_estimate_that_takes_too_long_is_given_up(shop: Shop) -> None:
    with pytest.raises(EstimateFailed, match="longer than 60 seconds"):
        estimate(shop, Late())


class Slow(FakePlanner):
    """Answers when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go_on = threading.Event(), threading.Event()

    def plan(self, question: PlanOrder, *, seconds: float) -> Planned | Failed | None:
        self.asked.set()
        assert self.go_on.wait(PATIENCE)
        return super().plan(question, seconds=seconds)


def test_an_account_has_one_estimate_at_a_time(shop: Shop) -> None:
    slow = Slow()
    room = estimates(shop, slow)
    wanted = NewJob(model=BASE, training_file=ready(shop))
    results: list[Estimate] = []
    thread = threading.Thread(target=lambda: results.append(room.create(1, wanted)))
    thread.start()
    assert slow.asked.wait(PATIENCE)
    with pytest.raises(TooManyRequests):
        room.create(1, wanted)
    slow.go_on.set()
    thread.join()
    assert results[0].steps == room.create(1, wanted).steps == 12


def test_a_local_file_is_checked_like_an_uploaded_one(shop: Shop, tmp_path: Path) -> None:
    target = shop.catalog.find(1, BASE)
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_bytes(jsonl(20))
    bad.write_bytes(jsonl(20) + b"{\n")
    (source,), requested = checked(target, {"training_file": good}, {"n_epochs": 2})
    assert (source.file.examples, requested.n_epochs, requested.dpo) == (20, 2, None)
    with pytest.raises(InvalidRequest, match="line 21") as refused:
        checked(target, {"training_file": bad}, {})
    assert refused.value.param == "training_file"


def test_a_local_file_of_preferences_is_estimated_as_the_job_that_takes_it(shop: Shop, tmp_path: Path) -> None:
    target = shop.catalog.find(1, BASE)
    pairs, chats = tmp_path / "pairs.jsonl", tmp_path / "chats.jsonl"
    pairs.write_bytes(preference_jsonl())
    chats.write_bytes(jsonl())
    _, requested = checked(target, {"training_file": pairs}, {})
    assert requested.dpo == Dpo()
    with pytest.raises(InvalidRequest, match="holds chat examples") as refused:
        checked(target, {"training_file": pairs, "validation_file": chats}, {})
    assert refused.value.param == "validation_file"


def test_an_estimate_of_a_preference_job_plans_its_pairs(shop: Shop) -> None:
    planner = FakePlanner()
    found = estimate(shop, planner, training_file=ready(shop, preference_jsonl()), method={"type": "dpo"})
    assert found.training_examples == 12
    assert planner.questions[0].order.dpo == Dpo()
    with pytest.raises(InvalidRequest, match="holds chat examples"):
        estimate(shop, training_file=ready(shop), method={"type": "dpo"})
