"""The demo on the page: a button, five steps as they happen, and the answers before and after."""

from nicegui import ui

from tunery import sample
from tunery.errors import TuneryError
from tunery.records import FileStatus, JobStatus
from tunery.studio import parts
from tunery.studio.deployed import Deployed
from tunery.studio.frame import ROOT
from tunery.studio.pages.home.run import CHATS, Answer, Run, State
from tunery.studio.texts import shown_number, t

NEXT, BUSY, DONE, BAD = "next", "busy", "done", "bad"
MOODS = {NEXT: "quiet", BUSY: "busy", DONE: "good", BAD: "bad"}
PASSING = (429, 503)
"""Status of refusals that may be gone at the next look."""


class Demo:
    """`runs`: what is due is done; else it is only shown, with a button to go on."""

    def __init__(self, deployed: Deployed, *, runs: bool) -> None:
        self._run, self._visitor = Run(deployed), deployed.visitor
        self._runs = runs
        self._state: State | None = None
        self._answers: list[Answer] = []
        with ui.column().classes("tunery-card w-full p-4 gap-2 min-w-0"):
            parts.section(t("home.demo"))
            ui.label(t("home.demo_about", training=sample.TRAINING, validation=sample.VALIDATION)).classes(
                "max-w-prose"
            )
            self._button = parts.action(
                t("home.demo_start"), self._run.lacking() or CHATS, self._go, visitor=self._visitor, look="primary"
            )
            self._error = ui.label().classes("text-negative break-words w-full").props("role=alert")
            self._say("")
            self._steps = ui.element("ol").classes("m-0 p-0 list-none flex flex-col gap-2 w-full")
            self._table = ui.column().classes("w-full min-w-0")

    async def refresh(self) -> None:
        """The first time it is only shown, so that the page is there at once."""
        before, self._state = self._state, await self._run.look()
        try:
            if before is not None and self._runs:
                await self._advance(self._state)
        except TuneryError as error:
            # An engine that starts or a rate limit passes; anything else waits for the visitor.
            self._runs = error.status in PASSING
            self._say(error.message)
            before = None
        if before != self._state:
            self._show(self._state)

    async def _advance(self, state: State) -> None:
        await self._run.advance(state)
        if state.ready and not self._answers:
            assert state.base is not None and state.tuned is not None
            self._answers = await self._run.ask(state.base.name, state.tuned.name)
            self._show(state)
        self._say("")

    async def _go(self) -> None:
        """Start, go on, ask again, or begin anew after an end that failed."""
        self._button.set_visibility(False)
        state = await self._run.look()
        try:
            if state.untrained:
                await self._run.start()
            await self._run.mend(state)
        except TuneryError:
            self._button.set_visibility(True)
            raise
        self._answers.clear()
        self._runs = True
        ui.navigate.history.replace(f"{ROOT}/?demo=run")

    def _say(self, refusal: str) -> None:
        self._error.set_text(refusal)
        self._error.set_visibility(bool(refusal))

    def _show(self, state: State) -> None:
        going = self._runs and state.job is not None and not state.ended
        self._button.set_visibility(not going)
        self._button.set_text(t(self._next_text(state)))
        self._steps.clear()
        if state.job is not None:
            with self._steps:
                for name, mood, detail, path in self._told(state):
                    _step(name, mood, detail, path)
        self._table.clear()
        if self._answers:
            with self._table:
                _compared(self._answers)

    def _next_text(self, state: State) -> str:
        if state.job is None:
            return "home.demo_start"
        if state.ready:
            return "home.demo_ask"
        return "home.demo_anew" if state.untrained else "home.demo_on"

    def _told(self, state: State) -> list[tuple[str, str, str, str]]:
        """Step, mood, detail and link of each."""
        job = state.job
        assert job is not None
        checked = [file.status for file in state.files]
        check = BAD if FileStatus.ERROR in checked else _mood(all(one == FileStatus.PROCESSED for one in checked))
        ended_badly = job.status in (JobStatus.FAILED, JobStatus.CANCELLED)
        tune = BAD if ended_badly else _mood(job.status == JobStatus.SUCCEEDED)
        done, of = shown_number(job.step), shown_number(job.total_steps or 0)
        detail = t("home.tune_steps", done=done, of=of) if job.total_steps else t("home.tune_waits")
        if job.error:
            detail = str(job.error.get("message", detail))
        hosts = [one for one in (state.base, state.tuned) if one is not None]
        broken = next(iter(state.broken), None)
        host = BAD if broken else DONE if state.ready else BUSY if tune == DONE else NEXT
        names = ", ".join(one.name for one in hosts) if broken is None else str(broken.error)
        asked = DONE if self._answers else BUSY if state.ready and self._runs else NEXT
        training = f"/files/{job.training_file}"
        return [
            ("upload", DONE, ", ".join(file.filename for file in state.files), training),
            ("check", check, "", training),
            ("tune", tune, detail, f"/models/{job.id}"),
            ("host", host, names, "/deployments"),
            ("ask", asked, "", f"/playground?deployment={state.tuned.name}" if state.tuned else "/playground"),
        ]


def _mood(done: bool) -> str:
    return DONE if done else BUSY


def _step(name: str, mood: str, detail: str, path: str) -> None:
    with ui.element("li").classes("flex flex-wrap items-center gap-2 min-w-0"):
        parts.status_chip(t(f"home.is_{mood}"), MOODS[mood])
        with ui.element("a").classes("tunery-link") as link:
            link.props["href"] = ROOT + path
            ui.label(t(f"home.step_{name}")).classes("inline")
        ui.label(detail).classes("quiet break-words min-w-0")


def _compared(answers: list[Answer]) -> None:
    heads = {
        "question": t("home.question"),
        "base": t("home.before"),
        "tuned": t("home.after"),
        "wanted": t("home.wanted"),
    }
    columns = [{"name": name, "label": text, "field": name, "align": "left"} for name, text in heads.items()]
    table = ui.table(columns=columns, rows=[answer._asdict() for answer in answers], row_key="question")
    table.classes("w-full").props("wrap-cells flat")
    right = sum(answer.tuned == answer.wanted for answer in answers)
    ui.label(t("home.right", count=right, of=len(answers))).classes("quiet")
