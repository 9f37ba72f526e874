"""What only old clients ask for (contract.md 1.7): the fine-tunes of 2022-12-01, which are the jobs, to be read."""

from collections.abc import AsyncGenerator
from typing import Any

import anyio
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from tunery.api.stream import EventStream
from tunery.api.wire import DataPlane, reply
from tunery.errors import NotFound
from tunery.files import Files
from tunery.jobs import Jobs
from tunery.records import TERMINAL, Event, File, FileStatus, Job, JobStatus

router = APIRouter()

JOB_STATES = {
    JobStatus.PENDING: "notRunning",
    JobStatus.PAUSED: "notRunning",
    JobStatus.RESUMING: "notRunning",
    JobStatus.RUNNING: "running",
    JobStatus.PAUSING: "running",
    JobStatus.SUCCEEDED: "succeeded",
    JobStatus.CANCELLED: "canceled",
    JobStatus.FAILED: "failed",
}
FILE_STATES = {
    FileStatus.PENDING: "notRunning",
    FileStatus.RUNNING: "running",
    FileStatus.PROCESSED: "succeeded",
    FileStatus.ERROR: "failed",
}
MOST_LISTED = 1000
"""The old lists had no pages."""
POLL_SECONDS = 0.5
"""Between two looks at a job whose events are streamed."""


@router.get("/fine-tunes")
def list_fine_tunes(request: Request, call: DataPlane) -> Response:
    found, _ = _jobs(request).page(call.account.id, limit=MOST_LISTED)
    return reply(call, {"object": "list", "data": [_fine_tune(request, job) for job in found]})


@router.get("/fine-tunes/{fine_tune}")
def show_fine_tune(request: Request, call: DataPlane, fine_tune: str) -> Response:
    job = _jobs(request).get(call.account.id, _job_id(fine_tune))
    return reply(call, {**_fine_tune(request, job), "events": [_event(event) for event in _events(request, job)]})


@router.get("/fine-tunes/{fine_tune}/events")
async def fine_tune_events(request: Request, call: DataPlane, fine_tune: str, stream: bool = False) -> Response:
    """All events, oldest first; as a stream they go on until the job ends."""
    job = await run_in_threadpool(_jobs(request).get, call.account.id, _job_id(fine_tune))
    if stream:
        return EventStream(_followed(request, job))
    found = await run_in_threadpool(_events, request, job)
    return reply(call, {"object": "list", "data": [_event(event) for event in found]})


async def _followed(request: Request, job: Job) -> AsyncGenerator[dict[str, Any], None]:
    told: str | None = None
    while True:
        # Looked at before its events: none that was written before the end is missed.
        job = await run_in_threadpool(_jobs(request).get, job.account_id, job.id)
        for event in await run_in_threadpool(_events, request, job, since=told):
            told = event.id
            yield _event(event)
        if job.status in TERMINAL:
            return
        await anyio.sleep(POLL_SECONDS)


def _fine_tune(request: Request, job: Job) -> dict[str, Any]:
    numbers = job.resolved or {}
    names = ("n_epochs", "batch_size", "learning_rate_multiplier")
    return {
        "id": "ft-" + job.id.removeprefix("ftjob-"),
        "object": "fine-tune",
        "model": job.model,
        "fine_tuned_model": job.fine_tuned_model,
        "status": JOB_STATES[job.status],
        "hyperparams": {name: numbers[name] for name in names if name in numbers},
        "training_files": _files(request, job, job.training_file),
        "validation_files": _files(request, job, job.validation_file),
        "result_files": _files(request, job, job.result_file),
        "suffix": job.suffix,
        "error": job.error,
        "created_at": job.created_at,
        "updated_at": job.finished_at or job.started_at or job.created_at,
    }


def _files(request: Request, job: Job, file_id: str | None) -> list[dict[str, Any]]:
    """A file of the job, in a list as the old shape has it; empty where there is none, or it was deleted since."""
    files: Files = request.app.state.files
    try:
        return [] if file_id is None else [_file(files.get(job.account_id, file_id))]
    except NotFound:
        return []


def _file(file: File) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": FILE_STATES[file.status],
        "created_at": file.created_at,
        "updated_at": file.created_at,
    }


def _events(request: Request, job: Job, *, since: str | None = None) -> list[Event]:
    """Oldest first, behind the event `since`."""
    found: list[Event] = []
    after, more = None, True
    while more:
        page, more = _jobs(request).events(job, after=after, limit=MOST_LISTED)
        for event in page:
            if event.id == since:
                return found[::-1]
            found.append(event)
        after = found[-1].id if found else None
    return found[::-1]


def _event(event: Event) -> dict[str, Any]:
    return {
        "object": "fine-tune-event",
        "created_at": event.created_at,
        "level": event.level,
        "message": event.message,
    }


def _job_id(fine_tune: str) -> str:
    """Old ids are `ft-` and the job's hex; a job's own id is taken too."""
    return "ftjob-" + fine_tune.removeprefix("ft-") if fine_tune.startswith("ft-") else fine_tune


def _jobs(request: Request) -> Jobs:
    jobs: Jobs = request.app.state.jobs
    return jobs
