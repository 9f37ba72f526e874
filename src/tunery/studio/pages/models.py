"""Custom models with their jobs, and base models with what they really are."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from nicegui import ui

from tunery.catalog import CHAT, COMPLETION, Base, licence_of
from tunery.jobs import Sought
from tunery.records import TERMINAL, Job, JobStatus
from tunery.studio import jobs as words
from tunery.studio import parts
from tunery.studio.frame import ROOT, page
from tunery.studio.plots import MOST_JOBS
from tunery.studio.texts import shown_number, shown_time, t
from tunery.studio.visitor import Visitor

SIZE = 25
"""Jobs of a page."""
CUSTOM, BASES = "custom", "base"
WIDE, WIDER = "max-md:hidden", "max-lg:hidden"
CELL = "whitespace-normal break-all"
LINK = f"""<q-td :props="props" class="{CELL}">
<a v-if="props.row.href" class="tunery-link" :href="props.row.href">{{{{ props.value }}}}</a>
<template v-else>{{{{ props.value }}}}</template></q-td>"""
STATUS = """<q-td :props="props"><q-badge rounded class="px-2 py-1 text-sm" :color="props.row.colour">{{ props.value }}
</q-badge><q-linear-progress v-if="props.row.progress !== null" class="mt-2" rounded size="6px"
:value="props.row.progress" :aria-label="props.row.said" /><div class="quiet text-xs mt-1 whitespace-normal">
{{ props.row.said }}</div></q-td>"""
TARGET = f"""<q-td :props="props" class="{CELL}">
<a v-if="props.value" class="tunery-link" :href="props.row.target">{{{{ props.value }}}}</a>
<span v-else class="quiet">–</span></q-td>"""
TEXT = f"""<q-td :props="props" class="{CELL}">{{{{ props.value }}}}</q-td>"""
WORDS = """<q-td :props="props" class="whitespace-normal">{{ props.value }}</q-td>"""
CHOICE = """<q-checkbox v-model="props.selected" dense :aria-label="props.row.choice" />"""


@page("/models", "models.title")
async def models(visitor: Visitor, tab: str = CUSTOM, search: str = "", status: str = "", page: int = 1) -> None:
    with ui.row().classes("w-full items-center gap-2"):
        parts.heading(t("models.title"))
        ui.space()

        async def create() -> None:
            ui.navigate.to("/create")

        parts.action(
            t("frame.create"), "POST /fine_tuning/jobs", create, visitor=visitor, look="primary", icon="add_circle"
        )
    chosen = tab if tab in (CUSTOM, BASES) else CUSTOM
    custom = CustomModels(visitor, search, status if status in list(JobStatus) else "", max(1, page))
    with ui.tabs(on_change=lambda event: custom.keep(event.value)).props("no-caps align=left") as tabs:
        for name in (CUSTOM, BASES):
            ui.tab(name, label=t(f"models.{name}"))
    with ui.tab_panels(tabs, value=chosen).classes("w-full bg-transparent").props("keep-alive"):
        with ui.tab_panel(CUSTOM).classes("p-0 pt-2"):
            await custom.build()
        with ui.tab_panel(BASES).classes("p-0 pt-2"):
            await _bases(visitor)


class CustomModels:
    """The list, a page of it at a time; what is chosen stands in the address."""

    def __init__(self, visitor: Visitor, search: str, status: str, page: int) -> None:
        self._visitor = visitor
        self._search, self._status, self._page = search, status, page
        self._tab = CUSTOM

    async def build(self) -> None:
        with ui.row().classes("w-full items-center gap-2"):
            found = ui.input(t("models.search"), value=self._search).props("outlined dense clearable debounce=300")
            found.classes("grow max-w-md").on_value_change(lambda event: self._look(search=event.value or ""))
            statuses = {"": t("models.any_status")} | {str(one): words.status_text(one) for one in JobStatus}
            select = ui.select(statuses, value=self._status, label=t("models.status"))
            select.props("outlined dense options-dense").classes("w-44")
            select.on_value_change(lambda event: self._look(status=event.value))
            ui.space()
            self._compare = ui.button(t("models.compare"), icon="stacked_line_chart", color=None)
            self._compare.props(parts.LOOKS["plain"]).on_click(self._open_comparison)
            again = ui.button(t("models.refresh"), icon="refresh", color=None).props(parts.LOOKS["plain"])
            again.on_click(parts.shown(self._refresh))
        self._table = _table(_columns(), selection="multiple")
        self._table.on_select(lambda _event: self._mark())
        self._table.add_slot("header-selection", '<span class="sr-only">{{ props.label }}</span>')
        self._table.add_slot("body-selection", CHOICE)
        for name, slot in {"name": LINK, "status": STATUS, "result_file": TARGET}.items():
            self._table.add_slot(f"body-cell-{name}", slot)
        self._empty = ui.column().classes("w-full")
        with ui.row().classes("w-full items-center justify-end gap-1") as self._pager:
            self._where = ui.label().classes("quiet text-sm").props("role=status")
            self._back = _turn("chevron_left", t("models.newer"), lambda: self._look(page=self._page - 1))
            self._on = _turn("chevron_right", t("models.older"), lambda: self._look(page=self._page + 1))
        self._mark()
        await self._refresh()
        parts.every(2, self._refresh)

    def keep(self, tab: str) -> None:
        """The tab, as well, outlives a reload."""
        self._tab = tab
        self._remember()

    async def _look(self, *, search: str | None = None, status: str | None = None, page: int = 1) -> None:
        self._search = self._search if search is None else search
        self._status = self._status if status is None else status
        self._page = page
        self._remember()
        with parts.said():
            await self._refresh()

    def _remember(self) -> None:
        chosen = {"tab": self._tab, "search": self._search, "status": self._status, "page": self._page}
        plain = {"tab": CUSTOM, "page": 1}
        query = urlencode({name: value for name, value in chosen.items() if value and value != plain.get(name)})
        ui.navigate.history.replace(f"{ROOT}/models" + (f"?{query}" if query else ""))

    async def _refresh(self) -> None:
        account, rooms = self._visitor.account.id, self._visitor.rooms
        statuses = frozenset({JobStatus(self._status)} if self._status else ())
        sought = Sought(search=self._search.strip(), statuses=statuses)
        operation = "GET /fine_tuning/jobs"
        total = await self._visitor.do(operation, rooms.jobs.count, account, sought)
        self._page = min(self._page, max(1, -(-total // SIZE)))
        skip = SIZE * (self._page - 1)
        found, _ = await self._visitor.do(operation, rooms.jobs.page, account, skip=skip, limit=SIZE, sought=sought)
        rows = [_row(job, rooms.store.now()) for job in found]
        if rows != self._table.rows:
            self._table.rows = rows
        self._say(total, skip, len(found))

    def _say(self, total: int, skip: int, count: int) -> None:
        self._table.set_visibility(total > 0)
        self._pager.set_visibility(total > 0)
        self._where.set_text(
            t("models.range", first=shown_number(skip + 1), last=shown_number(skip + count), total=shown_number(total))
        )
        self._back.set_enabled(skip > 0)
        self._on.set_enabled(skip + count < total)
        wanted = "" if total else ("none_found" if self._search or self._status else "none")
        if wanted != self._empty.props.get("data-said", ""):
            self._empty.clear()
            self._empty.props["data-said"] = wanted
            if wanted:
                with self._empty:
                    parts.empty_state("model_training", t(f"models.{wanted}"), t(f"models.{wanted}_detail"))

    def _mark(self) -> None:
        self._compare.set_enabled(2 <= len(self._table.selected) <= MOST_JOBS)

    def _open_comparison(self) -> None:
        ui.navigate.to("/compare?" + urlencode([("job", row["id"]) for row in self._table.selected]))


def _columns() -> list[dict[str, Any]]:
    widths = {"name": 25, "status": 18, "base": 16, "created": 11, "id": 12, "result_file": 12}
    narrow = {"base": WIDE, "created": WIDER, "id": WIDER, "result_file": WIDER}
    return [_column(name, width, narrow.get(name, "")) for name, width in widths.items()]


def _column(name: str, width: int, classes: str = "") -> dict[str, Any]:
    """`width`: in per cent of the table's, where there is room for all columns."""
    return {
        "name": name,
        "label": t(f"models.column_{name}"),
        "field": name,
        "align": "left",
        "classes": classes,
        "headerClasses": f"{classes} md:w-[{width}%]",
    }


def _table(columns: list[dict[str, Any]], selection: Any = None) -> ui.table:
    table = ui.table(columns=columns, rows=[], row_key="id", selection=selection, pagination=0)
    table.classes("w-full").props('flat hide-bottom wrap-cells table-style="table-layout: fixed"')
    table.add_slot("body-cell", TEXT)
    for name in ("created", "context", "works"):
        table.add_slot(f"body-cell-{name}", WORDS)
    return table


def _turn(icon: str, text: str, handler: Any) -> ui.button:
    button = ui.button(icon=icon, color=None, on_click=handler).props("flat round dense")
    button.props["aria-label"] = button.props["title"] = text
    return button


def _row(job: Job, now: float) -> dict[str, Any]:
    name = words.model_name(job)
    return {
        "id": job.id,
        "name": name,
        "href": f"{ROOT}/models/{job.id}",
        "choice": t("models.choose", name=name),
        "status": words.status_text(job.status),
        "colour": parts.COLOURS[words.MOODS[job.status]],
        "progress": None if job.status in TERMINAL else words.progress(job),
        "said": words.progress_text(job, now),
        "base": job.model,
        "created": shown_time(job.created_at),
        "result_file": job.result_file or "",
        "target": f"{ROOT}/files/{job.result_file}",
    }


async def _bases(visitor: Visitor) -> None:
    found: Sequence[Base] = await visitor.do("GET /models", visitor.rooms.catalog.bases)
    damaged: dict[str, str] = await visitor.do("GET /models", visitor.rooms.catalog.damaged)
    ui.label(t("models.bases_detail")).classes("quiet max-w-prose")
    for sentence in damaged.values():
        ui.label(sentence).classes("text-negative break-words").props("role=alert")
    widths = {"name": 24, "served_by": 22, "context": 12, "works": 16, "licence": 12, "tune": 14}
    narrow = {"context": WIDE, "works": WIDE, "licence": WIDER}
    table = _table([_column(name, width, narrow.get(name, "")) for name, width in widths.items()])
    table.add_slot("body-cell-tune", TARGET)
    tunes = visitor.may("POST /fine_tuning/jobs")
    table.rows = [_base_row(base, tunes) for base in found]


def _base_row(base: Base, tunes: bool) -> dict[str, Any]:
    kinds = [t(f"models.works_{kind}") for kind in (CHAT, COMPLETION) if kind in base.kinds]
    return {
        "id": base.name,
        "name": base.name,
        "served_by": base.model.name,
        "context": t("models.tokens", count=shown_number(base.model.context_length)),
        "works": ", ".join(kinds),
        "licence": licence_of(base.model) or t("models.unknown"),
        "tune": t("models.tune") if tunes else "",
        "target": f"{ROOT}/create?{urlencode({'model': base.name})}",
    }
