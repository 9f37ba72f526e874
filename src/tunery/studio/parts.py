"""What pages are made of: buttons that know rights, notes, questions, live updates. Knows no record."""

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from nicegui import ui

from tunery.errors import TuneryError, Unauthorized
from tunery.studio.texts import t
from tunery.studio.visitor import Visitor

logger = logging.getLogger(__name__)

Handler = Callable[[], Awaitable[None]]
Look = Literal["primary", "plain", "danger"]
LOOKS: dict[Look, str] = {
    "primary": "unelevated no-caps color=primary",
    "plain": "outline no-caps color=accent",
    "danger": "outline no-caps color=negative",
}
COLOURS = {"good": "positive", "busy": "info", "warning": "warning", "bad": "negative", "quiet": "grey-7"}


@contextmanager
def said() -> Iterator[None]:
    """Shows a refusal as a note; goes to the sign-in page where the session is over."""
    try:
        yield
    except Unauthorized as error:
        if error.code == "PermissionDenied":
            note(error.message, kind="negative")
        else:
            ui.navigate.reload()
    except TuneryError as error:
        note(error.message, kind="negative")
    except Exception:
        # An edge, like a route's: the visitor is told, the log says what it was.
        logger.exception("an action of Studio broke")
        note(t("frame.broken"), kind="negative")


def note(text: str, *, kind: Literal["positive", "negative", "warning", "info"] = "positive") -> None:
    """A short message that goes away; a refusal stays until it is closed."""
    stays = kind in ("negative", "warning")
    ui.notify(
        text,
        type=kind,
        position="bottom",
        multi_line=True,
        timeout=0 if stays else 4000,
        close_button=t("parts.close") if stays else False,
    )


def action(
    text: str, operation: str, handler: Handler, *, visitor: Visitor, look: Look = "plain", icon: str | None = None
) -> ui.button:
    """A button for an operation of the API: greyed, with the missing role said, for who may not."""
    button = ui.button(text, icon=icon, color=None, on_click=shown(handler)).props(LOOKS[look])
    forbid(button, operation, visitor)
    return button


def forbid(element: ui.element, operation: str, visitor: Visitor) -> bool:
    """Grey out what the visitor may not use, and say which role is missing; True if he may."""
    if visitor.may(operation):
        return True
    missing = t("parts.missing_role", roles=", ".join(visitor.missing(operation)))
    element.props["disable"] = True
    element.props["title"] = missing
    element.props["aria-description"] = missing
    return False


def shown(handler: Handler) -> Handler:
    """The handler, with its refusals shown as notes."""

    async def run() -> None:
        with said():
            await handler()

    return run


def every(seconds: float, refresh: Handler) -> ui.timer:
    """Calls `refresh` again and again while the page is open; a refusal passes, the end of the session leaves."""

    async def run() -> None:
        try:
            await refresh()
        except Unauthorized:
            timer.deactivate()
            ui.navigate.reload()
        except TuneryError:
            return

    timer = ui.timer(seconds, run, immediate=False)
    return timer


async def confirm(question: str, detail: str, yes: str, *, look: Look = "danger") -> bool:
    """Asks in a dialog; Escape and the way out mean no."""
    with ui.dialog() as dialog, ui.card().classes("max-w-lg"):
        dialog.props["aria-label"] = question
        ui.label(question).classes("text-lg font-medium")
        ui.label(detail).classes("whitespace-pre-line break-words")
        with ui.row().classes("w-full justify-end"):
            ui.button(t("parts.cancel"), color=None, on_click=lambda: dialog.submit(False)).props("flat no-caps")
            ui.button(yes, color=None, on_click=lambda: dialog.submit(True)).props(LOOKS[look])
    answer = await dialog
    dialog.delete()
    return bool(answer)


def heading(text: str) -> ui.element:
    """The page's one h1."""
    return titled("h1", text, "text-2xl font-medium m-0 break-words min-w-0")


def section(text: str) -> ui.element:
    return titled("h2", text, "text-lg font-medium m-0 mt-2")


def titled(tag: str, text: str, classes: str) -> ui.element:
    with ui.element(tag).classes(classes) as element:
        ui.label(text).classes("inline")
    return element


def empty_state(icon: str, text: str, detail: str = "") -> ui.column:
    """What a list says that has nothing in it; more, such as a button, may be put into it."""
    with ui.column().classes("w-full items-center py-12 gap-2 text-center") as column:
        ui.icon(icon, size="3rem").classes("opacity-60").props("aria-hidden=true")
        ui.label(text).classes("text-lg")
        if detail:
            ui.label(detail).classes("opacity-80 max-w-prose")
    return column


def status_chip(text: str, mood: str) -> ui.badge:
    """A state in words, coloured; `mood` is a key of COLOURS."""
    return ui.badge(text, color=COLOURS[mood]).props("rounded").classes("px-2 py-1 text-sm")


def facts(pairs: dict[str, Any]) -> None:
    """Names and values, one below the other on narrow screens."""
    with ui.element("dl").classes("grid gap-x-6 gap-y-1 m-0 w-full grid-cols-1 sm:grid-cols-[max-content_1fr]"):
        for name, value in pairs.items():
            with ui.element("dt").classes("opacity-80"):
                ui.label(name)
            with ui.element("dd").classes("m-0 break-words min-w-0 font-medium"):
                ui.label(str(value))
