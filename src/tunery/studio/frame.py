"""What is around every page: sign-in, rights, header, navigation, look, language, and what a refusal looks like."""

import copy
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
from fastapi import Request
from fastapi.responses import RedirectResponse, Response
from nicegui import Client, ui

from tunery.errors import NotFound, TuneryError, Unauthorized
from tunery.studio import parts
from tunery.studio.rooms import Rooms
from tunery.studio.sessions import Sessions
from tunery.studio.texts import LANGUAGE, negotiated, t, text_in
from tunery.studio.visitor import Visitor

logger = logging.getLogger(__name__)

Builder = Callable[..., Awaitable[None]]
ROOT = "/studio"
MARK = Path(__file__).with_name("mark.svg")
SIGN_IN = "/sign-in"
LOOK_COOKIE, LANGUAGE_COOKIE = "tunery_look", "tunery_language"
NAVIGATION = (
    ("/", "home", "frame.home"),
    ("/create", "add_circle", "frame.create"),
    ("/files", "description", "frame.files"),
    ("/models", "model_training", "frame.models"),
    ("/deployments", "rocket_launch", "frame.deployments"),
    ("/playground", "forum", "frame.playground"),
)
COLOURS = {"primary": "#1f6feb", "accent": "#1f6feb", "info": "#1f6feb"}
COLOURS |= {"positive": "#18794e", "negative": "#c62a2f", "warning": "#8a5a00"}
BUILD_SECONDS = 30.0
WIDE = 1024
"""Pixels from which the navigation stays beside the page."""


def page(path: str, title: str) -> Callable[[Builder], Builder]:
    """Register a page below /studio for those who are signed in.

    Args:
        path: as NiceGUI's pages have it, with {parameters}.
        title: key of the text in the browser's tab.
    """

    def register(build: Builder) -> Builder:
        @functools.wraps(build)
        async def shown(request: Request, **parameters: Any) -> Response | None:
            chosen = set_language(request)
            try:
                visitor = await anyio.to_thread.run_sync(visitor_of, request)
            except Unauthorized:
                return RedirectResponse(f"{ROOT}{SIGN_IN}?next={quote(_asked_for(request))}", 303)
            ui.page_title(f"{text_in(chosen, title)} · Tunery")
            await _framed(request, visitor, path, functools.partial(build, visitor, **parameters))
            return None

        shown.__signature__ = _signature(build)  # type: ignore[attr-defined]
        ui.page(path, response_timeout=BUILD_SECONDS, title="Tunery")(shown)
        return build

    return register


async def no_page(request: Request, _error: Exception) -> Response:
    """What stands at an address that has no page."""
    try:
        visitor = await anyio.to_thread.run_sync(visitor_of, request)
    except Unauthorized:
        return RedirectResponse(f"{ROOT}{SIGN_IN}", 303)

    async def build() -> None:
        raise NotFound(t("frame.unknown"))

    with Client(ui.page(""), request=request) as client:
        ui.page_title(f"{text_in(set_language(request), 'frame.refused')} · Tunery")
        await _framed(request, visitor, "", build)
    return client.build_response(request, 404)


def visitor_of(request: Request) -> Visitor:
    """Who sends this request's cookie; a dependency for Studio's own routes, which `Guard` keeps to our pages.

    Raises Unauthorized if nobody is signed in.
    """
    rooms, sessions = rooms_of(request), sessions_of(request)
    address = request.client.host if request.client else ""
    return Visitor(rooms, sessions, request.cookies.get(sessions.cookie, ""), address)


def rooms_of(request: Request) -> Rooms:
    rooms = request.app.state.rooms
    assert isinstance(rooms, Rooms)
    return rooms


def sessions_of(request: Request) -> Sessions:
    sessions = request.app.state.sessions
    assert isinstance(sessions, Sessions)
    return sessions


def set_language(request: Request) -> str:
    """Of the page that is being built: chosen in the header, else the browser's."""
    accepted = request.headers.get("accept-language", "")
    chosen = negotiated(accepted, request.cookies.get(LANGUAGE_COOKIE))
    client = ui.context.client
    client.storage[LANGUAGE] = chosen
    client.page = copy.copy(client.page)
    client.page.language = "de" if chosen == "de" else "en-US"
    return chosen


def set_look(request: Request) -> ui.dark_mode:
    """Light, dark, or as the browser has it."""
    ui.add_css(_css())
    # Until its socket stands, what is clicked or typed on a page is lost: look.css holds clicks back for so long.
    ui.context.client.on_connect(lambda: ui.run_javascript("document.documentElement.dataset.connected = ''"))
    ui.colors(
        primary="#1f6feb", accent="#1f6feb", positive="#18794e", negative="#c62a2f", warning="#8a5a00", info="#1f6feb"
    )
    return ui.dark_mode({"dark": True, "light": False}.get(request.cookies.get(LOOK_COOKIE, "")))


def language_button() -> None:
    other = "en" if ui.context.client.storage[LANGUAGE] == "de" else "de"
    button = ui.button(
        t("frame.language"), color=None, on_click=lambda: _keep(LANGUAGE_COOKIE, other, "location.reload()")
    )
    button.props("flat dense no-caps").props["lang"] = other


def look_button(dark: ui.dark_mode) -> None:
    async def turn() -> None:
        was_dark = await ui.run_javascript("document.body.classList.contains('body--dark')")
        dark.set_value(not was_dark)
        _keep(LOOK_COOKIE, "light" if was_dark else "dark")

    button = ui.button(icon="contrast", color=None, on_click=turn).props("flat round dense")
    button.props["aria-label"] = t("frame.look")
    button.props["title"] = t("frame.look")


def _keep(cookie: str, value: str, then: str = "") -> None:
    """A choice of this browser's, for a year."""
    ui.run_javascript(f"document.cookie = '{cookie}={value}; path={ROOT}; max-age=31536000; samesite=strict'; {then}")


async def _framed(request: Request, visitor: Visitor, path: str, build: Callable[[], Awaitable[None]]) -> None:
    dark = set_look(request)
    with ui.element("a").classes("skip").props("href=#content"):
        ui.label(t("frame.skip"))
    drawer = _navigation(path)
    await _header(visitor, dark, drawer)
    with (
        ui.column()
        .classes("w-full max-w-7xl mx-auto p-4 md:p-6 gap-4 min-w-0")
        .props("id=content role=main tabindex=-1")
    ):
        try:
            await build()
        except TuneryError as error:
            _refused(error.message, error.status)
        except Exception:
            # An edge, like a route's: whatever it was, the page around it still stands.
            logger.exception("the page %s broke", path)
            _refused(t("frame.broken"), 500)


def _refused(why: str, status: int) -> None:
    ui.context.client.status_code = status
    parts.heading(t("frame.refused"))
    ui.label(why).classes("break-words").props("role=alert")


def _navigation(path: str) -> ui.left_drawer:
    with (
        ui.left_drawer().props(f"breakpoint={WIDE} width=230").classes("tunery-side p-3") as drawer,
        ui.element("nav") as nav,
    ):
        nav.classes("flex flex-col gap-1 w-full").props["aria-label"] = t("frame.menu")
        for target, icon, text in NAVIGATION:
            with ui.element("a").classes("flex items-center gap-3 px-3 py-2") as link:
                link.props["href"] = ROOT + target
                if path == target or (target != "/" and path.startswith(target)):
                    link.props["aria-current"] = "page"
                ui.icon(icon, size="1.3rem").props("aria-hidden=true")
                ui.label(t(text))
    return drawer


async def _header(visitor: Visitor, dark: ui.dark_mode, drawer: ui.left_drawer) -> None:
    with ui.header().classes("tunery-bar items-center gap-2 px-3 py-1 no-wrap"):
        menu = ui.button(icon="menu", color=None, on_click=drawer.toggle).props("flat round dense")
        menu.props["aria-label"] = t("frame.menu")
        with ui.element("a").classes("flex flex-nowrap items-center gap-2 tunery-brand") as brand:
            brand.props["href"], brand.props["aria-label"] = f"{ROOT}/", "Tunery"
            # The icon's own route: a route for the image would go with its page, and a reload asks in between.
            ui.element("img").classes("w-6 h-6").props(f"src={ROOT}/favicon.ico aria-hidden=true")
            ui.label("Tunery").classes("max-sm:hidden")
        ui.space()
        await _account(visitor)
        language_button()
        look_button(dark)
        _person(visitor)


async def _account(visitor: Visitor) -> None:
    there = await anyio.to_thread.run_sync(visitor.sessions.accounts, visitor.caller)
    if len(there) < 2:
        ui.label(visitor.account.name).classes("quiet max-sm:hidden truncate max-w-40")
        return
    names = {account.name: account for account in there}

    async def choose(name: str) -> None:
        with parts.said():
            await visitor.choose(names[name])
            ui.navigate.to("/")

    select = ui.select(list(names), value=visitor.account.name, on_change=lambda event: choose(event.value))
    select.props("dense outlined options-dense").classes("w-40").props["aria-label"] = t("frame.account")


def _person(visitor: Visitor) -> None:
    key = visitor.caller.account is not None
    who = (
        t("frame.signed_in_key", account=visitor.account.name)
        if key
        else t("frame.signed_in_as", name=visitor.caller.name)
    )
    with ui.button(icon="account_circle", color=None).props("flat round dense") as button:
        button.props["aria-label"] = who
        with ui.menu().classes("p-3"):
            ui.label(who).classes("max-w-64 break-words")
            with ui.element("form").props(f"method=post action={ROOT}/sign-out"):
                ui.button(t("frame.sign_out"), icon="logout", color=None).props("flat no-caps type=submit")


def _signature(build: Builder) -> inspect.Signature:
    """The builder's, with the request where the visitor was: what FastAPI reads."""
    request = inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Request)
    own = [one for one in inspect.signature(build).parameters.values() if one.name != "visitor"]
    return inspect.Signature([request, *own])


def _asked_for(request: Request) -> str:
    query = f"?{request.url.query}" if request.url.query else ""
    return request.url.path.removeprefix(ROOT) + query


@functools.cache
def _css() -> str:
    return files(__package__).joinpath("look.css").read_text("utf-8")
