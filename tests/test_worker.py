"""Jobs from create to settled row, with a scripted trainer: what a worker writes, and what survives its death."""

import csv
import dataclasses
import errno
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import msgspec
import pytest
import sqlalchemy as sa

from tests.fake_training import Died, FakeClock, FakeTrainer
from tests.models.tiny import write_base
from tests.test_files import jsonl, keep, preference_jsonl
from tests.test_queue import add_account
from tests.waiting import until
from tunery import rates
from tunery.catalog import BUNDLED, Catalog
from tunery.errors import Conflict, InvalidRequest, NotFound, QuotaExceeded, StorageFull, WrongState
from tunery.files import Files
from tunery.imports import Imports
from tunery.jobs import Jobs, NewJob
from tunery.messages import Failed, TrainingOrder
from tunery.records import FileStatus, Job, JobStatus
from tunery.results import RESULT_COLUMNS, REWARD_COLUMNS
from tunery.run import Bench, Trainer
from tunery.settings import Settings
from tunery.store import Store
from tunery.store.blobs import FolderBlobs
from tunery.training.local import LocalTrainer
from tunery.worker import Worker

BASE = "gpt-35-turbo-0613"


class Shop:
    """A store with an account, its jobs, and workers made on demand."""

    def __init__(self, store: Store, settings: Settings) -> None:
        add_account(store, 1)
        add_account(store, 2)
        self.store, self.settings = store, settings
        self.files = Files(store, settings)
        self.imports = Imports(store, settings, self.files)
        self.catalog = Catalog(store, settings.models)
        self.jobs = Jobs(store, settings, self.catalog, self.files)

    def worker(self, trainer: Trainer | None = None) -> Worker:
        return Worker(self.bench(trainer or FakeTrainer()))

    def bench(self, trainer: Trainer) -> Bench:
        return Bench(self.store, self.settings, self.catalog, self.files, self.imports, trainer, threading.Event())

    def file(self, content: bytes | None = None, account: int = 1) -> str:
        return keep(self.files, jsonl() if content is None else content, account=account).id

    def job(self, **more: object) -> Job:
        wanted = {"model": BASE, "training_file": self.file(), **more}
        return self.jobs.create(1, msgspec.convert(wanted, NewJob))

    def run_checks(self) -> None:
        worker = self.worker()
        while worker.check_once():
            pass

    def run(self, trainer: Trainer | None = None) -> None:
        worker = self.worker(trainer)
        while worker.check_once():
            pass
        assert worker.work_once()

    def tune(self, **more: object) -> Job:
        job = self.job(**more)
        self.run()
        return self.jobs.get(1, job.id)

    def messages(self, job: Job) -> list[str]:
        return [event.message for event in self.jobs.events(job, limit=1000)[0]][::-1]

    def results(self, job: Job) -> list[dict[str, str]]:
        file = self.files.get(1, self.jobs.get(1, job.id).result_file or "")
        return list(csv.DictReader(io.StringIO(self.files.content(file).read_text())))


@pytest.fixture
def shop(store: Store, settings: Settings) -> Shop:
    return Shop(store, settings)


def test_a_job_ends_with_model_checkpoint_results_and_events(shop: Shop) -> None:
    job = shop.tune(suffix="first")
    assert job.status == JobStatus.SUCCEEDED
    assert job.fine_tuned_model == f"{BASE}.ft-{job.id.removeprefix('ftjob-')}-first"
    assert job.trained_tokens == 120
    assert shop.catalog.find(1, job.fine_tuned_model).adapter is not None
    checkpoints, _ = shop.jobs.checkpoints(job)
    assert [checkpoint.name for checkpoint in checkpoints] == [job.fine_tuned_model]
    assert [row["step"] for row in shop.results(job)] == [str(step) for step in range(1, 13)]
    messages = shop.messages(job)
    assert messages[0] == "Job enqueued."
    assert "Step 1: training loss=4.0000" in messages
    assert "Step 10: training loss=0.4000" in messages
    assert messages[-1].startswith("Job succeeded.")


def test_the_results_file_has_the_guide_s_columns_first_and_in_order(shop: Shop) -> None:
    assert tuple(shop.results(shop.tune())[0]) == RESULT_COLUMNS
    assert RESULT_COLUMNS[:7] == (
        "step", "train_loss", "training_accuracy", "train_mean_token_accuracy",
        "valid_loss", "valid_accuracy", "validation_mean_token_accuracy",
    )  # fmt: skip


def test_the_results_file_grows_while_the_job_runs(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunery.results.REFRESH_SECONDS", 0.0)
    monkeypatch.setattr("tunery.run.FLUSH_SECONDS", 0.0)
    job = shop.job()
    seen = []
    shop.run(FakeTrainer(between=lambda _order, step: seen.append(len(shop.results(job)) if step > 1 else 0)))
    assert seen == list(range(12))


def test_automatic_hyperparameters_are_written_back(shop: Shop) -> None:
    job = shop.tune(hyperparameters={"n_epochs": "auto", "batch_size": -1})
    assert job.resolved is not None
    assert job.resolved["n_epochs"] >= 1
    assert job.resolved["batch_size"] >= 1
    assert job.resolved["learning_rate_multiplier"] > 0


def test_what_automatic_chooses_is_known_once_the_file_is_checked(shop: Shop) -> None:
    wanted = NewJob(model=BASE, training_file=shop.file(jsonl(40)))
    with pytest.raises(InvalidRequest, match="still being checked"):
        shop.jobs.resolve(1, wanted)
    shop.run_checks()
    chosen = shop.jobs.resolve(1, wanted)
    assert (chosen.n_epochs, chosen.batch_size, chosen.learning_rate_multiplier) == (3, 4, 1.0)


def test_a_trainer_that_dies_goes_on_from_its_last_state_and_no_step_is_told_twice(shop: Shop) -> None:
    deaths = iter([7])

    def between(_order: TrainingOrder, step: int) -> None:
        if step == 7 and next(deaths, None):
            raise Died

    trainer = FakeTrainer(between=between)
    job = shop.job()
    shop.run(trainer)
    assert shop.jobs.get(1, job.id).status == JobStatus.SUCCEEDED
    assert [order.resume_from is not None for order in trainer.orders] == [False, True]
    assert (trainer.orders[1].resume_from or "").endswith("state-5")
    assert [row["step"] for row in shop.results(job)] == [str(step) for step in range(1, 13)]
    told = [message for message in shop.messages(job) if message.startswith("Step ")]
    assert len(told) == len(set(told)) == 2


def test_a_trainer_that_keeps_dying_fails_the_job_with_advice(shop: Shop) -> None:
    def between(_order: TrainingOrder, _step: int) -> None:
        raise Died

    job = shop.job()
    shop.run(FakeTrainer(between=between))
    failed = shop.jobs.get(1, job.id)
    assert failed.status == JobStatus.FAILED
    assert failed.error is not None
    assert failed.error["code"] == "trainer_died"
    assert "batch_size" in failed.error["message"]


def test_a_job_whose_worker_vanished_is_finished_by_the_next(shop: Shop, clock: FakeClock) -> None:
    class Killed(BaseException):
        """Stands for SIGKILL: nothing in the worker may run after it."""

    def between(_order: TrainingOrder, step: int) -> None:
        if step == 8:
            raise Killed

    job = shop.job()
    with pytest.raises(Killed):
        shop.run(FakeTrainer(between=between))
    assert shop.jobs.get(1, job.id).status == JobStatus.RUNNING
    assert not shop.worker().work_once()
    clock.advance(shop.settings.lease_seconds + 1)
    rescuer = FakeTrainer()
    shop.run(rescuer)
    assert shop.jobs.get(1, job.id).status == JobStatus.SUCCEEDED
    assert (rescuer.orders[0].resume_from or "").endswith("state-5")
    assert [row["step"] for row in shop.results(job)] == [str(step) for step in range(1, 13)]


def test_a_worker_that_lost_its_lease_writes_nothing_more(shop: Shop, clock: FakeClock) -> None:
    rescued = []

    def between(_order: TrainingOrder, step: int) -> None:
        if step == 8 and not rescued:
            clock.advance(shop.settings.lease_seconds + 1)
            rescued.append(shop.run())

    job = shop.job()
    shop.run(FakeTrainer(steps=20, between=between))
    done = shop.jobs.get(1, job.id)
    assert done.status == JobStatus.SUCCEEDED
    assert done.step == 12
    assert len(shop.results(job)) == 12


def test_cancel_ends_at_once_and_stays(shop: Shop) -> None:
    def between(_order: TrainingOrder, step: int) -> None:
        if step == 4:
            assert shop.jobs.cancel(1, job.id).status == JobStatus.CANCELLED

    job = shop.job()
    shop.run(FakeTrainer(between=between))
    assert shop.jobs.get(1, job.id).status == JobStatus.CANCELLED
    with pytest.raises(WrongState):
        shop.jobs.cancel(1, job.id)
    with pytest.raises(InvalidRequest):
        shop.catalog.find(1, job.output_name)


def test_a_paused_job_leaves_a_deployable_checkpoint_and_goes_on_where_it_was(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunery.run.FLUSH_SECONDS", 0.0)

    def between(_order: TrainingOrder, step: int) -> None:
        if step == 7:
            assert shop.jobs.pause(1, job.id).status == JobStatus.PAUSING

    job = shop.job()
    shop.run(FakeTrainer(between=between))
    paused = shop.jobs.get(1, job.id)
    assert paused.status == JobStatus.PAUSED
    checkpoint = shop.jobs.checkpoints(paused)[0][0]
    assert checkpoint.name.endswith(f":ckpt-step-{checkpoint.step}")
    assert shop.catalog.find(1, checkpoint.id).adapter == checkpoint.adapter
    shop.jobs.resume(1, job.id)
    rest = FakeTrainer()
    shop.run(rest)
    assert (rest.orders[0].resume_from or "").endswith(f"state-{checkpoint.step}")
    assert shop.jobs.get(1, job.id).status == JobStatus.SUCCEEDED


def test_a_job_that_has_not_trained_a_step_can_t_be_paused(shop: Shop) -> None:
    job = shop.job()
    with pytest.raises(WrongState):
        shop.jobs.pause(1, job.id)


def test_a_trainer_s_refusal_becomes_the_job_s_error(shop: Shop) -> None:
    class Refusing(FakeTrainer):
        def start(self, order: TrainingOrder) -> object:  # type: ignore[override]
            run = super().start(order)
            failed = Failed(code="nan_loss", message="Loss is NaN at step 3; lower learning_rate_multiplier.")
            run.reports = lambda *, wait: iter([failed])  # type: ignore[method-assign]
            return run

    job = shop.job()
    shop.run(Refusing())
    error = shop.jobs.get(1, job.id).error
    assert error == {
        "code": "nan_loss",
        "message": "Loss is NaN at step 3; lower learning_rate_multiplier.",
        "param": None,
    }


def test_a_file_that_turns_out_faulty_fails_the_job_that_waited_for_it(shop: Shop) -> None:
    job = shop.job(training_file=shop.file(b"{broken\n" * 20))
    shop.run()
    failed = shop.jobs.get(1, job.id)
    assert failed.status == JobStatus.FAILED
    assert failed.error is not None
    assert failed.error["param"] == "training_file"
    assert "line 1" in failed.error["message"]


def test_a_full_disk_while_checking_a_file_is_said_in_its_status(shop: Shop) -> None:
    class FullBlobs(FolderBlobs):
        @contextmanager
        def write(self, key: str) -> Iterator[BinaryIO]:
            raise StorageFull
            yield

    file = shop.file()
    full = Store(shop.store.database, FullBlobs(shop.settings.home / "blobs"), shop.store.clock)
    bench = dataclasses.replace(shop.bench(FakeTrainer()), store=full, files=Files(full, shop.settings))
    assert Worker(bench).check_once()
    settled = shop.files.get(1, file)
    assert settled.status == FileStatus.ERROR
    assert "disk is full" in (settled.status_details or "")


def test_a_full_disk_while_training_fails_the_job_and_keeps_the_worker(shop: Shop) -> None:
    def between(_order: TrainingOrder, step: int) -> None:
        if step == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    job = shop.job()
    shop.run(FakeTrainer(between=between))
    failed = shop.jobs.get(1, job.id)
    assert failed.error is not None
    assert "No space left" in failed.error["message"]
    assert shop.tune().status == JobStatus.SUCCEEDED


def test_tuning_goes_on_from_a_tuned_model_and_from_a_checkpoint(shop: Shop) -> None:
    first = shop.tune()
    second = shop.job(model=first.fine_tuned_model)
    trainer = FakeTrainer()
    shop.run(trainer)
    done = shop.jobs.get(1, second.id)
    assert trainer.orders[0].start_adapter is not None
    assert (done.fine_tuned_model or "").startswith(f"{BASE}.ft-")
    model = shop.catalog.tuned_model(1, done.fine_tuned_model or "")
    assert model is not None
    assert model.parent == first.fine_tuned_model
    checkpoint = shop.jobs.checkpoints(first)[0][0]
    assert shop.job(model=checkpoint.id).base == BASE


def test_equal_creates_with_one_idempotency_key_make_one_job(shop: Shop) -> None:
    wanted = NewJob(model=BASE, training_file=shop.file())
    first = shop.jobs.create(1, wanted, idempotency_key="k")
    results: list[Job] = []
    threads = [
        threading.Thread(target=lambda: results.append(shop.jobs.create(1, wanted, idempotency_key="k")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {job.id for job in results} == {first.id}
    with pytest.raises(Conflict):
        shop.jobs.create(1, NewJob(model=BASE, training_file=shop.file()), idempotency_key="k")


def test_the_queue_is_bounded(shop: Shop, settings: Settings) -> None:
    jobs = Jobs(shop.store, msgspec.structs.replace(settings, max_queued_jobs=2), shop.catalog, shop.files)
    file = shop.file()
    for _ in range(2):
        jobs.create(1, NewJob(model=BASE, training_file=file))
    with pytest.raises(QuotaExceeded):
        jobs.create(1, NewJob(model=BASE, training_file=file))


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": "gpt-9"}, "model"),
        ({"training_file": "file-none"}, "training_file"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"batch_size": 100_000}}, "hyperparameters.batch_size"),
        ({"hyperparameters": {"learning_rate_multiplier": -1.5}}, "hyperparameters.learning_rate_multiplier"),
        ({"suffix": "no.dots"}, "suffix"),
        ({"suffix": "x" * 41}, "suffix"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"method": {"type": "reinforcement"}}, "method.type"),
        ({"prompt_loss_weight": 0.1}, "prompt_loss_weight"),
    ],
)
def test_a_create_that_can_t_work_names_its_parameter(shop: Shop, change: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        shop.job(**change)
    assert (refused.value.param or "").startswith(param)


def test_files_of_other_accounts_and_purposes_are_refused(shop: Shop) -> None:
    with pytest.raises(InvalidRequest, match="does not exist"):
        shop.job(training_file=shop.file(account=2))
    results = shop.tune().result_file
    with pytest.raises(InvalidRequest, match="purpose"):
        shop.job(training_file=results)


def test_completion_data_does_not_train_a_chat_model(shop: Shop) -> None:
    lines = b"".join(b'{"prompt": "p%d", "completion": "c"}\n' % number for number in range(12))
    job = shop.job(training_file=shop.file(lines))
    shop.run()
    error = shop.jobs.get(1, job.id).error
    assert error is not None
    assert "completion examples" in error["message"]
    assert shop.tune(model="babbage-002", training_file=shop.file(lines)).status == JobStatus.SUCCEEDED


DPO = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.5, "n_epochs": 2, "batch_size": 4}}}


def test_a_preference_job_really_trains_and_tells_its_rewards(shop: Shop) -> None:
    """With the real trainer, in its process, on a tiny base."""
    write_base(shop.settings.models / BUNDLED)
    file = shop.file(preference_jsonl())
    job = shop.job(training_file=file, validation_file=file, method=DPO)
    shop.run(LocalTrainer())
    job = shop.jobs.get(1, job.id)
    assert job.status == JobStatus.SUCCEEDED, job.error
    assert job.resolved is not None
    assert job.resolved["dpo"] == {"beta": 0.5, "l2_multiplier": 0.0}
    rows = shop.results(job)
    assert tuple(rows[0]) == RESULT_COLUMNS + REWARD_COLUMNS
    assert REWARD_COLUMNS[:4] == ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins")
    assert [row["step"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert (rows[0]["rewards/margins"], float(rows[0]["train_loss"])) == ("0.0", pytest.approx(0.6931, abs=1e-4))
    assert float(rows[-1]["rewards/margins"]) > 0
    assert [row["step"] for row in rows if row["full_valid_rewards/margins"]] == ["3", "6"]
    checkpoints, _ = shop.jobs.checkpoints(job)
    assert {"train_loss", "rewards/margins", "full_valid_rewards/accuracies"} <= set(checkpoints[0].metrics)
    assert "6 steps." in next(message for message in shop.messages(job) if "training examples" in message)


def test_files_have_to_fit_the_method(shop: Shop) -> None:
    chats, pairs = shop.file(), shop.file(preference_jsonl())
    shop.run_checks()
    with pytest.raises(InvalidRequest, match=f"'{chats}' holds chat examples.*preferred_output") as refused:
        shop.job(training_file=chats, method=DPO)
    assert refused.value.param == "training_file"
    with pytest.raises(InvalidRequest, match=f"'{chats}' holds chat examples") as refused:
        shop.job(training_file=pairs, validation_file=chats, method=DPO)
    assert refused.value.param == "validation_file"
    with pytest.raises(InvalidRequest, match=f"""'{pairs}' holds preference examples.*method to {{"type": "dpo"}}"""):
        shop.job(training_file=pairs)
    with pytest.raises(InvalidRequest, match="tunes chat models") as refused:
        shop.job(model="babbage-002", training_file=pairs, method=DPO)
    assert refused.value.param == "model"


def test_a_file_that_is_still_being_checked_fails_the_job_if_it_does_not_fit_the_method(shop: Shop) -> None:
    job = shop.tune(method=DPO)
    assert job.error is not None
    assert job.error["param"] == "training_file"
    assert "holds chat examples" in job.error["message"]


def test_deleting_a_job_takes_its_model_and_leaves_its_files(shop: Shop) -> None:
    job = shop.tune()
    adapter = shop.catalog.find(1, job.fine_tuned_model or "").adapter or ""
    shop.jobs.delete(1, job.id)
    with pytest.raises(NotFound):
        shop.jobs.get(1, job.id)
    with pytest.raises(InvalidRequest):
        shop.catalog.find(1, job.fine_tuned_model or "")
    assert not shop.store.blobs.exists(f"adapters/{adapter}")
    assert shop.files.get(1, job.result_file or "").filename == "results.csv"


def test_deleting_a_job_that_ended_early_takes_its_checkpoints_bytes(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunery.run.FLUSH_SECONDS", 0.0)

    def between(_order: TrainingOrder, step: int) -> None:
        if step == 7:
            shop.jobs.pause(1, job.id)

    job = shop.job()
    shop.run(FakeTrainer(between=between))
    kept = [checkpoint.adapter for checkpoint in shop.jobs.checkpoints(shop.jobs.cancel(1, job.id))[0]]
    assert kept and all(shop.store.blobs.exists(f"adapters/{adapter}") for adapter in kept)
    shop.jobs.delete(1, job.id)
    assert not any(shop.store.blobs.exists(f"adapters/{adapter}") for adapter in kept)


def test_an_unfinished_job_can_t_be_deleted(shop: Shop) -> None:
    with pytest.raises(WrongState):
        shop.jobs.delete(1, shop.job().id)


def test_the_work_folder_of_a_settled_job_is_removed(shop: Shop) -> None:
    job = shop.tune()
    assert not (shop.settings.home / "work" / job.id).exists()


def test_a_pending_job_says_when_it_should_be_done_and_the_one_behind_it_says_later(shop: Shop) -> None:
    file = shop.file(jsonl(500))
    first, second = shop.job(training_file=file), shop.job(training_file=file)
    assert first.estimated_finish is not None
    assert second.estimated_finish is not None
    assert shop.store.now() < first.estimated_finish < second.estimated_finish


def test_the_estimate_learns_from_finished_jobs(shop: Shop) -> None:
    file = shop.file(jsonl(500))
    guess = shop.job(training_file=file, hyperparameters={"n_epochs": 2}).estimated_finish or 0
    shop.run(FakeTrainer(seconds=120.0))
    before = shop.store.now()
    learned = shop.job(training_file=file, hyperparameters={"n_epochs": 2}).estimated_finish or 0
    assert learned - before == 120 + rates.START_SECONDS
    assert guess - before != learned - before


def test_a_paused_job_s_work_folder_stays_until_it_is_cancelled(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunery.run.FLUSH_SECONDS", 0.0)
    job = shop.job()
    shop.run(FakeTrainer(between=lambda _order, step: shop.jobs.pause(1, job.id) and None if step == 7 else None))
    folder = shop.settings.home / "work" / job.id
    shop.worker().sweep()
    assert folder.exists()
    shop.jobs.cancel(1, job.id)
    shop.worker().sweep()
    assert not folder.exists()


TABLES = ("files", "jobs", "imports")


def test_a_database_that_fails_for_a_while_ends_no_thread_of_the_worker(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    worker, database = shop.worker(), shop.store.database
    with database.begin() as connection:
        for table in TABLES:
            connection.execute(sa.text(f"ALTER TABLE {table} RENAME TO {table}_away"))
    running = threading.Thread(target=worker.run, name="runner")
    running.start()
    until(lambda: {"runner", "checker", "importer"} <= {record.threadName for record in caplog.records})
    with database.begin() as connection:
        for table in TABLES:
            connection.execute(sa.text(f"ALTER TABLE {table}_away RENAME TO {table}"))
    job = shop.job()
    until(lambda: shop.jobs.get(1, job.id).status == JobStatus.SUCCEEDED)
    worker.stop()
    running.join()
