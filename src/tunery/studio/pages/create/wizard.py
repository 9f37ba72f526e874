"""What every step of the wizard has: the list of steps, Back and Next, and what the service says of the choices."""

from collections.abc import Callable

from nicegui import ui

from tunery.studio import parts
from tunery.studio.frame import ROOT
from tunery.studio.pages.create.draft import STEPS, Draft
from tunery.studio.pages.create.findings import Found, first_held, held, look
from tunery.studio.texts import t
from tunery.studio.visitor import Visitor


class Wizard:
    """One open page. Steps change the draft through `choose` and are told by `on_change` what that led to."""

    def __init__(self, visitor: Visitor, draft: Draft, found: Found) -> None:
        self.visitor, self.draft, self.found = visitor, draft, found
        self._listeners: list[Callable[[], None]] = []

    def on_change(self, show: Callable[[], None]) -> None:
        """Calls `show` now and whenever choices or findings have changed."""
        self._listeners.append(show)
        show()

    async def choose(self, **changes: str) -> None:
        self.remember(self.draft.choosing(**changes))
        await self.look_again()

    def remember(self, draft: Draft) -> None:
        """Into the page's address, without another entry in the browser's history."""
        self.draft = draft
        ui.navigate.history.replace(ROOT + draft.url())

    async def look_again(self) -> None:
        draft = self.draft
        found = await look(self.visitor, draft)
        if draft is not self.draft or found == self.found:
            return
        self.found = found
        self.tell()

    def tell(self) -> None:
        for show in self._listeners:
            show()

    def go(self, step: str) -> None:
        ui.navigate.to(self.draft.url(step=step))


def step_list(wizard: Wizard) -> None:
    """All steps with what was chosen; those behind the first one that isn't done can't be opened yet."""
    with ui.element("nav").classes("max-lg:hidden tunery-card p-3 self-start sticky top-16") as nav:
        nav.props["aria-label"] = t("create.steps")
        inside = ui.element("ol").classes("list-none m-0 p-0 flex flex-col flex-nowrap gap-1 w-full tunery-steps")

    def show() -> None:
        inside.clear()
        undone = first_held(wizard.draft, wizard.found)
        reachable = len(STEPS) if undone is None else STEPS.index(undone[0]) + 1
        with inside:
            for number, step in enumerate(STEPS, 1):
                _step(wizard, step, number, open=number <= reachable, done=number < min(reachable, len(STEPS)))

    wizard.on_change(show)


def _step(wizard: Wizard, step: str, number: int, *, open: bool, done: bool) -> None:
    with (
        ui.element("li").classes("min-w-0"),
        ui.element("a" if open else "div").classes(
            "flex flex-nowrap items-start gap-3 p-2 rounded-lg no-underline"
        ) as link,
    ):
        if open:
            link.props["href"] = ROOT + wizard.draft.url(step=step)
        else:
            link.classes("quiet").props["aria-disabled"] = "true"
        if step == wizard.draft.step:
            link.props["aria-current"] = "step"
        if done:
            ui.icon("check_circle", size="1.5rem", color="positive").props("aria-hidden=true")
        else:
            ui.label(str(number)).classes("tunery-number").props("aria-hidden=true")
        with ui.column().classes("gap-0 min-w-0 flex-1"):
            ui.label(t(f"create.step_{step}")).classes("font-medium")
            if said := _chosen(wizard, step):
                ui.label(said).classes("quiet text-sm truncate w-full")


def _chosen(wizard: Wizard, step: str) -> str:
    draft, found = wizard.draft, wizard.found
    if step == "validation" and not draft.validation:
        return t("create.none") if draft.training else ""
    if step == "options" and draft.training:
        return t("create.advanced") if draft.advanced else t("create.default")
    file = {"training": found.training, "validation": found.validation}.get(step)
    return file.filename if file is not None else draft.model if step == "model" else ""


def progress(wizard: Wizard) -> None:
    """Where one is, on narrow screens."""
    number = STEPS.index(wizard.draft.step) + 1
    with ui.column().classes("lg:hidden w-full gap-1"):
        ui.label(t("create.step_of", number=number, count=len(STEPS))).classes("quiet text-sm")
        ui.linear_progress(number / len(STEPS), show_value=False, size="6px").props("rounded aria-hidden=true")


def way_on(wizard: Wizard) -> None:
    """Back and Next; Next waits, and says for what."""
    place = STEPS.index(wizard.draft.step)
    with ui.row().classes("w-full items-center justify-between gap-3 pt-4 border-t tunery-line no-wrap"):
        back = ui.button(t("create.back"), color=None, on_click=lambda: wizard.go(STEPS[place - 1]))
        back.props(parts.LOOKS["plain"]).set_visibility(place > 0)
        with ui.row().classes("items-center gap-3 flex-1 justify-end min-w-0 no-wrap"):
            why = ui.label().classes("quiet text-sm break-words min-w-0 text-right").props("role=status id=held")
            button = ui.button(t("create.next"), color=None, on_click=lambda: wizard.go(STEPS[place + 1]))
            button.props(parts.LOOKS["primary"]).props("aria-describedby=held")

    def show() -> None:
        reason = held(wizard.draft, wizard.found, wizard.draft.step)
        button.set_enabled(reason is None)
        why.set_text(reason or "")

    wizard.on_change(show)
