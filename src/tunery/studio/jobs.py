"""Fine-tuning jobs in words, and what may be done to them."""

from collections.abc import Awaitable, Callable

from nicegui import ui

from tunery.records import TERMINAL, WAITING, Job, JobStatus, may_move
from tunery.studio import parts
from tunery.studio.texts import shown_number, shown_span, shown_time, t
from tunery.studio.visitor import Visitor

JOBS = "/fine_tuning/jobs/{job_id}"
MOODS = {
    JobStatus.PENDING: "quiet",
    JobStatus.RUNNING: "busy",
    JobStatus.PAUSING: "busy",
    JobStatus.PAUSED: "warning",
    JobStatus.RESUMING: "quiet",
    JobStatus.SUCCEEDED: "good",
    JobStatus.CANCELLED: "quiet",
    JobStatus.FAILED: "bad",
}


def status_text(status: JobStatus) -> str:
    return t(f"job.status_{status}")


def chip(status: JobStatus) -> ui.badge:
    return parts.status_chip(status_text(status), MOODS[status])


def model_name(job: Job) -> str:
    """The tuned model's, also before it is there."""
    return job.fine_tuned_model or job.output_name


def progress(job: Job) -> float | None:
    """From 0 to 1; None where the length isn't known yet."""
    return None if not job.total_steps else job.step / job.total_steps


def progress_text(job: Job, now: float) -> str:
    """How far it is and when it should end."""
    said = []
    if job.total_steps:
        said.append(t("job.steps", step=shown_number(job.step), total=shown_number(job.total_steps)))
    elif job.status in WAITING:
        said.append(t("job.waits"))
    if job.estimated_finish is not None and job.status not in TERMINAL:
        left = job.estimated_finish - now
        if job.status in WAITING:
            said.append(t("job.ends", time=shown_time(job.estimated_finish)))
        elif left > 0:
            said.append(t("job.left", span=shown_span(left)))
    return " · ".join(said)


class Actions:
    """Buttons for what a job's state allows: built once, so that none vanishes under a question that it asked."""

    def __init__(self, visitor: Visitor, job: Job, changed: Callable[[], Awaitable[None]]) -> None:
        """`changed` runs after one has worked."""
        self._moves = {
            JobStatus.PAUSING: _change(visitor, job, "pause", "pause", changed),
            JobStatus.RESUMING: _change(visitor, job, "resume", "play_arrow", changed),
            JobStatus.CANCELLED: _change(visitor, job, "cancel", "stop", changed),
        }
        self._uses = [
            deploy_button(visitor, job.output_name, t("job.deploy")),
            again_button(visitor, job.output_name, t("job.again")),
        ]
        _delete(visitor, job)

    def show(self, job: Job) -> None:
        for status, button in self._moves.items():
            button.set_visibility(may_move(job.status, status))
        for button in self._uses:
            button.set_visibility(job.fine_tuned_model is not None)


def deploy_button(visitor: Visitor, model: str, text: str) -> ui.button:
    async def go() -> None:
        ui.navigate.to(f"/deployments?model={model}")

    return parts.action(
        text, "PUT /deployments/{deployment}", go, visitor=visitor, look="primary", icon="rocket_launch"
    )


def again_button(visitor: Visitor, model: str, text: str) -> ui.button:
    async def go() -> None:
        ui.navigate.to(f"/create?model={model}")

    return parts.action(text, "POST /fine_tuning/jobs", go, visitor=visitor, icon="replay")


def _change(visitor: Visitor, job: Job, verb: str, icon: str, changed: Callable[[], Awaitable[None]]) -> ui.button:
    operation, function = f"POST {JOBS}/{verb}", getattr(visitor.rooms.jobs, verb)
    final = verb == "cancel"

    async def do() -> None:
        detail = t("job.cancel_detail", name=model_name(job))
        if final and not await parts.confirm(t("job.cancel_question"), detail, t("job.cancel")):
            return
        path = f"/openai/fine_tuning/jobs/{job.id}/{verb}"
        await visitor.do(operation, function, visitor.account.id, job.id, resource=path)
        parts.note(t(f"job.{verb}_done"))
        await changed()

    return parts.action(
        t(f"job.{verb}"), operation, do, visitor=visitor, icon=icon, look="danger" if final else "plain"
    )


def _delete(visitor: Visitor, job: Job) -> None:
    operation = f"DELETE {JOBS}"

    async def do() -> None:
        if not await parts.confirm(
            t("job.delete_question"), t("job.delete_detail", name=model_name(job)), t("job.delete")
        ):
            return
        path = f"/openai/fine_tuning/jobs/{job.id}"
        await visitor.do(operation, visitor.rooms.jobs.delete, visitor.account.id, job.id, resource=path)
        ui.navigate.to("/models")

    parts.action(t("job.delete"), operation, do, visitor=visitor, icon="delete", look="danger")
