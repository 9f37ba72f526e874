"""What a job would cost, before it starts: steps, tokens, time and memory. Knows no HTTP and no torch."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from tunery import examples, rates, recipe
from tunery.catalog import Target
from tunery.errors import EstimateFailed, InvalidRequest, TooManyRequests
from tunery.files import TRAINING, Files
from tunery.jobs import Jobs, NewJob
from tunery.messages import Failed, Plan, Planned, PlanOrder, TrainingOrder
from tunery.rates import Rate
from tunery.records import File, FileStatus
from tunery.settings import Settings
from tunery.store import Store
from tunery.suitability import PREFERENCE, formats_of, refuse_mixed, refuse_unchecked, refuse_unfit

AT_ONCE = 2
"""Estimates of all accounts together; an account has one at a time."""
SECONDS = 60.0
"""An estimate that takes longer is given up."""


class Planner(Protocol):
    """The seam to what knows the models: a short local process."""

    def plan(self, question: PlanOrder, *, seconds: float) -> Planned | Failed | None:
        """None if it took longer than `seconds`."""
        ...


class Source(NamedTuple):
    """A checked file and where its content lies."""

    file: File
    path: Path


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens, steps and seconds are those of the whole job, all epochs."""

    model: str
    base: str
    """The weights behind `model`."""
    training_examples: int
    validation_examples: int
    epochs: int
    batch_size: int
    steps: int
    trained_tokens: int
    total_tokens: int
    """Positions that examples would take one by one, without padding."""
    shared_tokens: int
    """Of these, the ones that needn't be computed because another example of the batch begins alike."""
    computed_tokens: int
    seconds: int
    seconds_low: int | None
    """The error that finished jobs' estimates would have had; None, with a note, as long as there are none."""
    seconds_high: int | None
    memory_bytes: int
    memory_available_bytes: int
    fits: bool
    notes: list[str]
    """How far the numbers can be trusted."""

    def described(self) -> str:
        """For a terminal."""
        margin = "" if self.seconds_low is None else f" ({_span(self.seconds_low)} to {_span(self.seconds_high or 0)})"
        rows = {
            "model": self.model if self.model == self.base else f"{self.model} ({self.base})",
            "examples": f"{self.training_examples:,} to train, {self.validation_examples:,} to validate",
            "steps": f"{self.steps:,} ({self.epochs} epochs, batches of {self.batch_size})",
            "trained tokens": f"{self.trained_tokens:,}",
            "computed tokens": f"{self.computed_tokens:,}, of {self.total_tokens:,} one by one",
            "time": f"about {_span(self.seconds)}{margin}",
            "memory": f"{_gibibytes(self.memory_bytes)}, {_gibibytes(self.memory_available_bytes)} free: "
            + ("fits" if self.fits else "doesn't fit"),
        }
        lines = [f"{name:16} {value}" for name, value in rows.items()]
        return "\n".join([*lines, *(f"- {note}" for note in self.notes)])


class Estimates:
    def __init__(self, store: Store, settings: Settings, files: Files, jobs: Jobs, planner: Planner) -> None:
        self._store, self._settings, self._files, self._jobs = store, settings, files, jobs
        self._planner = planner
        self._busy: set[int] = set()
        self._lock = threading.Lock()

    def create(self, account_id: int, wanted: NewJob) -> Estimate:
        """Of the job that the same request would create.

        Raises:
            InvalidRequest: as creating the job would, and while a file is still being checked. TooManyRequests: others
            are being made. EstimateFailed: it took too long, or its process ended.
        """
        target, requested, training, validation = self._jobs.understood(account_id, wanted)
        sources = [
            self._source(file, param)
            for file, param in ((training, "training_file"), (validation, "validation_file"))
            if file is not None
        ]
        with self._place(account_id):
            return self.of(target, sources, requested, recipe.seed(wanted.seed))

    def of(self, target: Target, sources: list[Source], requested: recipe.Requested, seed: int) -> Estimate:
        """`sources`: the training file and, if there is one, the validation file. Waits for a process of its own."""
        if len(sources) > 1:
            refuse_mixed(sources[0].file, sources[1].file)
        base = target.base.model
        resolved = recipe.resolve(requested, sources[0].file.examples or 0, base, seed)
        with self._store.database.read() as connection:
            rate = rates.learned(connection, base.name, self._settings.device)
        order = self._order(target, sources, resolved)
        counts = [source.file.examples or 0 for source in sources] + [0]
        answer = self._planner.plan(
            PlanOrder(order=order, training_examples=counts[0], validation_examples=counts[1], measure=rate is None),
            seconds=SECONDS,
        )
        planned = _understood(answer)
        return _estimate(target, resolved, (counts[0], counts[1]), planned, rate)

    def _source(self, file: File, param: str) -> Source:
        refuse_unchecked(file, param)
        return Source(file, self._files.content(file))

    def _order(self, target: Target, sources: list[Source], resolved: recipe.Recipe) -> TrainingOrder:
        return TrainingOrder(
            job_id="estimate",
            base=target.base.model,
            start_adapter=None,  # costs what a fresh one costs
            training_file=str(sources[0].path),
            validation_file=str(sources[1].path) if len(sources) > 1 else None,
            n_epochs=resolved.n_epochs,
            batch_size=resolved.batch_size,
            learning_rate=resolved.learning_rate,
            seed=resolved.seed,
            directory="",
            resume_from=None,
            threads=self._settings.training_threads,
            device=self._settings.device,
            memory_bytes=self._settings.training_memory_bytes,
            dpo=resolved.dpo,
        )

    @contextmanager
    def _place(self, account_id: int) -> Iterator[None]:
        with self._lock:
            if account_id in self._busy or len(self._busy) >= AT_ONCE:
                raise TooManyRequests("Another estimate is being made. Please retry after a moment.")
            self._busy.add(account_id)
        try:
            yield
        finally:
            with self._lock:
                self._busy.remove(account_id)


def checked(
    target: Target, paths: Mapping[str, Path], hyperparameters: dict[str, Any]
) -> tuple[list[Source], recipe.Requested]:
    """Files that weren't uploaded, by parameter, the training file first; a file of preferences asks for dpo.

    Raises InvalidRequest if one can't train this model.
    """
    sources = [_checked(path) for path in paths.values()]
    method = {"type": "dpo"} if sources[0].file.format == PREFERENCE else None
    requested = recipe.parse(hyperparameters, method, base=target.base.model)
    formats = formats_of(target, requested)
    for param, source in zip(paths, sources, strict=True):
        refuse_unfit(source.file, formats, param)
    return sources, requested


def _checked(path: Path) -> Source:
    with path.open("rb") as stream:
        summary = examples.check(stream, on_finding=lambda _finding: None)
    file = File(
        id=path.name,
        account_id=0,
        purpose=TRAINING,
        filename=path.name,
        bytes=path.stat().st_size,
        blob="",
        created_at=0,
        status=FileStatus.ERROR if summary.errors else FileStatus.PROCESSED,
        status_details=examples.describe(summary),
        format=summary.format,
        examples=summary.examples,
    )
    return Source(file, path)


def _span(seconds: int) -> str:
    if seconds < 90:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _gibibytes(count: int) -> str:
    return f"{count / 1024**3:.1f} GiB"


def _understood(answer: Planned | Failed | None) -> Planned:
    if answer is None:
        raise EstimateFailed(
            f"The estimate took longer than {SECONDS:.0f} seconds and was given up: the machine is busy, or the "
            "examples are very long. The job itself can be created all the same."
        )
    if isinstance(answer, Planned):
        return answer
    if answer.code == "internal_error":
        raise EstimateFailed(f"The estimate couldn't be made: {answer.message}")
    raise InvalidRequest(answer.message, param=answer.param, code=answer.code)


def _estimate(
    target: Target, resolved: recipe.Recipe, counts: tuple[int, int], planned: Planned, rate: Rate | None
) -> Estimate:
    plan = planned.plan
    speed = rate or Rate(flops=rates.EFFICIENCY * (planned.gemm_flops or 1.0), low=None, high=None, jobs=0)
    seconds = rates.START_SECONDS + speed.seconds(plan.flops)
    return Estimate(
        model=target.name,
        base=target.base.model.name,
        training_examples=counts[0],
        validation_examples=counts[1],
        epochs=resolved.n_epochs,
        batch_size=resolved.batch_size,
        steps=plan.steps,
        trained_tokens=plan.trained_tokens,
        total_tokens=plan.total_tokens,
        shared_tokens=plan.total_tokens - plan.computed_tokens,
        computed_tokens=plan.computed_tokens,
        seconds=round(seconds),
        seconds_low=None if speed.low is None else round(seconds * speed.low),
        seconds_high=None if speed.high is None else round(seconds * speed.high),
        memory_bytes=plan.memory_bytes,
        memory_available_bytes=plan.memory_available_bytes,
        fits=plan.fits,
        notes=_notes(plan, speed),
    )


def _notes(plan: Plan, rate: Rate) -> list[str]:
    notes = []
    if rate.jobs == 0:
        notes.append(
            "The time is a first guess from the speed of one matrix product: no job on this base and device has "
            "finished yet, so no error can be given."
        )
    elif rate.low is None:
        notes.append("The time follows the one job that has finished; its error is known after a second one.")
    if plan.counted_steps < plan.steps:
        notes.append(f"Counted on {plan.counted_steps} of {plan.steps} steps and scaled.")
    if not plan.fits:
        notes.append("The job would be refused: there isn't enough free memory for it.")
    notes.append("Waiting behind other jobs isn't counted.")
    return notes
