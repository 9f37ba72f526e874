"""Fine-tuning jobs as users see them: create, look at, cancel, pause, resume, delete. Writes rows, never trains."""

from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tunery import adapters, idempotency, quotas, recipe
from tunery.catalog import Catalog, Target, starts_from
from tunery.errors import Conflict, InvalidRequest, NotFound, WrongState
from tunery.files import Files
from tunery.messages import StepMetrics
from tunery.rates import finish_time
from tunery.recipe import Recipe
from tunery.records import (
    TERMINAL,
    Checkpoint,
    Event,
    File,
    Job,
    JobStatus,
    may_move,
    new_id,
)
from tunery.settings import Settings
from tunery.store import Store
from tunery.store.database import RecordT, many, one, record
from tunery.store.tables import checkpoints, deployments, events, jobs, metrics, models
from tunery.suitability import formats_of, refuse_mixed, refuse_unchecked, refuse_unfit


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A create request, field by field as on the wire; types are checked, meaning isn't yet."""

    model: str
    training_file: str
    validation_file: str | None = None
    hyperparameters: dict[str, Any] | None = None
    method: dict[str, Any] | None = None
    suffix: str | None = None
    seed: int | None = None
    metadata: dict[str, str] | None = None
    integrations: list[Any] | None = None
    trainingType: str | int | None = None
    prompt_loss_weight: float | None = None


class Understood(NamedTuple):
    """A create request that nothing is wrong with, as far as can be known before its files are checked."""

    target: Target
    requested: recipe.Requested
    training: File
    validation: File | None


class Sought(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs are listed: those for which all of this is true."""

    search: str = ""
    """Stands in the id, in the suffix or in the name of the model that it starts from or made, in any case."""
    statuses: frozenset[JobStatus] = frozenset()
    """Empty: any."""
    tuned_from: str = ""
    """This model, or a checkpoint of it."""

    def condition(self, account_id: int) -> sa.ColumnElement[bool]:
        found = [jobs.c.account_id == account_id]
        if self.search:
            named = (jobs.c.id, jobs.c.suffix, jobs.c.model, jobs.c.fine_tuned_model)
            found.append(sa.or_(*(column.icontains(self.search, autoescape=True) for column in named)))
        if self.statuses:
            found.append(jobs.c.status.in_(self.statuses))
        if self.tuned_from:
            found.append(starts_from(self.tuned_from))
        return sa.and_(*found)


EVERY = Sought()


class Jobs:
    """Jobs of all accounts; every call names the account it acts for."""

    def __init__(self, store: Store, settings: Settings, catalog: Catalog, files: Files) -> None:
        self._store = store
        self._settings = settings
        self._catalog = catalog
        self._files = files

    def create(self, account_id: int, wanted: NewJob, *, idempotency_key: str | None = None) -> Job:
        """Check everything that can be known now, and queue the job.

        Raises:
            InvalidRequest: with the parameter that is wrong; QuotaExceeded: the queue is full; Conflict: the
            idempotency key was used for a different request.
        """
        digest = idempotency.digest(wanted)
        earlier = idempotency.earlier(self._store, jobs, account_id, idempotency_key, digest)
        if earlier is not None:
            return record(Job, earlier)
        target, requested, training, _ = self.understood(account_id, wanted)
        row = {
            **self._row(account_id, wanted, target, requested),
            "idempotency_key": idempotency_key,
            "idempotency_hash": digest,
        }
        try:
            with self._store.database.begin() as connection:
                ahead = quotas.admit_job(connection, self._settings, account_id)
                finish = finish_time(
                    connection,
                    account_id,
                    training,
                    requested,
                    base=target.base.model.name,
                    device=self._settings.device,
                    now=self._store.now(),
                )
                connection.execute(sa.insert(jobs).values(**row, estimated_finish=finish))
                waits = "" if ahead == 0 else f" Waiting for {ahead} job{'s' if ahead > 1 else ''} ahead."
                add_event(connection, self._store, str(row["id"]), key="enqueued", message=f"Job enqueued.{waits}")
                return _job(connection, account_id, str(row["id"]))  # as it was made, not as a worker left it since
        except sa.exc.IntegrityError:
            # Two equal requests at once: the unique key let one through, both get its row.
            earlier = idempotency.earlier(self._store, jobs, account_id, idempotency_key, digest)
            if earlier is None:
                raise
            return record(Job, earlier)

    def understood(self, account_id: int, wanted: NewJob) -> Understood:
        """What a create request asks for. Raises InvalidRequest, with the parameter, for all that creating refuses."""
        target = self._catalog.find(account_id, wanted.model)
        requested = recipe.parse(wanted.hyperparameters, wanted.method, base=target.base.model)
        formats, validation = formats_of(target, requested), None
        if wanted.validation_file is not None:
            validation = self._fit_file(account_id, wanted.validation_file, "validation_file", formats)
        training = self._fit_file(account_id, wanted.training_file, "training_file", formats)
        recipe.check_metadata(wanted.metadata)
        recipe.validate_suffix(wanted.suffix)
        kind = "supervised" if requested.dpo is None else "dpo"
        recipe.check_prompt_loss_weight(wanted.prompt_loss_weight, "prompt_loss_weight", kind)
        return Understood(target, requested, training, validation)

    def resolve(self, account_id: int, wanted: NewJob) -> Recipe:
        """What the job that the same request would create trains with: automatic values from the checked data.

        Raises InvalidRequest as creating it would, and while a file is still being checked.
        """
        target, requested, training, validation = self.understood(account_id, wanted)
        for param, file in (("training_file", training), ("validation_file", validation)):
            if file is not None:
                refuse_unchecked(file, param)
        if validation is not None:
            refuse_mixed(training, validation)
        return recipe.resolve(requested, training.examples or 0, target.base.model, recipe.seed(wanted.seed))

    def get(self, account_id: int, job_id: str) -> Job:
        with self._store.database.read() as connection:
            return _job(connection, account_id, job_id)

    def page(
        self,
        account_id: int,
        *,
        after: str | None = None,
        skip: int = 0,
        limit: int = 20,
        metadata: dict[str, str] | None = None,
        sought: Sought = EVERY,
    ) -> tuple[list[Job], bool]:
        """A page of jobs, newest first, and whether more follow."""
        query = sa.select(jobs).where(sought.condition(account_id)).offset(skip)
        with self._store.database.read() as connection:
            page, more = _page(connection, Job, query, after=after, limit=limit if not metadata else 1_000_000)
        if metadata:
            page = [job for job in page if metadata.items() <= (job.metadata or {}).items()]
            page, more = page[:limit], len(page) > limit
        return page, more

    def count(self, account_id: int, sought: Sought) -> int:
        query = sa.select(sa.func.count()).select_from(jobs).where(sought.condition(account_id))
        with self._store.database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def steps(self, job: Job, *, after: int = 0, limit: int = 1000) -> tuple[list[StepMetrics], bool]:
        """What was measured at the steps behind `after`, in their order, and whether more follow."""
        query = sa.select(metrics.c["values"]).where(metrics.c.job_id == job.id, metrics.c.step > after)
        with self._store.database.read() as connection:
            found = connection.execute(query.order_by(metrics.c.step).limit(limit + 1)).scalars().all()
        return [msgspec.convert(values, StepMetrics) for values in found[:limit]], len(found) > limit

    def events(self, job: Job, *, after: str | None = None, limit: int = 20) -> tuple[list[Event], bool]:
        query = sa.select(events).where(events.c.job_id == job.id)
        with self._store.database.read() as connection:
            return _page(connection, Event, query, after=after, limit=limit)

    def checkpoints(self, job: Job, *, after: str | None = None, limit: int = 10) -> tuple[list[Checkpoint], bool]:
        query = sa.select(checkpoints).where(checkpoints.c.job_id == job.id)
        with self._store.database.read() as connection:
            return _page(connection, Checkpoint, query, after=after, limit=limit)

    def cancel(self, account_id: int, job_id: str) -> Job:
        """At once, whatever the worker does or whether there is one: its next write is refused."""
        now = self._store.now()
        return self._move(
            account_id,
            job_id,
            JobStatus.CANCELLED,
            "Job cancelled.",
            finished_at=now,
            lease_owner=None,
            lease_until=None,
            estimated_finish=None,
        )

    def pause(self, account_id: int, job_id: str) -> Job:
        """Ask the worker to stop after its step; the job is `pausing` until it has, then `paused` and deployable."""
        job = self.get(account_id, job_id)
        if job.status == JobStatus.RUNNING and job.step < 1:
            raise WrongState(f"The job '{job_id}' hasn't trained a step yet. Pause it once it has.")
        return self._move(account_id, job_id, JobStatus.PAUSING, "Pause requested.")

    def resume(self, account_id: int, job_id: str) -> Job:
        return self._move(account_id, job_id, JobStatus.RESUMING, "Resume requested.")

    def delete(self, account_id: int, job_id: str) -> None:
        """Forget a finished job with its events and metrics. Its files stay; its model goes with it.

        Raises:
            WrongState: it isn't finished; ModelDeployed: its model is deployed.
        """
        with self._store.database.read() as connection:
            job = _job(connection, account_id, job_id)
            if job.status not in TERMINAL:
                raise WrongState(f"The job '{job_id}' is {job.status}. Cancel it or wait for its end.")
            model = connection.execute(sa.select(models.c.name).where(models.c.job_id == job_id)).scalar()
            serving = connection.execute(
                sa.select(deployments.c.name).where(
                    deployments.c.account_id == account_id, deployments.c.custom_model == job.output_name
                )
            ).scalar()
        if serving is not None and model is None:
            raise Conflict(f"The deployment '{serving}' serves a checkpoint of this job. Delete the deployment first.")
        if model is not None:
            self._catalog.delete(account_id, model)
        with self._store.database.begin() as connection:
            for table in (events, metrics):
                connection.execute(sa.delete(table).where(table.c.job_id == job_id))
            gone = sa.delete(checkpoints).where(checkpoints.c.job_id == job_id).returning(checkpoints.c.adapter)
            unnamed = adapters.unnamed(connection, [digest for (digest,) in connection.execute(gone)])
            connection.execute(sa.delete(jobs).where(jobs.c.id == job_id))
        for digest in unnamed:
            self._store.blobs.delete(adapters.blob(digest))

    def _fit_file(self, account_id: int, file_id: str, param: str, formats: frozenset[str]) -> File:
        try:
            file = self._files.get(account_id, file_id)
        except NotFound as error:
            raise InvalidRequest(f"The {param} '{file_id}' does not exist.", param=param) from error
        refuse_unfit(file, formats, param)
        return file

    def _row(self, account_id: int, wanted: NewJob, target: Target, requested: recipe.Requested) -> dict[str, Any]:
        return {
            "id": new_id("ftjob-"),
            "account_id": account_id,
            "created_at": self._store.now(),
            "status": JobStatus.PENDING,
            "model": target.name,
            "base": target.base.name,
            "training_file": wanted.training_file,
            "validation_file": wanted.validation_file,
            "requested": msgspec.to_builtins(requested),
            "method": wanted.method,
            "suffix": wanted.suffix,
            "seed": recipe.seed(wanted.seed),
            "metadata": wanted.metadata,
            "integrations": wanted.integrations,
            "training_type": None if wanted.trainingType is None else str(wanted.trainingType),
        }

    def _move(self, account_id: int, job_id: str, status: JobStatus, message: str, **values: Any) -> Job:
        with self._store.database.begin() as connection:
            job = _job(connection, account_id, job_id)
            if not may_move(job.status, status):
                raise WrongState(f"The job '{job_id}' is {job.status}; it can't become {status} now.")
            connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(status=status, **values))
            add_event(connection, self._store, job_id, key=new_id("asked-"), message=message)
            return _job(connection, account_id, job_id)


def add_event(
    connection: Connection,
    store: Store,
    job_id: str,
    *,
    key: str,
    message: str,
    level: str = "info",
    data: dict[str, Any] | None = None,
) -> None:
    """Tell it once: a second event of the same key (a step repeated after a crash) is dropped."""
    known = sa.select(events.c.id).where(events.c.job_id == job_id, events.c.key == key)
    if connection.execute(known).scalar() is not None:
        return
    connection.execute(
        sa.insert(events).values(
            id=new_id("ftevent-"),
            job_id=job_id,
            key=key,
            created_at=store.now(),
            level=level,
            message=message,
            type="message" if data is None else "metrics",
            data=data,
        )
    )


def _job(connection: Connection, account_id: int, job_id: str) -> Job:
    job = one(connection, Job, sa.select(jobs).where(jobs.c.account_id == account_id, jobs.c.id == job_id))
    if job is None:
        raise NotFound(f"The fine-tuning job '{job_id}' does not exist.")
    return job


def _page(
    connection: Connection, kind: type[RecordT], query: sa.Select[Any], *, after: str | None, limit: int
) -> tuple[list[RecordT], bool]:
    """Newest first, behind the row whose id is `after`."""
    table = query.get_final_froms()[0]
    if after is not None:
        cursor = connection.execute(query.with_only_columns(table.c.seq).where(table.c.id == after)).scalar()
        if cursor is None:
            raise InvalidRequest(f"There is no '{after}' to list after.", param="after")
        query = query.where(table.c.seq < cursor)
    rows = many(connection, kind, query.order_by(table.c.seq.desc()).limit(limit + 1))
    return rows[:limit], len(rows) > limit
