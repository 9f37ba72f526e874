"""The Playground: ask one deployment or several side by side, see what it takes, keep what is good."""

from collections.abc import Callable

from nicegui import ui

from tunery.catalog import CHAT, COMPLETION
from tunery.studio import parts
from tunery.studio.frame import ROOT, page
from tunery.studio.pages.playground.collecting import basket_button
from tunery.studio.pages.playground.conversation import Conversation
from tunery.studio.pages.playground.panes import panes
from tunery.studio.pages.playground.parameters import parameters
from tunery.studio.pages.playground.program import program_button
from tunery.studio.pages.playground.recent import recent_button
from tunery.studio.pages.playground.screen import Screen, answering, undeployed
from tunery.studio.play.talks import Talks
from tunery.studio.texts import t
from tunery.studio.visitor import Visitor

TALKS = Talks()


@page("/playground", "frame.playground")
async def playground(visitor: Visitor, talk: str = "", deployment: str = "") -> None:
    """`deployment`: names with commas between, to ask from the start."""
    found = await visitor.do("GET /deployments", answering, visitor.rooms, visitor.account.id)
    shown = await TALKS.open(visitor, talk)

    async def leave() -> None:
        await TALKS.close(visitor, shown)

    ui.context.client.on_delete(leave)
    ui.navigate.history.replace(f"{ROOT}/playground?talk={shown.id}")
    screen = Screen(visitor, shown, found)
    if visitor.may("GET /fine_tuning/models"):
        screen.undeployed = await visitor.do("GET /fine_tuning/models", undeployed, visitor.rooms, visitor.account.id)
    wanted = [name for name in deployment.split(",") if name]
    if wanted and not any(one.name in wanted for one in screen.choices()):
        shown.talk.kind = "completion" if screen.kind == CHAT else "chat"
    screen.settle_panes(wanted)
    with ui.row().classes("w-full items-center gap-2"):
        parts.heading(t("frame.playground"))
        ui.space()
        _new_button()
        recent_button(screen)
        basket = basket_button(screen)
        program_button(screen)
    _workshop(screen, basket)


def _workshop(screen: Screen, refresh_basket: parts.Handler) -> None:
    """Conversation and parameters; built again where chat becomes completions."""
    with ui.column().classes("w-full gap-4 min-w-0") as place:
        _kinds(screen, lambda: _rebuild(screen, place, refresh_basket))
        with ui.element("div").classes("grid w-full gap-4 grid-cols-1 lg:grid-cols-[minmax(0,1fr)_20rem] items-start"):
            with ui.column().classes("w-full gap-3 min-w-0"):
                panes(screen, lambda: _rebuild(screen, place, refresh_basket))
                if screen.choices():
                    Conversation(screen, refresh_basket).build()
            parameters(screen)


def _rebuild(screen: Screen, place: ui.column, refresh_basket: parts.Handler) -> None:
    screen.touch()
    parent = place.parent_slot
    assert parent is not None
    with parent:
        place.delete()
        _workshop(screen, refresh_basket)


def _kinds(screen: Screen, rebuild: Callable[[], None]) -> None:
    async def choose(kind: str) -> None:
        await screen.shown.stop()
        screen.shown.talk.kind = "chat" if kind == CHAT else "completion"
        screen.settle_panes([])
        rebuild()

    with ui.row().classes("gap-2").props("role=group") as group:
        group.props["aria-label"] = t("playground.kind")
        for kind, text in ((CHAT, t("playground.chat")), (COMPLETION, t("playground.completions"))):
            look: parts.Look = "primary" if screen.kind == kind else "plain"
            button = ui.button(text, color=None, on_click=lambda kind=kind: choose(kind))
            button.props(parts.LOOKS[look]).props["aria-pressed"] = str(screen.kind == kind).lower()


def _new_button() -> None:
    button = ui.button(t("playground.new"), icon="add_comment", color=None)
    button.on_click(lambda: ui.navigate.to("/playground")).props("flat dense no-caps")
