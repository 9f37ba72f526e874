"""Last step: what was chosen, what it will cost, and the start."""

import secrets

import anyio
from nicegui import ui

from tunery.errors import TooManyRequests, TuneryError
from tunery.estimates import Estimate
from tunery.records import Job
from tunery.studio import parts
from tunery.studio.pages.create import file_parts
from tunery.studio.pages.create.draft import NUMBERS, STEPS, step_of
from tunery.studio.pages.create.findings import first_held
from tunery.studio.pages.create.options import chosen
from tunery.studio.pages.create.overlap import overlap
from tunery.studio.pages.create.wizard import Wizard
from tunery.studio.texts import shown_bytes, shown_number, shown_span, shown_time, t

CREATE, ESTIMATE = "POST /fine_tuning/jobs", "POST /fine_tuning/estimate"


async def build(wizard: Wizard) -> None:
    if not wizard.draft.key:
        _renew_key(wizard)
    for step in STEPS[:-1]:
        _part(wizard, step)
    overlap(wizard)
    parts.section(t("create.cost"))
    with ui.column().classes("w-full gap-2").props("aria-live=polite") as place:
        pass
    _cost(wizard, place)
    _start(wizard)


def _part(wizard: Wizard, step: str) -> None:
    """One step's choices, with the way back to it."""
    with ui.row().classes("w-full items-start justify-between gap-3 no-wrap border-b tunery-line pb-3"):
        place = ui.column().classes("gap-1 min-w-0 flex-1")
        change = ui.link(t("create.change"), wizard.draft.url(step=step)).classes("tunery-link")
        change.props["aria-label"] = f"{t('create.change')}: {t(f'create.step_{step}')}"

    def show() -> None:
        place.clear()
        with place:
            ui.label(t(f"create.step_{step}")).classes("quiet text-sm")
            parts.facts(_facts(wizard, step))

    wizard.on_change(show)


def _facts(wizard: Wizard, step: str) -> dict[str, str]:
    draft, found = wizard.draft, wizard.found
    if step == "model":
        weights = {t("create.weights"): found.target.base.model.name} if found.target else {}
        return {t("create.column_name"): draft.model or "–", **weights}
    if step == "options":
        return _option_facts(wizard)
    file = found.training if step == "training" else found.validation
    if file is None:
        return {t("create.file"): t("create.none")}
    return {t("create.file"): file.filename, t("create.holds"): file_parts.contents(file)}


def _option_facts(wizard: Wizard) -> dict[str, str]:
    draft, found = wizard.draft, wizard.found
    facts = {}
    for name, value in ({} if found.recipe is None else chosen(found.recipe)).items():
        own = draft.advanced and bool(getattr(draft, name))
        facts[t(f"create.{name}")] = value if own or name not in NUMBERS else t("create.automatically", value=value)
    facts[t("create.seed")] = draft.seed if draft.advanced and draft.seed else t("create.random")
    if draft.advanced:
        facts[t("create.type")] = t(f"create.type_{draft.type.lower()}")
    if found.target is not None:
        tail = f"-{draft.suffix.strip()}" if draft.suffix.strip() else ""
        facts[t("create.result_name")] = f"{found.target.base.name}.ft-…{tail}"
    return facts


def _cost(wizard: Wizard, place: ui.column) -> None:
    """Asked for once everything is there; what it takes never holds the start."""
    visitor = wizard.visitor
    if not visitor.may(ESTIMATE):
        with place:
            roles = ", ".join(visitor.missing(ESTIMATE))
            ui.label(t("parts.missing_role", roles=roles)).classes("quiet")
        return
    asked = False

    async def ask() -> None:
        try:
            _costs(place, await _estimated(wizard))
        except TuneryError as error:
            place.clear()
            with place:
                ui.label(error.message).classes("break-words").props("role=alert")

    def show() -> None:
        nonlocal asked
        if asked or wizard.found.recipe is None or first_held(wizard.draft, wizard.found):
            return
        asked = True
        with place:
            with ui.row().classes("items-center gap-3"):
                ui.spinner(size="1.4rem").props("aria-hidden=true")
                ui.label(t("create.estimating"))
            ui.timer(0.1, ask, once=True)

    wizard.on_change(show)


async def _estimated(wizard: Wizard) -> Estimate:
    """Waits for its turn: an account has one estimate at a time."""
    visitor, training = wizard.visitor, wizard.found.training
    job = wizard.draft.job(training.format if training else None)
    while True:
        try:
            return await visitor.do(ESTIMATE, visitor.rooms.estimates.create, visitor.account.id, job)
        except TooManyRequests as error:
            await anyio.sleep(error.retry_after)


def _costs(place: ui.column, found: Estimate) -> None:
    margin = ""
    if found.seconds_low is not None and found.seconds_high is not None:
        low, high = shown_span(found.seconds_low), shown_span(found.seconds_high)
        margin = t("create.margin", low=low, high=high)
    memory = t(
        "create.memory_of", needed=shown_bytes(found.memory_bytes), free=shown_bytes(found.memory_available_bytes)
    )
    place.clear()
    with place:
        facts = {
            t("create.trained_tokens"): shown_number(found.trained_tokens),
            t("create.all_tokens"): t(
                "create.computed", all=shown_number(found.total_tokens), computed=shown_number(found.computed_tokens)
            ),
            t("create.steps_taken"): shown_number(found.steps),
            t("create.time"): f"{t('create.about_span', span=shown_span(found.seconds))} {margin}".strip(),
            t("create.memory"): memory,
        }
        parts.facts(facts)
        if not found.fits:
            with ui.row().classes("items-center gap-2 no-wrap").props("role=alert"):
                ui.icon("warning", color="negative", size="1.4rem").props("aria-hidden=true")
                ui.label(t("create.does_not_fit")).classes("font-medium")
        for note in found.notes:
            ui.label(note).classes("quiet text-sm break-words")


def _start(wizard: Wizard) -> None:
    visitor = wizard.visitor
    problem = ui.column().classes("w-full gap-1")
    opened, begun = visitor.rooms.store.now(), False

    async def start() -> None:
        nonlocal begun
        if begun:
            return
        begun = True
        button.set_enabled(False)
        try:
            job = await _created(wizard)
            if job.created_at >= opened:
                ui.navigate.to("/models")
                return
            _made_before(wizard, problem, job)
        except TuneryError as error:
            _refused(wizard, problem, error)
        begun = False
        button.set_enabled(True)

    with ui.row().classes("w-full items-center justify-between gap-3 pt-2 no-wrap"):
        back = ui.button(t("create.back"), color=None, on_click=lambda: wizard.go(STEPS[-2]))
        back.props(parts.LOOKS["plain"])
        with ui.row().classes("items-center gap-3 flex-1 justify-end min-w-0 no-wrap"):
            why = ui.label().classes("quiet text-sm break-words min-w-0 text-right").props("role=status id=held")
            button = parts.action(t("create.start"), CREATE, start, visitor=visitor, look="primary", icon="play_arrow")
            button.props("aria-describedby=held")

    def show() -> None:
        undone = first_held(wizard.draft, wizard.found)
        reason = "" if undone is None else f"{t(f'create.step_{undone[0]}')}: {undone[1]}"
        if not visitor.may(CREATE):
            reason = t("parts.missing_role", roles=", ".join(visitor.missing(CREATE)))
        elif not begun:
            button.set_enabled(undone is None)
        why.set_text(reason)

    wizard.on_change(show)


async def _created(wizard: Wizard) -> Job:
    """What POST /fine_tuning/jobs does; the key makes a second click or a reload find the same job."""
    visitor, draft, training = wizard.visitor, wizard.draft, wizard.found.training
    job = draft.job(training.format if training else None)
    visitor.rooms.accounts.refuse_without_tuning(visitor.account)
    key = f"studio-{draft.key}"
    return await visitor.do(CREATE, visitor.rooms.jobs.create, visitor.account.id, job, idempotency_key=key)


def _made_before(wizard: Wizard, place: ui.column, job: Job) -> None:
    """Started from this very address: a bookmark, the way back, a reload while the answer was lost."""
    _renew_key(wizard)
    place.clear()
    with place, ui.row().classes("items-center gap-3 no-wrap").props("role=alert"):
        ui.icon("info", color="info", size="1.4rem").props("aria-hidden=true")
        ui.label(t("create.made_before", time=shown_time(job.created_at))).classes("break-words min-w-0")
        ui.link(t("create.see_job"), f"/models/{job.id}").classes("tunery-link")


def _renew_key(wizard: Wizard) -> None:
    wizard.remember(wizard.draft.choosing(key=secrets.token_hex(16)))


def _refused(wizard: Wizard, place: ui.column, error: TuneryError) -> None:
    place.clear()
    with place, ui.row().classes("items-center gap-3").props("role=alert"):
        ui.icon("error", color="negative", size="1.4rem").props("aria-hidden=true")
        ui.label(error.message).classes("break-words min-w-0")
        if error.param is not None:
            step = step_of(error.param)
            ui.link(t(f"create.step_{step}"), wizard.draft.url(step=step)).classes("tunery-link")
