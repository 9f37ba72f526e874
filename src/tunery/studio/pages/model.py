"""One job and the model it made: how it goes, its numbers, where it comes from and what was made of it."""

from collections.abc import Callable
from urllib.parse import quote

import msgspec
from nicegui import ui

from tunery import overfitting
from tunery.catalog import Target, model_of
from tunery.errors import InvalidRequest, NotFound
from tunery.jobs import Sought
from tunery.records import TERMINAL, Checkpoint, Deployment, Job, JobStatus
from tunery.studio import jobs as words
from tunery.studio import parts
from tunery.studio.events import Events
from tunery.studio.frame import page
from tunery.studio.numbers import settings_table
from tunery.studio.plots import Plots
from tunery.studio.texts import shown_number, shown_span, shown_time, t
from tunery.studio.visitor import Visitor

READ = f"GET {words.JOBS}"
ALL = 1000
"""Checkpoints and descendants of one job: more than any has."""
GENERATIONS = 20
EVALUATED = ("train_loss", "valid_loss", "full_valid_loss", "full_valid_mean_token_accuracy")


@page("/models/{name}", "models.title")
async def model(visitor: Visitor, name: str, events: str = "") -> None:
    """`name`: a job's id, a tuned model or one of its checkpoints."""
    await JobPage(visitor, await _find(visitor, name)).build(events)


class JobPage:
    """What changes while the job lives is filled in again; the rest is built once."""

    def __init__(self, visitor: Visitor, job: Job) -> None:
        self._visitor, self._rooms, self._job = visitor, visitor.rooms, job
        self._shown: dict[str, object] = {}
        """Of each part, what it was filled in from."""
        self._checkpoints: list[Checkpoint] = []

    async def build(self, events: str) -> None:
        with ui.row().classes("w-full items-start gap-3"):
            parts.heading(words.model_name(self._job)).classes("grow break-all")
            with ui.row().classes("gap-2"):
                self._actions = words.Actions(self._visitor, self._job, self._again)
        with ui.row().classes("w-full items-center gap-3"):
            self._status = ui.row().classes("items-center gap-2").props("role=status")
            self._said = ui.label().classes("quiet")
        self._bar = ui.linear_progress(0, show_value=False, size="8px").props("rounded")
        self._bar.props["aria-label"] = t("model.progress")
        self._alert = ui.column().classes("w-full")
        with ui.element("div").classes("grid grid-cols-1 lg:grid-cols-2 gap-4 w-full"):
            self._facts = ui.element("section").classes("tunery-card p-4 min-w-0 flex flex-col gap-3")
            self._numbers = ui.element("section").classes("tunery-card p-4 min-w-0 flex flex-col gap-3")
        parts.section(t("model.results"))
        self._verdict = ui.column().classes("w-full")
        self._plots = Plots(self._visitor, [self._job])
        parts.section(t("model.checkpoints"))
        self._kept = ui.column().classes("w-full")
        parts.section(t("model.lineage"))
        self._lineage = ui.column().classes("w-full gap-2")
        parts.section(t("model.events"))
        self._events = Events(self._visitor, self._job, events)
        await self._refresh()
        # Steps come once the page is there: thousands of them mustn't delay it.
        ui.timer(0.05, parts.shown(self._again), once=True)
        self._timer = parts.every(2, self._again)

    async def _again(self) -> None:
        try:
            await self._refresh()
        except NotFound as error:
            self._timer.deactivate()
            parts.note(error.message, kind="warning")
            return
        await self._plots.follow(self._job)
        self._point_out()

    async def _refresh(self) -> None:
        if self._shown:
            self._job = await self._visitor.do(READ, self._rooms.jobs.get, self._visitor.account.id, self._job.id)
        job, now = self._job, self._rooms.store.now()
        self._said.set_text(words.progress_text(job, now))
        self._bar.set_value(words.progress(job) or 0)
        self._bar.set_visibility(job.status not in TERMINAL and words.progress(job) is not None)
        if self._stale("status", job.status):
            _filled(self._status, lambda: words.chip(job.status))
            self._actions.show(job)
            _filled(self._alert, lambda: self._error(job))
        if self._stale("facts", msgspec.structs.replace(job, step=0, lease_until=0, lease_token=0, state_dir=None)):
            _filled(self._facts, lambda: self._facts_of(job))
            _filled(self._numbers, lambda: settings_table(job))
        await self._read_checkpoints()
        await self._read_lineage()
        await self._events.refresh()

    def _stale(self, part: str, source: object) -> bool:
        """Whether a part was filled in from something else."""
        if part in self._shown and self._shown[part] == source:
            return False
        self._shown[part] = source
        return True

    def _error(self, job: Job) -> None:
        if job.error is None:
            return
        param = job.error.get("param")
        with ui.element("div").classes("tunery-card p-4 w-full flex flex-col gap-2").props("role=alert"):
            ui.label(t("model.failed")).classes("text-negative font-medium")
            ui.label(str(job.error.get("message"))).classes("break-words whitespace-pre-line")
            ui.label(t("model.failed_code", code=str(job.error.get("code")))).classes("quiet text-sm")
            file = {"training_file": job.training_file, "validation_file": job.validation_file}.get(str(param))
            with ui.row().classes("gap-2 items-center"):
                if file is not None:
                    _link(t("model.open_file"), f"/files/{file}")
                words.again_button(self._visitor, job.model, t("model.try_again"))

    def _facts_of(self, job: Job) -> None:
        parts.titled("h2", t("model.job"), "text-lg font-medium m-0")
        ended = job.finished_at or self._rooms.store.now()
        known = {
            "id": job.id,
            "created": shown_time(job.created_at),
            "started": shown_time(job.started_at),
            "finished": shown_time(job.finished_at),
            "took": shown_span(ended - job.started_at) if job.started_at and job.finished_at else None,
            "suffix": job.suffix,
            "method": t("model.method_dpo") if job.requested.get("dpo") else t("model.method_supervised"),
            "trained_tokens": None if job.trained_tokens is None else shown_number(job.trained_tokens),
            "metadata": ", ".join(f"{key}: {value}" for key, value in (job.metadata or {}).items()) or None,
        }
        parts.facts({t(f"model.{name}"): value for name, value in known.items() if value is not None})
        for part in ("training_file", "validation_file", "result_file"):
            file = getattr(job, part)
            if file is not None:
                with ui.row().classes("items-center gap-x-2 gap-y-0 w-full"):
                    ui.label(t(f"model.{part}")).classes("opacity-80")
                    _link(file, f"/files/{file}")
                    _download(self._visitor, file, t(f"model.download_{part}"))

    # --- checkpoints ---

    async def _read_checkpoints(self) -> None:
        if not self._stale("asked", (self._job.step, self._job.status)):
            return
        operation = f"{READ}/checkpoints"
        found, _ = await self._visitor.do(operation, self._rooms.jobs.checkpoints, self._job, limit=ALL)
        if self._stale("checkpoints", ([one.id for one in found], self._job.status)):
            self._checkpoints = found
            _filled(self._kept, self._list_checkpoints)
            _filled(self._verdict, self._judge)

    def _list_checkpoints(self) -> None:
        if not self._checkpoints:
            ui.label(t("model.no_checkpoints")).classes("quiet")
            return
        evaluated = overfitting.of_checkpoints(self._checkpoints)
        best = overfitting.best(evaluated).name if evaluated else None
        for one in self._checkpoints:
            with ui.row().classes("tunery-card w-full p-3 items-center gap-x-6 gap-y-2"):
                with ui.column().classes("gap-1 grow min-w-0"):
                    with ui.row().classes("items-center gap-2"):
                        ui.label(t("model.step", step=shown_number(one.step))).classes("font-medium")
                        if one.name == best:
                            parts.status_chip(t("model.best"), "good")
                    ui.label(one.name).classes("break-all text-sm")
                    ui.label(_measured(one)).classes("quiet text-sm")
                with ui.row().classes("gap-2"):
                    words.deploy_button(self._visitor, one.name, t("job.deploy"))
                    words.again_button(self._visitor, one.name, t("job.again"))

    def _judge(self) -> None:
        """What the evaluations say, in words."""
        found = overfitting.of_checkpoints(self._checkpoints)
        if self._job.validation_file is None:
            ui.label(t("model.no_validation")).classes("quiet")
        if not found:
            return
        best, last = overfitting.best(found), found[-1]
        rising = overfitting.rising(found)
        values = {
            "name": best.name,
            "step": shown_number(best.step),
            "loss": _loss(best.loss),
            "last": _loss(last.loss),
        }
        if rising:
            with ui.row().classes("tunery-card p-4 w-full no-wrap gap-3").props("role=note"):
                ui.icon("warning", size="1.5rem").classes("text-warning").props("aria-hidden=true")
                rise = " → ".join(_loss(loss) for loss in rising)
                ui.label(t("model.overfits", rise=rise, **values)).classes("break-words min-w-0")
        elif self._job.status == JobStatus.SUCCEEDED:
            ui.label(t("model.best_is_last" if best == last else "model.best_is_earlier", **values))

    def _point_out(self) -> None:
        found = overfitting.of_checkpoints(self._checkpoints)
        if found and self._stale("mark", overfitting.best(found).step):
            self._plots.point_out(overfitting.best(found).step, t("model.best"))

    # --- lineage ---

    async def _read_lineage(self) -> None:
        name, visitor, account = words.model_name(self._job), self._visitor, self._visitor.account.id
        served: list[Deployment] = []
        if visitor.may("GET /deployments"):
            known = await visitor.do("GET /deployments", self._rooms.deployments.all, account)
            served = [one for one in known if model_of(one.model) == name]
        sought = Sought(tuned_from=name)
        children, _ = await visitor.do(
            "GET /fine_tuning/jobs", self._rooms.jobs.page, account, limit=ALL, sought=sought
        )
        source = [(one.name, one.state, one.model) for one in served], [(one.id, one.status) for one in children]
        if not self._stale("lineage", source):
            return
        ancestors = await self._ancestors()

        def show() -> None:
            with ui.row().classes("items-center gap-2 w-full"):
                ui.label(t("model.from")).classes("opacity-80")
                for label, path in ancestors:
                    _link(label, path) if path else ui.label(label).classes("break-all")
                    ui.label("→").props("aria-hidden=true")
                ui.label(name).classes("font-medium break-all")
            for one in children:
                with ui.row().classes("items-center gap-2 w-full"):
                    ui.label(t("model.into")).classes("opacity-80")
                    _link(words.model_name(one), f"/models/{one.id}")
                    words.chip(one.status)
            for deployment in served:
                with ui.row().classes("items-center gap-2 w-full"):
                    ui.label(t("model.deployed")).classes("opacity-80")
                    _link(deployment.name, f"/deployments?search={quote(deployment.name)}")
                    ui.label(deployment.state).classes("quiet")

        _filled(self._lineage, show)

    async def _ancestors(self) -> list[tuple[str, str]]:
        """Of this job, the oldest first: names, and paths of the pages of those that are still there."""
        line: list[tuple[str, str]] = []
        job = self._job
        while job.model != job.base and len(line) < GENERATIONS:
            try:
                job_id = (await _target(self._visitor, job.model)).job_id
                parent = await self._visitor.do(READ, self._rooms.jobs.get, self._visitor.account.id, job_id)
            except (InvalidRequest, NotFound):
                return [(job.model, ""), *line]
            line.insert(0, (job.model, f"/models/{parent.id}"))
            job = parent
        base = await self._visitor.do("GET /models", self._rooms.catalog.base, job.base)
        served_by = job.base if base is None or base.model.name == job.base else f"{job.base} ({base.model.name})"
        return [(served_by, ""), *line]


async def _find(visitor: Visitor, name: str) -> Job:
    """Raises NotFound for a name that nothing here has."""
    if not name.startswith("ftjob-"):
        try:
            name = (await _target(visitor, name)).job_id or name
        except InvalidRequest as error:
            raise NotFound(f"The model '{name}' does not exist.") from error
    job: Job = await visitor.do(READ, visitor.rooms.jobs.get, visitor.account.id, name)
    return job


async def _target(visitor: Visitor, name: str) -> Target:
    return await visitor.do("GET /fine_tuning/models", visitor.rooms.catalog.find, visitor.account.id, name)


def _loss(value: float) -> str:
    return shown_number(value, digits=4)


def _measured(checkpoint: Checkpoint) -> str:
    found = {name: checkpoint.metrics[name] for name in EVALUATED if checkpoint.metrics.get(name) is not None}
    return " · ".join(f"{name} {_loss(value)}" for name, value in found.items())


def _filled(container: ui.element, fill: Callable[[], object]) -> None:
    container.clear()
    with container:
        fill()


def _link(text: str, path: str) -> None:
    ui.link(text, path).classes("tunery-link break-all")


def _download(visitor: Visitor, file: str, text: str) -> None:
    async def fetch() -> None:
        ui.navigate.to(f"/files/{file}/content")

    parts.action(text, "GET /files/{file_id}/content", fetch, visitor=visitor, icon="download").props("dense flat")
