"""Some rows at a time: back, on, and where one is."""

from collections.abc import Awaitable, Callable

from nicegui import ui

from tunery.studio import parts
from tunery.studio.texts import shown_number, t


class Pager:
    """Calls `show` with the number of rows to skip. Invisible as long as all rows fit."""

    def __init__(self, total: int, rows: int, show: Callable[[int], Awaitable[None]], *, first: int = 0) -> None:
        self.first = first
        self._total, self._rows, self._show = total, rows, show
        with ui.row().classes("items-center gap-2") as self._bar:
            self._back = self._button("chevron_left", t("pager.back"), -rows)
            self._where = ui.label().props("role=status")
            self._on = self._button("chevron_right", t("pager.on"), rows)
        self._draw()

    def count(self, total: int) -> None:
        """There are more or fewer rows now."""
        self._total = total
        self._draw()

    def restart(self) -> None:
        """Other rows: from the first on."""
        self.first = 0

    def _button(self, icon: str, text: str, by: int) -> ui.button:
        async def move() -> None:
            wanted = min(max(0, self.first + by), max(0, self._total - 1))
            await self._show(wanted)
            self.first = wanted
            self._draw()

        button = ui.button(icon=icon, color=None, on_click=parts.shown(move)).props("flat round dense")
        button.props["aria-label"] = text
        return button

    def _draw(self) -> None:
        last = min(self._total, self.first + self._rows)
        numbers = {"first": self.first + 1, "last": last, "total": self._total}
        self._where.set_text(t("pager.where", **{name: shown_number(number) for name, number in numbers.items()}))
        self._back.set_enabled(self.first > 0)
        self._on.set_enabled(last < self._total)
        self._bar.set_visibility(self._total > self._rows)
