"""What a model reads in a checked file: tokens, their distribution, examples with the trained text marked, overlap."""

from collections.abc import Sequence

from nicegui import ui
from nicegui.events import ValueChangeEventArguments

from tunery.examples import Pairs, seen
from tunery.files import TRAINING
from tunery.records import File, FileStatus
from tunery.studio import charts, parts
from tunery.studio.frame import ROOT
from tunery.studio.pager import Pager
from tunery.studio.texts import shown_number, shown_percent, t
from tunery.studio.visitor import Visitor

STATISTICS, EXAMPLES = "GET /files/{file_id}/statistics", "GET /files/{file_id}/examples"
OVERLAP = "GET /files/{file_id}/overlap"
EXAMPLES_SHOWN = 5
OTHERS = 50
"""Files offered for a comparison: the newest."""


def contents(visitor: Visitor, file: File) -> None:
    """Sections that fill themselves once the page stands: a process has to read the file first."""
    choice = _Choice(visitor, file)
    choice.build()
    parts.section(t("contents.overlap"))
    _overlap(visitor, file)


class _Choice:
    """The base model whose tokens are counted, and what hangs on it."""

    def __init__(self, visitor: Visitor, file: File) -> None:
        self._visitor, self._file = visitor, file
        kind = "completion" if file.format == "completion" else "chat"
        self._models = [base.name for base in visitor.rooms.catalog.bases() if kind in base.kinds]
        self._model = self._models[0]
        self._as_read = False
        self._first = 0
        self._found: list[seen.Seen] = []

    def build(self) -> None:
        parts.section(t("contents.statistics"))
        select = ui.select(self._models, value=self._model, label=t("contents.model"), on_change=self._choose)
        select.props("outlined dense options-dense").classes("w-full sm:w-80")
        self._statistics = ui.column().classes("w-full gap-3")
        parts.section(t("contents.examples"))
        ui.switch(t("contents.as_read"), on_change=self._turn_look)
        self._examples = ui.column().classes("w-full gap-3")
        with ui.row():
            Pager(self._file.examples or 0, EXAMPLES_SHOWN, self._show_examples)
        ui.timer(0.05, self._load, once=True)

    async def _choose(self) -> None:
        await self._load()

    def _turn_look(self, event: ValueChangeEventArguments[bool | None]) -> None:
        self._as_read = bool(event.value)
        self._draw_examples()

    async def _load(self) -> None:
        with parts.said():
            await self._show_statistics()
            await self._show_examples(self._first)

    async def _show_statistics(self) -> None:
        self._statistics.clear()
        with self._statistics:
            ui.spinner(size="2rem").props["aria-label"] = t("contents.counting")
        read = self._visitor.rooms.inspections.statistics
        try:
            found = await self._visitor.do(STATISTICS, read, self._visitor.account.id, self._file.id, self._model)
        finally:
            self._statistics.clear()
        with self._statistics:
            _numbers(found, self._file)

    async def _show_examples(self, first: int) -> None:
        read = self._visitor.rooms.inspections.examples
        account, limit = self._visitor.account.id, EXAMPLES_SHOWN
        found, _ = await self._visitor.do(EXAMPLES, read, account, self._file.id, self._model, after=first, limit=limit)
        self._first, self._found = first, found
        self._draw_examples()

    def _draw_examples(self) -> None:
        self._examples.clear()
        with self._examples:
            for example in self._found:
                _example(example, as_read=self._as_read)


def _numbers(found: seen.Statistics, file: File) -> None:
    if found.counted < (file.examples or 0):
        ui.label(t("contents.sampled", counted=shown_number(found.counted))).classes("quiet")
    tokens = max(1, found.tokens)
    parts.facts(
        {
            t("contents.tokens"): shown_number(found.tokens),
            t("contents.trained"): _share(found.trained_tokens, tokens),
            t("contents.shared"): _share(found.shared_tokens, tokens),
            t("contents.common"): shown_number(found.common_prefix_tokens),
            t("contents.lengths"): " / ".join(map(shown_number, (found.shortest, found.median, found.longest))),
            t("contents.longest_line"): shown_number(found.longest_line),
            t("contents.cut", limit=shown_number(found.longest_example)): _lines(found.cut),
            t("contents.untrainable"): _lines(found.untrainable),
            t("contents.duplicates"): _pairs(found.duplicates),
            t("contents.contradictions"): _pairs(found.contradictions),
        }
    )
    labels = [f"{bar.least}–{bar.most}" if bar.most > bar.least else str(bar.least) for bar in found.histogram]
    about = t("contents.described", shortest=found.shortest, median=found.median, longest=found.longest)
    series: dict[str, Sequence[float]] = {t("contents.sequences"): [bar.count for bar in found.histogram]}
    charts.bars(t("contents.histogram"), labels, series, across=t("contents.tokens_axis"), described=about)


def _share(count: int, of: int) -> str:
    return f"{shown_number(count)} ({shown_percent(count / of)})"


def _lines(lines: seen.Lines) -> str:
    return _listed(lines.count, [str(line) for line in lines.first])


def _pairs(pairs: Pairs) -> str:
    return _listed(pairs.count, [f"{one} = {other}" for one, other in pairs.lines])


def _listed(count: int, first: list[str]) -> str:
    if not count:
        return "0"
    more = ", …" if count > len(first) else ""
    return f"{shown_number(count)} ({t('contents.lines')} {', '.join(first)}{more})"


def _example(example: seen.Seen, *, as_read: bool) -> None:
    with ui.element("article").classes("tunery-card w-full p-3 min-w-0"):
        parts.titled("h3", t("contents.line", line=shown_number(example.line)), "text-base font-medium m-0")
        if example.tools:
            ui.label(t("contents.tools", names=", ".join(example.tools))).classes("quiet break-words")
        for place, sequence in enumerate(example.sequences):
            if len(example.sequences) > 1:
                ui.label(t("contents.preferred" if place == 0 else "contents.other")).classes("font-medium mt-2")
            if as_read:
                _as_read(sequence.stretches)
            else:
                _conversation(sequence.turns)
            trained = sum(stretch.tokens for stretch in sequence.stretches if stretch.trained)
            tokens = sum(stretch.tokens for stretch in sequence.stretches)
            said = t("contents.counted", tokens=shown_number(tokens), trained=shown_number(trained))
            ui.label(said).classes("quiet text-sm")


def _conversation(turns: list[seen.Turn]) -> None:
    for turn in turns:
        with ui.element("div").classes("my-2"):
            with ui.row().classes("gap-2 items-center"):
                ui.label(turn.role).classes("quiet text-sm")
                if turn.trained:
                    ui.label(t("contents.is_trained")).classes("tunery-trained text-sm px-1")
            for text in (turn.text, *turn.calls):
                if text:
                    ui.label(text).classes(f"tunery-text {'tunery-trained' if turn.trained else ''}")


def _as_read(stretches: list[seen.Stretch]) -> None:
    with ui.element("div").classes("tunery-text my-2"):
        for stretch in stretches:
            marks = ("tunery-trained" if stretch.trained else "", "tunery-cut" if stretch.cut else "")
            ui.label(stretch.text).classes(f"inline {' '.join(marks)}")


def _overlap(visitor: Visitor, file: File) -> None:
    ui.label(t("contents.overlap_hint")).classes("quiet")
    select = ui.select({}, label=t("contents.other_file")).props("outlined dense options-dense use-input")
    select.classes("w-full sm:w-96")
    result = ui.column().classes("w-full")

    async def offer() -> None:
        read = visitor.rooms.files.page
        found, _ = await visitor.do("GET /files", read, visitor.account.id, purpose=TRAINING, limit=OTHERS)
        ready = [one for one in found if one.status == FileStatus.PROCESSED and one.id != file.id]
        select.set_options({one.id: one.filename for one in ready})

    async def compare() -> None:
        if not select.value:
            parts.note(t("contents.choose_file"), kind="info")
            return
        find = visitor.rooms.inspections.overlap
        pairs = await visitor.do(OVERLAP, find, visitor.account.id, file.id, str(select.value))
        result.clear()
        with result:
            _overlapping(pairs, str(select.value))

    parts.action(t("contents.compare"), OVERLAP, compare, visitor=visitor, icon="compare_arrows")
    ui.timer(0.05, parts.shown(offer), once=True)


def _overlapping(pairs: Pairs, other: str) -> None:
    if not pairs.count:
        ui.label(t("contents.no_overlap")).props("role=status")
        return
    ui.label(t("contents.overlapping", count=shown_number(pairs.count))).props("role=status")
    for one, two in pairs.lines:
        ui.label(t("contents.overlap_line", one=shown_number(one), other=shown_number(two)))
    with ui.element("a").classes("tunery-link") as link:
        link.props["href"] = f"{ROOT}/files/{other}"
        ui.label(t("contents.open_other")).classes("inline")
