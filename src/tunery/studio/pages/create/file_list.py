"""Files that were added earlier, newest first, a page at a time: those that fit can be chosen, others say why."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from nicegui import ui

from tunery.files import TRAINING
from tunery.records import File, FileStatus
from tunery.studio import parts
from tunery.studio.file_status import file_chip
from tunery.studio.pages.create import file_parts
from tunery.studio.pages.create.findings import unfit
from tunery.studio.texts import shown_time, t
from tunery.studio.visitor import Visitor

ROWS = 10
COLUMNS = {"name": "", "status": "max-sm:hidden", "choose": "text-right"}
POLL_SECONDS = 2.0


class Choice(NamedTuple):
    """What a list of files is for."""

    formats: Callable[[], frozenset[str]]
    chosen: Callable[[], File | None]
    choose: Callable[[str], Awaitable[None]]


class Line(NamedTuple):
    """What a row says; while it says the same it stays as it is."""

    file: File
    why: str | None
    chosen: bool


class FileList:
    def __init__(self, visitor: Visitor, choice: Choice) -> None:
        self._visitor, self._choice = visitor, choice
        self._after: list[str] = []
        """Ends of the pages before this one."""
        self._files: list[File] = []
        self._more = False
        self._shape: tuple[tuple[str, ...], bool, bool] | None = None
        self._lines: dict[str, Line] = {}
        self._rows: dict[str, ui.element] = {}
        self._place = ui.column().classes("w-full gap-2")

    async def load(self) -> None:
        files = self._visitor.rooms.files
        after = self._after[-1] if self._after else None
        self._files, self._more = await self._visitor.do(
            "GET /files", files.page, self._visitor.account.id, purpose=TRAINING, after=after, limit=ROWS
        )
        self.show()

    def show(self) -> None:
        """Only rows that say something else are made anew."""
        chosen, formats = self._choice.chosen(), self._choice.formats()
        lines = {
            file.id: Line(file, unfit(file, formats) if formats else None, chosen is not None and chosen.id == file.id)
            for file in self._files
        }
        shape = (tuple(lines), bool(self._after), self._more)
        if shape != self._shape:
            self._shape = shape
            self._table(list(lines))
        for file_id, line in lines.items():
            if self._lines.get(file_id) != line:
                self._row(line)
        self._lines = lines

    def _table(self, ids: list[str]) -> None:
        self._lines, self._rows = {}, {}
        self._place.clear()
        with self._place:
            if not ids:
                parts.empty_state("folder_open", t("create.no_files"), t("create.no_files_detail"))
                return
            with ui.element("table").classes("tunery-files w-full"):
                with ui.element("thead"), ui.element("tr"):
                    for name, classes in COLUMNS.items():
                        with ui.element("th").classes(classes).props("scope=col"):
                            ui.label(t(f"create.column_{name}"))
                with ui.element("tbody"):
                    for file_id in ids:
                        self._rows[file_id] = ui.element("tr")
            self._pages()

    def _pages(self) -> None:
        if not self._more and not self._after:
            return
        with ui.row().classes("w-full justify-end gap-2"):
            newer = ui.button(t("create.newer"), color=None, on_click=parts.shown(self._newer)).props(
                "flat no-caps dense"
            )
            older = ui.button(t("create.older"), color=None, on_click=parts.shown(self._older)).props(
                "flat no-caps dense"
            )
            newer.set_enabled(bool(self._after))
            older.set_enabled(self._more)

    async def _older(self) -> None:
        self._after.append(self._files[-1].id)
        await self.load()

    async def _newer(self) -> None:
        self._after.pop()
        await self.load()

    def _row(self, line: Line) -> None:
        row = self._rows[line.file.id]
        row.clear()
        row.classes(**{"add" if line.chosen else "remove": "tunery-chosen"})
        with row:
            with ui.element("td").classes("min-w-0"):
                _name(line)
            with ui.element("td").classes(COLUMNS["status"]):
                file_chip(line.file)
            with ui.element("td").classes(COLUMNS["choose"]):
                self._button(line)

    def _button(self, line: Line) -> None:
        async def choose() -> None:
            await self._choice.choose(line.file.id)

        text = t("create.is_chosen") if line.chosen else t("create.choose")
        button = ui.button(text, color=None, on_click=parts.shown(choose)).props(parts.LOOKS["plain"]).props("dense")
        button.classes("px-3").props["aria-label"] = f"{text}: {line.file.filename}"
        button.set_enabled(line.why is None and not line.chosen)


def _name(line: Line) -> None:
    ui.label(line.file.filename).classes("font-medium break-all")
    with ui.element("div").classes("sm:hidden"):
        file_chip(line.file)
    if line.file.status == FileStatus.PROCESSED:
        ui.label(file_parts.contents(line.file)).classes("quiet text-sm")
    ui.label(t("create.added", time=shown_time(line.file.created_at))).classes("quiet text-sm")
    if line.why is not None:
        ui.label(line.why).classes("text-sm break-words")
    if line.file.findings:
        file_parts.findings_link(line.file)


async def build(visitor: Visitor, choice: Choice) -> FileList:
    listed = FileList(visitor, choice)
    await listed.load()
    parts.every(POLL_SECONDS, listed.load)
    return listed
