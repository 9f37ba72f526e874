"""Several jobs on the same three plots, and what was set differently."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import Query
from nicegui import ui

from tunery.errors import NotFound
from tunery.jobs import Sought
from tunery.records import Job
from tunery.studio import jobs as words
from tunery.studio import parts
from tunery.studio.frame import page
from tunery.studio.numbers import hyperparameters
from tunery.studio.plots import MOST_JOBS, Plots
from tunery.studio.texts import t
from tunery.studio.visitor import Visitor

CHOICES = 200
"""Newest jobs that can be chosen here; older ones are found on the list of models."""


@page("/compare", "compare.title")
async def compare(visitor: Visitor, job: Annotated[list[str] | None, Query()] = None) -> None:
    parts.heading(t("compare.title"))
    chosen = await _chosen(visitor, list(dict.fromkeys(job or []))[:MOST_JOBS])
    await _choice(visitor, chosen)
    if len(chosen) < 2:
        parts.empty_state("stacked_line_chart", t("compare.none"), t("compare.none_detail", most=MOST_JOBS))
        return
    names = [f"{number} {_short(one)}" for number, one in enumerate(chosen, start=1)]
    plots = Plots(visitor, chosen, names=names)
    parts.section(t("compare.settings"))
    _settings(chosen, names)

    async def follow() -> None:
        for number, one in enumerate(chosen):
            await plots.follow(one)
            operation = f"GET {words.JOBS}"
            chosen[number] = await visitor.do(operation, visitor.rooms.jobs.get, visitor.account.id, one.id)

    async def begin() -> None:
        await follow()
        parts.every(2, follow)

    ui.timer(0.05, parts.shown(begin), once=True)


async def _chosen(visitor: Visitor, ids: list[str]) -> list[Job]:
    """Those that are there; a sentence for those that aren't."""
    found = []
    for job_id in ids:
        try:
            operation = f"GET {words.JOBS}"
            found.append(await visitor.do(operation, visitor.rooms.jobs.get, visitor.account.id, job_id))
        except NotFound as error:
            ui.label(error.message).classes("text-negative break-words").props("role=alert")
    return found


async def _choice(visitor: Visitor, chosen: list[Job]) -> None:
    operation, rooms = "GET /fine_tuning/jobs", visitor.rooms
    newest, _ = await visitor.do(operation, rooms.jobs.page, visitor.account.id, limit=CHOICES, sought=Sought())
    options = {one.id: words.model_name(one) for one in [*chosen, *newest]}
    select = ui.select(options, value=[one.id for one in chosen], label=t("compare.jobs"), multiple=True)
    select.props(f"outlined dense use-chips options-dense max-values={MOST_JOBS}").classes("w-full")

    def show() -> None:
        ui.navigate.to("/compare?" + urlencode([("job", one) for one in select.value]))

    select.on("popup-hide", lambda: show() if select.value != [one.id for one in chosen] else None)
    select.on("remove", show)


def _settings(jobs: list[Job], names: list[str]) -> None:
    """A row for each setting; where the jobs differ it is marked, and says so to those who can't see the mark."""
    rows = {t("compare.model"): [one.model for one in jobs], t("compare.training"): [one.training_file for one in jobs]}
    rows[t("compare.validation")] = [one.validation_file or "–" for one in jobs]
    rows[t("compare.status")] = [words.status_text(one.status) for one in jobs]
    numbers = [hyperparameters(one) for one in jobs]
    for name in dict.fromkeys(name for found in numbers for name in found):
        rows[name] = [found[name].used if name in found else "–" for found in numbers]
    with ui.element("div").classes("tunery-card w-full overflow-x-auto p-3").props("tabindex=0 role=region") as region:
        region.props["aria-label"] = t("compare.settings")
        with ui.element("table").classes("text-left"):
            with ui.element("thead"), ui.element("tr"):
                for text in (t("compare.setting"), *names):
                    _cell("th", text, "quiet font-semibold", scope="col")
            with ui.element("tbody"):
                for name, values in rows.items():
                    _row(name, values)


def _row(name: str, values: list[str]) -> None:
    differs = len(set(values)) > 1
    with ui.element("tr"):
        _cell("th", f"{name} – {t('compare.differs')}" if differs else name, "font-normal", scope="row")
        for value in values:
            _cell("td", value, "tunery-mark" if differs else "")


def _cell(tag: str, text: str, classes: str, scope: str = "") -> None:
    with ui.element(tag).classes(f"px-3 py-1 break-all {classes}") as cell:
        if scope:
            cell.props["scope"] = scope
        ui.label(text)


def _short(job: Job) -> str:
    """As much of a name as a legend bears."""
    return job.suffix or job.id.removeprefix("ftjob-")[:8]
