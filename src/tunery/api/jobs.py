"""Fine-tuning jobs over HTTP (contract.md 1.4)."""

import re
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from tunery.accounts import Accounts
from tunery.api.wire import Call, DataPlane, Family, JsonBody, decode, page, page_size, reply
from tunery.catalog import Catalog, Start
from tunery.errors import InvalidRequest
from tunery.estimates import Estimates
from tunery.jobs import Jobs, NewJob, Sought
from tunery.records import Checkpoint, Event, Job, JobStatus
from tunery.results import measured
from tunery.suitability import trainable

router = APIRouter()

METADATA = re.compile(r"metadata\[(.+)\]")
TRAINING_TYPES = {"standard": None, "globalstandard": "globalStandard", "developer": "developerTier"}
TRAINING_TYPES |= {"developertier": "developerTier", "1": None}


@router.post("/fine_tuning/jobs")
def create(request: Request, call: DataPlane, body: JsonBody) -> Response:
    accounts: Accounts = request.app.state.accounts
    accounts.refuse_without_tuning(call.account)
    job = _jobs(request).create(
        call.account.id, decode(body, NewJob), idempotency_key=request.headers.get("idempotency-key")
    )
    location = f"{request.url.scheme}://{request.url.netloc}{request.url.path.rstrip('/')}/{job.id}"
    return reply(call, shown(job, call), status=call.created, location=location)


@router.post("/fine_tuning/estimate")
def estimate(request: Request, call: DataPlane, body: JsonBody) -> Response:
    estimates: Estimates = request.app.state.estimates
    found = estimates.create(call.account.id, decode(body, NewJob))
    return reply(call, {"object": "fine_tuning.estimate", **msgspec.to_builtins(found)})


@router.post("/fine_tuning/recipe")
def recipe(request: Request, call: DataPlane, body: JsonBody) -> Response:
    """The seed only if it is given: a job draws its own otherwise."""
    wanted = decode(body, NewJob)
    found = msgspec.to_builtins(_jobs(request).resolve(call.account.id, wanted))
    return reply(call, {"object": "fine_tuning.recipe", **found, "seed": wanted.seed})


@router.get("/fine_tuning/models")
def list_starts(request: Request, call: DataPlane) -> Response:
    catalog: Catalog = request.app.state.catalog
    return reply(call, page([_start(start) for start in catalog.starts(call.account.id)], False))


@router.get("/fine_tuning/jobs")
def list_jobs(request: Request, call: DataPlane, after: str | None = None, limit: str | None = None) -> Response:
    metadata = {name[1]: value for key, value in request.query_params.items() if (name := METADATA.fullmatch(key))}
    size = page_size(limit, default=20, most=1000)
    found, more = _jobs(request).page(
        call.account.id, after=after, limit=size, metadata=metadata, sought=_sought(request)
    )
    return reply(call, page([shown(job, call) for job in found], more))


@router.get("/fine_tuning/jobs/{job_id}")
def retrieve(request: Request, call: DataPlane, job_id: str) -> Response:
    return reply(call, shown(_jobs(request).get(call.account.id, job_id), call))


@router.post("/fine_tuning/jobs/{job_id}/cancel")
def cancel(request: Request, call: DataPlane, job_id: str) -> Response:
    return reply(call, shown(_jobs(request).cancel(call.account.id, job_id), call))


@router.post("/fine_tuning/jobs/{job_id}/pause")
def pause(request: Request, call: DataPlane, job_id: str) -> Response:
    return reply(call, shown(_jobs(request).pause(call.account.id, job_id), call))


@router.post("/fine_tuning/jobs/{job_id}/resume")
def resume(request: Request, call: DataPlane, job_id: str) -> Response:
    return reply(call, shown(_jobs(request).resume(call.account.id, job_id), call))


@router.delete("/fine_tuning/jobs/{job_id}")
def delete(request: Request, call: DataPlane, job_id: str) -> Response:
    _jobs(request).delete(call.account.id, job_id)
    return Response(status_code=204)


# Azure's guide shows curl -X POST for the events by mistake.
@router.post("/fine_tuning/jobs/{job_id}/events")
@router.get("/fine_tuning/jobs/{job_id}/events")
def events(
    request: Request, call: DataPlane, job_id: str, after: str | None = None, limit: str | None = None
) -> Response:
    jobs = _jobs(request)
    found, more = jobs.events(
        jobs.get(call.account.id, job_id), after=after, limit=page_size(limit, default=20, most=1000)
    )
    return reply(call, page([_event(event, call) for event in found], more))


@router.get("/fine_tuning/jobs/{job_id}/metrics")
def steps(
    request: Request, call: DataPlane, job_id: str, after: str | None = None, limit: str | None = None
) -> Response:
    """Rows of results.csv behind step `after`: what has come since one asked last, without the whole file."""
    jobs = _jobs(request)
    found, more = jobs.steps(
        jobs.get(call.account.id, job_id),
        after=page_size(after, default=0, most=999_999_999, name="after"),
        limit=page_size(limit, default=1000, most=10_000),
    )
    return reply(call, page([measured(row) for row in found], more))


@router.get("/fine_tuning/jobs/{job_id}/checkpoints")
def checkpoints(
    request: Request, call: DataPlane, job_id: str, after: str | None = None, limit: str | None = None
) -> Response:
    jobs = _jobs(request)
    found, more = jobs.checkpoints(
        jobs.get(call.account.id, job_id), after=after, limit=page_size(limit, default=10, most=1000)
    )
    return reply(call, page([_checkpoint(checkpoint) for checkpoint in found], more))


def _sought(request: Request) -> Sought:
    """Raises InvalidRequest for a status that there isn't."""
    asked = request.query_params
    try:
        statuses = frozenset(JobStatus(name) for name in asked.get("status", "").split(",") if name)
    except ValueError as error:
        raise InvalidRequest(f"{error}. Statuses are: {', '.join(JobStatus)}.", param="status") from error
    return Sought(search=asked.get("search", ""), statuses=statuses, tuned_from=asked.get("tuned_from", ""))


def shown(job: Job, call: Call) -> dict[str, Any]:
    """The wire's job object; reply() leaves the nulls out on classic routes."""
    classic = call.family is Family.CLASSIC
    automatic = "auto" if call.family is Family.V1 else -1
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": job.created_at,
        "model": job.model,
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "status": job.status,
        "hyperparameters": _hyperparameters(job, automatic),
        "method": _method(job, automatic),
        "fine_tuned_model": job.fine_tuned_model,
        "finished_at": job.finished_at,
        "estimated_finish": job.estimated_finish,
        "result_files": [] if job.result_file is None else [job.result_file],
        "trained_tokens": job.trained_tokens,
        "error": job.error,
        "suffix" if classic else "user_provided_suffix": job.suffix,
        "seed": job.seed,
        "integrations": job.integrations,
        "metadata": job.metadata,
        "trainingType": TRAINING_TYPES.get((job.training_type or "standard").lower()),
        "organization_id": None if classic else "",
    }


def _hyperparameters(job: Job, automatic: str | int) -> dict[str, Any]:
    """What was resolved from the data once it is known, until then what was asked for."""
    names = ("n_epochs", "batch_size", "learning_rate_multiplier")
    if job.resolved is not None:
        return {name: job.resolved[name] for name in names}
    wanted = {name: job.requested.get(name) for name in names}
    return {name: automatic if value in (None, -1, "auto") else value for name, value in wanted.items()}


def _method(job: Job, automatic: str | int) -> dict[str, Any] | None:
    """As asked for; of a preference job with every number, in the one place where SDKs look for them."""
    dpo = job.requested.get("dpo")
    if dpo is None:
        return job.method
    return {"type": "dpo", "dpo": {"hyperparameters": {**_hyperparameters(job, automatic), **dpo}}}


def _event(event: Event, call: Call) -> dict[str, Any]:
    level = "warn" if event.level == "warning" and call.family is Family.V1 else event.level
    return {
        "id": event.id,
        "object": "fine_tuning.job.event",
        "created_at": event.created_at,
        "level": level,
        "message": event.message,
        "type": event.type,
        **({} if event.data is None else {"data": event.data}),
    }


def _checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "id": checkpoint.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": checkpoint.created_at,
        "fine_tuned_model_checkpoint": checkpoint.name,
        "fine_tuning_job_id": checkpoint.job_id,
        "step_number": checkpoint.step,
        "metrics": msgspec.to_builtins(checkpoint.metrics),
    }


def _start(start: Start) -> dict[str, Any]:
    return {
        "id": start.name,
        "object": "fine_tuning.model",
        "base": start.base,
        "formats": sorted(trainable(start.kinds)),
        "fine_tuning_job_id": start.job_id,
        "step_number": start.step,
        "created_at": start.created_at,
    }


def _jobs(request: Request) -> Jobs:
    jobs: Jobs = request.app.state.jobs
    return jobs
