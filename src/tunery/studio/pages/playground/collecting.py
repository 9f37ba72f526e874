"""The basket: examples that were collected, and the training file they become."""

from nicegui import ui

from tunery.examples.checking import FEWEST_EXAMPLES
from tunery.records import File, FileStatus
from tunery.studio import parts
from tunery.studio.frame import ROOT
from tunery.studio.pages.playground.editing import edited
from tunery.studio.pages.playground.screen import Screen
from tunery.studio.play.basket import Basket, Collected, keep, lines
from tunery.studio.play.talks import drafts_of
from tunery.studio.texts import shown_number, t

SHOWN = 50
LONGEST_SHOWN = 200


def basket_button(screen: Screen) -> parts.Handler:
    """The button that opens the basket; returns what counts it again."""

    async def show() -> None:
        await _Dialog(screen, count).open()

    button = ui.button(t("playground.basket"), icon="playlist_add_check", color=None, on_click=parts.shown(show))
    button.props("flat dense no-caps")

    async def count() -> None:
        collected = await screen.visitor.do(screen.operation, basket_of(screen).all)
        button.set_text(t("playground.basket_count", count=shown_number(len(collected))))

    if parts.forbid(button, screen.operation, screen.visitor):
        ui.timer(0, parts.shown(count), once=True)
    return count


def basket_of(screen: Screen) -> Basket:
    return Basket(drafts_of(screen.visitor), screen.kind)


class _Dialog:
    """What was collected for one kind of file."""

    def __init__(self, screen: Screen, count: parts.Handler) -> None:
        self._screen, self._count = screen, count
        self._basket = basket_of(screen)
        self._collected: list[Collected] = []
        self._file: File | None = None

    async def open(self) -> None:
        with ui.dialog() as dialog, ui.card().classes("w-full max-w-4xl gap-3"):
            dialog.on("hide", dialog.delete)
            dialog.props["aria-label"] = t("playground.basket")
            parts.section(t("playground.basket"))
            ui.label(t("playground.basket_where")).classes("quiet text-sm")
            self._place = ui.column().classes("w-full gap-3 min-w-0")
            with ui.column().classes("w-full gap-3 min-w-0") as self._ways:
                self._upload()
            await self._draw()
            with ui.row().classes("w-full justify-end"):
                ui.button(t("parts.close"), color=None, on_click=dialog.close).props("flat no-caps")
            parts.every(1, self._follow)
        dialog.open()

    async def _draw(self) -> None:
        self._collected = await self._screen.visitor.do(self._screen.operation, self._basket.all)
        await self._count()
        self._place.clear()
        self._ways.set_visibility(bool(self._collected))
        if self._screen.visitor.may("POST /files"):
            self._upload_button.set_enabled(len(self._collected) >= FEWEST_EXAMPLES)
        with self._place:
            if not self._collected:
                parts.empty_state("playlist_add", t("playground.basket_empty"), t("playground.basket_empty_detail"))
                return
            count = len(self._collected)
            ui.label(t("playground.basket_needs", count=shown_number(count), least=FEWEST_EXAMPLES))
            if count > SHOWN:
                ui.label(t("playground.basket_newest", shown=SHOWN)).classes("quiet")
            for collected in self._collected[-SHOWN:]:
                self._example(collected)

    def _example(self, collected: Collected) -> None:
        async def change() -> None:
            text = await edited(t("playground.edit_answer"), collected.answer)
            if text is not None:
                await self._screen.visitor.do(self._screen.operation, self._basket.change, collected, text)
                await self._draw()

        async def remove() -> None:
            await self._screen.visitor.do(self._screen.operation, self._basket.remove, [collected])
            await self._draw()

        with ui.row().classes("tunery-card w-full p-2 no-wrap items-start gap-1"):
            with ui.column().classes("grow gap-1 min-w-0"):
                ui.label(_short(collected.prompt)).classes("quiet text-sm break-words min-w-0 max-w-full")
                ui.label(_short(collected.answer)).classes("break-words min-w-0 max-w-full")
            for icon, text, handler in (
                ("edit", t("playground.edit_answer"), change),
                ("delete", t("playground.basket_remove"), remove),
            ):
                button = ui.button(icon=icon, color=None, on_click=parts.shown(handler)).props(
                    "flat round dense size=sm"
                )
                button.props["aria-label"] = text

    def _upload(self) -> None:
        name = ui.input(t("playground.file_name"), value=f"playground-{self._screen.kind}.jsonl")
        name.props("outlined dense").classes("w-full")

        async def upload() -> None:
            visitor, content = self._screen.visitor, lines(self._collected)
            self._file = await visitor.do(
                "POST /files",
                keep,
                visitor.rooms.files,
                visitor.account.id,
                name.value or "",
                content,
                resource="/openai/files",
            )
            await self._follow()

        async def download() -> None:
            ui.download.content(lines(self._collected), name.value or "playground.jsonl", "application/jsonl")

        async def empty() -> None:
            if await parts.confirm(
                t("playground.basket_clear"), t("playground.basket_clear_detail"), t("playground.basket_clear")
            ):
                await self._screen.visitor.do(self._screen.operation, self._basket.remove, self._collected)
                await self._draw()

        with ui.row().classes("w-full gap-2"):
            self._upload_button = parts.action(
                t("playground.upload"),
                "POST /files",
                upload,
                visitor=self._screen.visitor,
                look="primary",
                icon="upload",
            )
            for text, icon, handler in (
                (t("playground.download"), "download", download),
                (t("playground.basket_clear"), "delete_sweep", empty),
            ):
                ui.button(text, icon=icon, color=None, on_click=parts.shown(handler)).props(parts.LOOKS["plain"])
        self._result = ui.row().classes("items-center gap-2").props("role=status")
        self._told: FileStatus | None = None

    async def _follow(self) -> None:
        """Tell what became of the upload; the examples stay until they are removed by hand."""
        if self._file is None or not self._collected:
            return
        visitor, files = self._screen.visitor, self._screen.visitor.rooms.files
        self._file = file = await visitor.do("GET /files/{file_id}", files.get, visitor.account.id, self._file.id)
        if file.status == self._told:
            return
        self._told = file.status
        self._result.clear()
        with self._result:
            ui.label(t(f"playground.file_{file.status}")).classes("break-words")
            if file.status_details:
                ui.label(file.status_details).classes("text-negative break-words").props("role=alert")
            with ui.element("a").classes("tunery-link") as link:
                link.props["href"] = f"{ROOT}/files/{file.id}"
                ui.label(file.filename)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + " …"
