"""Conversations of before."""

import msgspec
from nicegui import ui

from tunery.studio import parts
from tunery.studio.pages.playground.screen import Screen
from tunery.studio.play.drafts import TALK, Draft
from tunery.studio.play.talk import Talk
from tunery.studio.play.talks import drafts_of
from tunery.studio.texts import shown_time, t

SHOWN = 20
LONGEST_TITLE = 60


def recent_button(screen: Screen) -> None:
    button = ui.button(t("playground.recent"), icon="history", color=None).props("flat dense no-caps")
    with button, ui.menu() as menu:
        menu.classes("max-w-sm")

    async def fill() -> None:
        kept = await screen.visitor.do(screen.operation, _kept, screen)
        menu.clear()
        with menu:
            if not kept:
                ui.label(t("playground.recent_none")).classes("p-3 quiet")
            for draft, title in kept:
                _entry(draft, title)

    if parts.forbid(button, screen.operation, screen.visitor):
        menu.on("before-show", parts.shown(fill))


def _entry(draft: Draft, title: str) -> None:
    with ui.menu_item(on_click=lambda: ui.navigate.to(f"/playground?talk={draft.id}")), ui.column().classes("gap-0"):
        ui.label(title).classes("truncate max-w-80")
        ui.label(shown_time(draft.updated_at)).classes("quiet text-xs")


def _kept(screen: Screen) -> list[tuple[Draft, str]]:
    found = []
    for draft in drafts_of(screen.visitor).all(TALK)[:SHOWN]:
        title = msgspec.json.decode(draft.content, type=Talk).title
        if title and draft.id != screen.shown.id:
            found.append((draft, title[:LONGEST_TITLE]))
    return found
