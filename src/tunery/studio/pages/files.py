"""The data files of an account: upload, find, see how each stands."""

from typing import Any
from urllib.parse import urlencode

from nicegui import ui

from tunery.records import File
from tunery.studio import parts
from tunery.studio.file_status import file_chip
from tunery.studio.frame import ROOT, page
from tunery.studio.pager import Pager
from tunery.studio.texts import shown_bytes, shown_number, shown_time, t
from tunery.studio.upload import upload_area
from tunery.studio.visitor import Visitor

LIST = "GET /files"
ROWS = 25
COLUMNS = ("name", "status", "findings", "examples", "size", "purpose", "created")


@page("/files", "frame.files")
async def files(visitor: Visitor, search: str = "") -> None:
    parts.heading(t("frame.files"))

    async def uploaded(file: File) -> None:
        parts.note(t("files.uploaded", name=file.filename))
        await listing.refresh()

    upload_area(visitor, uploaded)
    listing = _Listing(visitor, search)
    await listing.refresh()
    parts.every(2, listing.refresh)


class _Listing:
    """A page of files that follows the database, redrawn only where something changed."""

    def __init__(self, visitor: Visitor, search: str) -> None:
        self._visitor = visitor
        self._search = search
        self._first = 0
        self._shown: tuple[int, list[File]] | None = None
        field = ui.input(t("files.search"), value=search, on_change=lambda event: self._seek(event.value or ""))
        field.props("outlined dense clearable debounce=300").classes("w-full sm:w-96")
        self._place = ui.column().classes("w-full")
        self._pager = Pager(0, ROWS, self._turn)

    async def refresh(self) -> None:
        total = await self._visitor.do(LIST, self._read_count)
        found, _ = await self._visitor.do(LIST, self._read)
        if (total, found) == self._shown:
            return
        self._shown = (total, found)
        self._pager.count(total)
        self._place.clear()
        with self._place:
            if found:
                _table(found)
            elif self._search:
                parts.empty_state("search_off", t("files.none_found"))
            else:
                parts.empty_state("description", t("files.none"), t("files.none_detail"))

    async def _seek(self, search: str) -> None:
        self._search, self._first = search, 0
        self._pager.restart()
        query = f"?{urlencode({'search': search})}" if search else ""
        ui.navigate.history.replace(f"{ROOT}/files{query}")
        with parts.said():
            await self.refresh()

    async def _turn(self, first: int) -> None:
        self._first = first
        await self.refresh()

    def _read_count(self) -> int:
        files = self._visitor.rooms.files
        return files.count(self._visitor.account.id, search=self._search)

    def _read(self) -> tuple[list[File], bool]:
        files = self._visitor.rooms.files
        return files.page(self._visitor.account.id, search=self._search, skip=self._first, limit=ROWS)


def _table(found: list[File]) -> None:
    with (
        ui.element("div").classes("w-full overflow-x-auto tunery-card").props("tabindex=0 role=region") as frame,
        ui.element("table").classes("tunery-table w-full"),
    ):
        frame.props["aria-label"] = t("frame.files")
        with ui.element("thead"), ui.element("tr"):
            for column in COLUMNS:
                with ui.element("th"):
                    ui.label(t(f"files.{column}"))
        with ui.element("tbody"):
            for file in found:
                _row(file)


def _row(file: File) -> None:
    with ui.element("tr"):
        with (
            ui.element("td").classes("min-w-40 [overflow-wrap:anywhere]"),
            ui.element("a").classes("tunery-link") as link,
        ):
            link.props["href"] = f"{ROOT}/files/{file.id}"
            ui.label(file.filename).classes("inline")
        with ui.element("td"):
            file_chip(file)
        _cell(shown_number(file.findings) if file.findings else "–")
        _cell("–" if file.examples is None else shown_number(file.examples))
        _cell(shown_bytes(file.bytes))
        _cell(file.purpose)
        _cell(shown_time(file.created_at))


def _cell(text: Any) -> None:
    with ui.element("td").classes("whitespace-nowrap"):
        ui.label(str(text))
