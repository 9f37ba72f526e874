"""One claim of one job: its files, its order, its trainer's reports, its settled row. Knows no HTTP and no torch."""

import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tunery import overfitting, queue, rates, recipe, tuned
from tunery.catalog import Catalog, Target
from tunery.errors import InvalidRequest, NotFound, TuneryError
from tunery.files import Files
from tunery.imports import Imports
from tunery.jobs import add_event
from tunery.messages import (
    Checkpointed,
    Failed,
    Finished,
    Note,
    Paused,
    Plan,
    Prepared,
    Report,
    Saved,
    StepMetrics,
    Stepped,
    TrainingOrder,
)
from tunery.queue import Lease
from tunery.records import File, FileStatus, Job, JobStatus, new_id
from tunery.results import ResultsFile, metrics_on_the_wire
from tunery.settings import Settings
from tunery.store import Store
from tunery.store.tables import jobs, metrics
from tunery.suitability import formats_of, refuse_mixed, refuse_unfit

WAIT_SECONDS = 0.3
FLUSH_SECONDS = 1.0
"""Steps are written to the database, and the lease is renewed, at most this often."""
REPORTED_STEPS = 10
"""An event for step 1 and each tenth, as Azure does."""
MOST_RESTARTS = 3
"""Of a trainer that dies without a report and without having got further."""


class Run(Protocol):
    """A trainer at work."""

    def reports(self, *, wait: float) -> Iterator[Report | None]:
        """Reports as they come; None after `wait` seconds without one. Ends when the trainer is gone."""
        ...

    def pause(self) -> None:
        """Ask for a stop after the current step; `Paused` is the answer."""
        ...

    def stop(self) -> str | None:
        """Kill it if it still lives and wait. Says how it ended if that was not of its own accord."""
        ...


class Trainer(Protocol):
    """The seam to training: a local process today, Ray behind the same two methods later."""

    def start(self, order: TrainingOrder) -> Run: ...


class TrainerDied(Exception):
    """The trainer ended without a last report."""


class Stopping(Exception):
    """The worker was asked to stop; its job goes on elsewhere, or here later."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What a worker works with."""

    store: Store
    settings: Settings
    catalog: Catalog
    files: Files
    imports: Imports
    trainer: Trainer
    stopping: threading.Event


class JobRun:
    """One claim of one job, from the lease to the settled row."""

    def __init__(self, bench: Bench, job: Job, lease: Lease, folder: Path) -> None:
        self._bench = bench
        self._store = bench.store
        self._settings = bench.settings
        self._job = job
        self._lease = lease
        self._folder = folder
        self._unwritten: list[Stepped] = []
        self._flushed = 0.0
        self._requested = msgspec.convert(job.requested, recipe.Requested)
        self._results = ResultsFile(bench.store, lease, rewards=self._requested.dpo is not None)
        self._pause_sent = False
        self._plan: Plan | None = None
        self._base_name = ""
        self._bytes = 0
        """Of training data that the whole run reads."""

    def train(self) -> None:
        """Raises LeaseLost, Stopping, or a TuneryError that becomes the job's error."""
        self._tell("started", "Job started.")
        training, validation, target = self._inputs()
        result_file = self._job.result_file or self._results.create(self._job.account_id)
        self._job = msgspec.structs.replace(self._job, result_file=result_file)
        order = self._order(training, validation, target)
        self._tell("training", "Training started.")
        self._tell("results", f"Created results file: {result_file}")
        restarts, last_step = 0, self._job.step
        while True:
            try:
                self._follow(self._bench.trainer.start(order))
                return
            except TrainerDied as death:
                restarts = restarts + 1 if self._job.step <= last_step else 1
                last_step = self._job.step
                if restarts > MOST_RESTARTS:
                    raise TuneryError(
                        f"The trainer died {restarts} times at step {last_step + 1} without getting further: {death}. "
                        "The most likely cause is too little memory: a smaller batch_size or shorter examples help.",
                        code="trainer_died",
                    ) from death
                self._tell(
                    new_id("died-"), f"The trainer died ({death}); it goes on from its last state.", level="warning"
                )
                order = msgspec.structs.replace(order, resume_from=self._state_dir())

    def _follow(self, run: Run) -> None:
        try:
            for report in run.reports(wait=FLUSH_SECONDS):
                if self._bench.stopping.is_set():
                    raise Stopping
                if report is not None and self._take(report):
                    return
                if report is None or time.monotonic() - self._flushed > FLUSH_SECONDS:
                    self._flush(run)
        finally:
            ended = run.stop()
        raise TrainerDied(ended or "it left without a last word")

    def _take(self, report: Report) -> bool:
        """Write one report down; True if it was the last."""
        match report:
            case Prepared():
                self._prepared(report)
            case Note():
                self._tell(f"note:{report.message}", report.message, level=report.level)
            case Stepped():
                self._unwritten.append(report)
            case Saved():
                self._saved(report)
            case Checkpointed():
                self._checkpointed(report)
            case Finished():
                self._finished(report)
                return True
            case Paused():
                self._paused(report)
                return True
            case Failed():
                self._write_steps()
                raise TuneryError(report.message, code=report.code, param=report.param)
        return False

    # --- before training ---

    def _inputs(self) -> tuple[File, File | None, Target]:
        """The checked files and the base; waits for checks that still run."""
        target = self._bench.catalog.find(self._job.account_id, self._job.model)
        formats = formats_of(target, self._requested)
        training = self._checked(self._job.training_file, "training_file", formats)
        validation = None
        if self._job.validation_file is not None:
            validation = self._checked(self._job.validation_file, "validation_file", formats)
            refuse_mixed(training, validation)
        return training, validation, target

    def _checked(self, file_id: str, param: str, formats: frozenset[str]) -> File:
        name = param.replace("_", " ")
        self._tell(f"{param}:running", f"Preprocessing running for the {name}.")
        while True:
            try:
                file = self._bench.files.get(self._job.account_id, file_id)
            except NotFound as error:
                raise InvalidRequest(f"The {param} '{file_id}' was deleted.", param=param) from error
            refuse_unfit(file, formats, param)
            if file.status == FileStatus.PROCESSED:
                self._tell(f"{param}:completed", f"Preprocessing completed for the {name}.")
                return file
            queue.beat(self._store, self._lease)
            if self._bench.stopping.wait(WAIT_SECONDS):
                raise Stopping

    def _order(self, training: File, validation: File | None, target: Target) -> TrainingOrder:
        base = target.base.model
        resolved = recipe.resolve(self._requested, training.examples or 0, base, self._job.seed)
        with queue.holding(self._store, self._lease) as (connection, _status):
            self._update(connection, resolved=msgspec.to_builtins(resolved))
        self._base_name, self._bytes = base.name, training.bytes * resolved.n_epochs
        self._folder.mkdir(parents=True, exist_ok=True)
        return TrainingOrder(
            job_id=self._job.id,
            base=base,
            start_adapter=target.adapter and self._bench.catalog.adapter(target.adapter).directory,
            training_file=str(self._bench.files.content(training)),
            validation_file=None if validation is None else str(self._bench.files.content(validation)),
            n_epochs=resolved.n_epochs,
            batch_size=resolved.batch_size,
            learning_rate=resolved.learning_rate,
            seed=self._job.seed,
            directory=str(self._folder),
            resume_from=self._state_dir(),
            save_every=self._settings.save_every,
            threads=self._settings.training_threads,
            device=self._settings.device,
            memory_bytes=self._settings.training_memory_bytes,
            dpo=resolved.dpo,
        )

    def _state_dir(self) -> str | None:
        state = self._job.state_dir
        return state if state is not None and Path(state).is_dir() else None

    # --- while it trains ---

    def _prepared(self, report: Prepared) -> None:
        self._tell(
            "prepared",
            f"{report.train_examples} training examples, {report.tokens_per_epoch} trained tokens an epoch, "
            f"{report.total_steps} steps.",
        )
        self._plan = report.plan
        with queue.holding(self._store, self._lease) as (connection, _status):
            self._update(connection, total_steps=report.total_steps)
            rate = rates.learned(connection, self._base_name, self._settings.device)
            if rate is not None:
                left = rate.seconds(report.plan.flops) * (1 - report.steps_done / report.total_steps)
                self._update(connection, estimated_finish=self._store.now() + round(left))

    def _flush(self, run: Run) -> None:
        """Write what has come in, keep the lease, and pass a wish to pause on."""
        self._write_steps()
        self._flushed = time.monotonic()
        status = queue.beat(self._store, self._lease)
        if status == JobStatus.PAUSING and not self._pause_sent:
            self._pause_sent = True
            run.pause()

    def _write_steps(self) -> None:
        if not self._unwritten:
            return
        steps, self._unwritten = self._unwritten, []
        last = steps[-1]
        left = last.seconds_left
        with queue.holding(self._store, self._lease) as (connection, _status):
            self._write_metrics(connection, [step.metrics for step in steps])
            self._update(
                connection,
                step=last.metrics.step,
                trained_tokens=last.trained_tokens,
                estimated_finish=None if left is None else self._store.now() + round(left),
            )
        self._results.refresh(self._result_file)

    def _write_metrics(self, connection: Connection, rows: list[StepMetrics]) -> None:
        # Steps repeated after a crash replace themselves: the same numbers again.
        connection.execute(sa.delete(metrics).where(metrics.c.job_id == self._job.id, metrics.c.step >= rows[0].step))
        for row in rows:
            values = msgspec.to_builtins(row)
            connection.execute(sa.insert(metrics).values(job_id=self._job.id, step=row.step, values=values))
            if row.step == 1 or row.step % REPORTED_STEPS == 0:
                self._add_step_event(connection, row)

    def _add_step_event(self, connection: Connection, row: StepMetrics) -> None:
        data = {"step": row.step, **metrics_on_the_wire(row)}
        message = f"Step {row.step}: training loss={row.train_loss:.4f}"
        add_event(connection, self._store, self._job.id, key=f"step:{row.step}", message=message, data=data)

    def _saved(self, report: Saved) -> None:
        self._write_steps()
        old = self._job.state_dir
        with queue.holding(self._store, self._lease) as (connection, _status):
            self._update(connection, state_dir=report.directory)
        if old is not None and old != report.directory:
            shutil.rmtree(old, ignore_errors=True)

    def _checkpointed(self, report: Checkpointed) -> None:
        self._write_steps()
        tuned.keep_adapter(self._store, report)
        with queue.holding(self._store, self._lease) as (connection, _status):
            name = tuned.add_checkpoint(connection, self._store, self._job, report)
            add_event(
                connection,
                self._store,
                self._job.id,
                key=f"checkpoint:{report.step}",
                message=f"Checkpoint created at step {report.step}: {name}",
            )
            advice = overfitting.warning(overfitting.evaluations(connection, self._job.id))
            if advice is not None:
                add_event(connection, self._store, self._job.id, key="overfitting", message=advice, level="warning")
        shutil.rmtree(report.directory, ignore_errors=True)

    # --- the end ---

    def _finished(self, report: Finished) -> None:
        self._write_steps()
        self._results.refresh(self._result_file, force=True)
        job, now = self._job, self._store.now()
        with queue.holding(self._store, self._lease) as (connection, _status):
            tuned.add_model(connection, self._store, job)
            self._measured(connection, report)
            for key, message in (
                ("best-checkpoint", overfitting.summary(overfitting.evaluations(connection, job.id))),
                ("completed-results", f"Completed results file: {job.result_file}"),
                ("succeeded", f"Job succeeded. The tuned model is {job.output_name}"),
            ):
                if message is not None:
                    add_event(connection, self._store, job.id, key=key, message=message)
            queue.settle(
                connection,
                self._lease,
                JobStatus.SUCCEEDED,
                fine_tuned_model=job.output_name,
                trained_tokens=report.trained_tokens,
                finished_at=now,
                estimated_finish=None,
                state_dir=None,
            )

    def _measured(self, connection: Connection, report: Finished) -> None:
        """How long all that was planned took: later estimates learn from it."""
        if self._plan is None or not report.seconds:
            return
        measured = rates.Measured(flops=self._plan.flops, bytes=self._bytes, seconds=report.seconds)
        rates.remember(connection, self._base_name, self._settings.device, measured)

    def _paused(self, report: Paused) -> None:
        self._write_steps()
        self._results.refresh(self._result_file, force=True)
        with queue.holding(self._store, self._lease) as (connection, _status):
            message = f"Job paused after step {report.step}. Its checkpoint can be deployed."
            add_event(connection, self._store, self._job.id, key=f"paused:{report.step}", message=message)
            queue.settle(connection, self._lease, JobStatus.PAUSED, estimated_finish=None)

    # --- rows ---

    @property
    def _result_file(self) -> str:
        assert self._job.result_file is not None
        return self._job.result_file

    def _tell(self, key: str, message: str, *, level: str = "info") -> None:
        with queue.holding(self._store, self._lease) as (connection, _status):
            add_event(connection, self._store, self._job.id, key=key, message=message, level=level)

    def _update(self, connection: Connection, **values: object) -> None:
        connection.execute(sa.update(jobs).where(jobs.c.id == self._job.id).values(values))
        self._job = msgspec.structs.replace(self._job, **values)


def fail(connection: Connection, store: Store, lease: Lease, *, code: str, message: str, param: str | None) -> None:
    """Within `queue.holding`: the job ends as failed, with the error that its users read."""
    error = {"code": code, "message": message, "param": param}
    add_event(connection, store, lease.job_id, key="failed", message=f"Job failed. {message}", level="error")
    queue.settle(
        connection, lease, JobStatus.FAILED, error=error, finished_at=store.now(), estimated_finish=None, state_dir=None
    )
