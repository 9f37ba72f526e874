"""Which deployments are asked, side by side."""

from collections.abc import Callable
from urllib.parse import quote

from nicegui import ui

from tunery.studio import parts
from tunery.studio.frame import ROOT
from tunery.studio.pages.playground.screen import Screen
from tunery.studio.play.talk import MOST_PANES
from tunery.studio.texts import t


def panes(screen: Screen, rebuild: Callable[[], None]) -> None:
    """A choice for each pane; without any deployment the way to one."""
    choices = screen.choices()
    if not choices:
        with parts.empty_state("rocket_launch", t(f"playground.none_{screen.kind}"), t("playground.none_detail")):
            _ways_to_deploy(screen)
        return
    names = {one.name: one.name if one.name == one.model else f"{one.name} · {one.model}" for one in choices}
    talk = screen.shown.talk
    with ui.row().classes("w-full gap-2 items-center"):
        for number, name in enumerate(talk.panes):
            _pane(screen, names, (number, name), rebuild)
        if len(talk.panes) < MOST_PANES:
            _more(screen, list(names), rebuild)
        _ways_to_deploy(screen)


def _pane(screen: Screen, names: dict[str, str], pane: tuple[int, str], rebuild: Callable[[], None]) -> None:
    number, name = pane
    talk = screen.shown.talk

    def choose(chosen: str) -> None:
        talk.panes[number] = chosen
        rebuild()

    def remove() -> None:
        del talk.panes[number]
        for turn in talk.rounds:
            turn.answers = {_moved(key, number): answer for key, answer in turn.answers.items() if key != number}
        rebuild()

    label = t("playground.deployment") if len(talk.panes) == 1 else t("playground.deployment_of", number=number + 1)
    with ui.row().classes("items-center gap-1 no-wrap min-w-0 grow basis-56"):
        select = ui.select(names, label=label, value=name, on_change=lambda event: choose(event.value))
        select.props("outlined dense options-dense").classes("grow min-w-0")
        if len(talk.panes) > 1:
            button = ui.button(icon="close", color=None, on_click=remove).props("flat round dense")
            button.props["aria-label"] = t("playground.remove_pane", name=name)


def _moved(key: int, removed: int) -> int:
    return key - 1 if key > removed else key


def _more(screen: Screen, names: list[str], rebuild: Callable[[], None]) -> None:
    def add() -> None:
        talk = screen.shown.talk
        talk.panes.append(next((name for name in names if name not in talk.panes), talk.panes[0]))
        rebuild()

    ui.button(t("playground.compare"), icon="compare", color=None, on_click=add).props(parts.LOOKS["plain"]).props[
        "title"
    ] = t("playground.compare_detail")


def _ways_to_deploy(screen: Screen) -> None:
    """Models that nobody can ask yet lead to the page that deploys them."""
    if not screen.undeployed:
        _link(t("playground.deploy"), "")
        return
    button = ui.button(t("playground.not_deployed"), icon="rocket_launch", color=None).props("flat dense no-caps")
    with button, ui.menu().classes("p-2"), ui.column().classes("gap-2"):
        for name in screen.undeployed:
            _link(name, f"?model={quote(name)}")
        _link(t("playground.deploy"), "")


def _link(text: str, query: str) -> None:
    with ui.element("a").classes("tunery-link text-sm break-words max-w-80") as link:
        link.props["href"] = f"{ROOT}/deployments{query}"
        ui.label(text)
