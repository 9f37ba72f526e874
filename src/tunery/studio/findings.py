"""What the check found in a file: each line with its place marked, and what can be mended of it."""

import re
from typing import NamedTuple

from nicegui import ui

from tunery.errors import WrongState
from tunery.examples import Finding, picked
from tunery.records import File
from tunery.studio import parts
from tunery.studio.frame import ROOT
from tunery.studio.pager import Pager
from tunery.studio.texts import shown_number, t
from tunery.studio.visitor import Visitor

FINDINGS = "GET /files/{file_id}/findings"
CONTENT = "GET /files/{file_id}/content"
CORRECTIONS = "GET /files/{file_id}/corrections"
ROWS = 20
AROUND = 70
"""Characters shown before and behind what is marked."""
_MARKED = re.compile(r'"[^"]{0,40}"|\w{1,40}|.')


class Excerpt(NamedTuple):
    before: str
    marked: str
    after: str


def excerpt(line: str, column: int | None) -> Excerpt:
    """What stands around a place of a line; its beginning if the finding concerns the whole line."""
    if column is None:
        return Excerpt("", "", _cut(line[: 2 * AROUND], end=len(line) > 2 * AROUND))
    at = min(column - 1, len(line))
    begin, found = max(0, at - AROUND), _MARKED.match(line, at)
    marked = found[0] if found else "␤"
    end = at + len(marked)
    before = _cut(line[begin:at], begin=begin > 0)
    return Excerpt(before, marked, _cut(line[end : end + AROUND], end=end + AROUND < len(line)))


async def findings_table(visitor: Visitor, file: File) -> None:
    """The findings, some at a time, and above them the corrected file where there are errors."""
    if file.findings == 0:
        return
    parts.section(t("findings.title"))
    if file.status == "error":
        await _correction(visitor, file)
    body = ui.column().classes("w-full gap-2")

    async def show(first: int) -> None:
        found, lines = await _page(visitor, file, first)
        body.clear()
        with body:
            _table(found, lines)

    await show(0)
    Pager(file.findings, ROWS, show)


async def _page(visitor: Visitor, file: File, first: int) -> tuple[list[Finding], dict[int, str]]:
    files = visitor.rooms.files
    found, _ = await visitor.do(FINDINGS, files.findings, file, after=first, limit=ROWS)
    numbers = {finding.line for finding in found if finding.line is not None}
    try:
        lines = await visitor.do(CONTENT, lambda: picked(files.content(file), numbers))
    except (WrongState, OSError):
        lines = {}
    return found, lines


def _table(found: list[Finding], lines: dict[int, str]) -> None:
    with (
        ui.element("div").classes("w-full overflow-x-auto tunery-card").props("tabindex=0") as frame,
        ui.element("table").classes("tunery-table w-full"),
    ):
        frame.props["aria-label"] = t("findings.title")
        with ui.element("thead"), ui.element("tr"):
            for column in ("line", "rule", "text"):
                with ui.element("th"):
                    ui.label(t(f"findings.{column}"))
        with ui.element("tbody"):
            for finding in found:
                _row(finding, lines)


def _row(finding: Finding, lines: dict[int, str]) -> None:
    with ui.element("tr"):
        with ui.element("td"):
            ui.label("–" if finding.line is None else shown_number(finding.line))
        with ui.element("td"):
            error = finding.level == "error"
            parts.status_chip(t(f"findings.{finding.level}"), "bad" if error else "warning")
            ui.label(finding.rule).classes("quiet text-sm break-words")
        with ui.element("td").classes("w-full"):
            ui.label(finding.message).classes("break-words")
            line = "" if finding.line is None else lines.get(finding.line, "")
            if line:
                _marked(excerpt(line, finding.column))


def _marked(text: Excerpt) -> None:
    with ui.element("div").classes("tunery-text mt-1"):
        ui.label(text.before).classes("inline")
        if text.marked:
            with ui.element("mark").classes("tunery-mark"):
                ui.label(text.marked).classes("inline font-bold")
        ui.label(text.after).classes("inline")


async def _correction(visitor: Visitor, file: File) -> None:
    """What can be mended is computed when it is asked for: of a large file it takes a while."""
    place = ui.column().classes("w-full gap-2")

    async def ask() -> None:
        button.props["loading"] = True
        try:
            correct = visitor.rooms.inspections.corrected
            _, kept, _ = await visitor.do(CORRECTIONS, correct, visitor.account.id, file.id, leave_out=False)
            _, less, _ = await visitor.do(CORRECTIONS, correct, visitor.account.id, file.id, leave_out=True)
        finally:
            button.props["loading"] = False
        button.set_visibility(False)
        with place:
            numbers = {"mended": sum(kept.mends.values()), "unmended": kept.unmended}
            ui.label(t("findings.mended", **{name: shown_number(number) for name, number in numbers.items()}))
            if kept.mends or kept.summary.is_valid:
                _download(file, "keep", valid=kept.summary.is_valid)
            if kept.unmended and less.summary.examples:
                _download(file, "leave_out", valid=less.summary.is_valid)

    with place:
        button = parts.action(t("findings.mend"), CORRECTIONS, ask, visitor=visitor, icon="auto_fix_high")


def _download(file: File, unmended: str, *, valid: bool) -> None:
    with ui.row().classes("items-center gap-3"):
        with ui.element("a").classes("tunery-link") as link:
            link.props["href"] = f"{ROOT}/files/{file.id}/corrected?unmended={unmended}"
            link.props["download"] = True
            ui.label(t(f"findings.{unmended}")).classes("inline")
        parts.status_chip(t("findings.passes" if valid else "findings.fails"), "good" if valid else "warning")


def _cut(text: str, *, begin: bool = False, end: bool = False) -> str:
    return ("…" if begin else "") + text + ("…" if end else "")
