"""A job's events, newest first, a page at a time; the first page follows the job."""

from typing import Any

from nicegui import ui

from tunery.records import Event, Job
from tunery.studio import parts
from tunery.studio.frame import ROOT
from tunery.studio.texts import shown_time, t
from tunery.studio.visitor import Visitor

SIZE = 25
LEVELS = {"info": "info", "warning": "warning", "warn": "warning", "error": "negative"}
TIME = """<q-td :props="props" class="align-top quiet whitespace-nowrap">{{ props.value }}</q-td>"""
MESSAGE = """<q-td :props="props"><div class="whitespace-pre-line break-words" style="overflow-wrap: anywhere">
<q-icon v-if="props.row.icon" :name="props.row.icon" :color="props.row.colour" size="1.1rem" role="img"
:aria-label="props.row.level" /> {{ props.value }}</div></q-td>"""


class Events:
    """A list with a way to older and back to the newest ones."""

    def __init__(self, visitor: Visitor, job: Job, after: str) -> None:
        """`after`: behind which event the page begins; empty: the newest."""
        self._visitor, self._job, self._after = visitor, job, after
        self._last = ""
        columns = [_column(name) for name in ("time", "message")]
        self._table = ui.table(columns=columns, rows=[], row_key="id", pagination=0)
        self._table.classes("w-full").props("flat hide-bottom wrap-cells dense")
        self._table.add_slot("body-cell-time", TIME)
        self._table.add_slot("body-cell-message", MESSAGE)
        with ui.row().classes("w-full justify-end gap-2"):
            self._newest = ui.button(t("model.newest"), icon="first_page", color=None, on_click=lambda: self._turn(""))
            self._older = ui.button(t("model.older"), icon="chevron_right", color=None)
            self._older.on_click(lambda: self._turn(self._last))
        for button in (self._newest, self._older):
            button.props("flat no-caps")

    async def refresh(self) -> None:
        found, more = await self._visitor.do(
            "GET /fine_tuning/jobs/{job_id}/events",
            self._visitor.rooms.jobs.events,
            self._job,
            after=self._after or None,
            limit=SIZE,
        )
        rows = [_row(event) for event in found]
        if rows != self._table.rows:
            self._table.rows = rows
        self._last = found[-1].id if found else ""
        self._newest.set_enabled(bool(self._after))
        self._older.set_enabled(more)

    async def _turn(self, after: str) -> None:
        self._after = after
        ui.navigate.history.replace(f"{ROOT}/models/{self._job.id}" + (f"?events={after}" if after else ""))
        with parts.said():
            await self.refresh()


def _column(name: str) -> dict[str, Any]:
    return {"name": name, "label": t(f"model.event_{name}"), "field": name, "align": "left"}


def _row(event: Event) -> dict[str, Any]:
    icon = {"warning": "warning", "negative": "error"}.get(LEVELS.get(event.level, "info"), "")
    return {
        "id": event.id,
        "time": shown_time(event.created_at),
        "message": event.message,
        "level": event.level,
        "icon": icon,
        "colour": LEVELS.get(event.level, "info"),
    }
