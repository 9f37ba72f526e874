"""The way in: a key, a name and its secret, a token, or the link that `tunery studio` prints; and the way out."""

from urllib.parse import quote, unquote

from fastapi import Request
from fastapi.responses import RedirectResponse, Response
from nicegui import core, ui

from tunery.api.identity import form_body, in_turn
from tunery.errors import InvalidRequest, TuneryError
from tunery.studio import parts
from tunery.studio.frame import (
    ROOT,
    SIGN_IN,
    language_button,
    look_button,
    rooms_of,
    sessions_of,
    set_language,
    set_look,
)
from tunery.studio.sessions import COOKIE_PATH
from tunery.studio.texts import t, text_in

WAYS = {"key": ("key",), "password": ("name", "password"), "token": ("token",)}
SECRET = ("key", "password", "token")
REFUSAL = "tunery_refusal"
"""Cookie that carries the reason back to the form: a link could say anything in its query."""
LOOPBACK = ("127.0.0.1", "::1")


@ui.page(SIGN_IN, title="Tunery")
def sign_in(request: Request, next: str = "/", way: str = "key") -> None:
    chosen = set_language(request)
    ui.page_title(f"{text_in(chosen, 'sign_in.title')} · Tunery")
    dark = set_look(request)
    with ui.row().classes("w-full justify-end p-2"):
        language_button()
        look_button(dark)
    with ui.card().classes("mx-auto w-full max-w-md p-6 mt-8 gap-3").props("role=main"):
        parts.heading(t("sign_in.title"))
        if refusal := request.cookies.get(REFUSAL):
            ui.label(unquote(refusal)).classes("text-negative break-words").props("role=alert")
        with ui.tabs().classes("w-full").props("no-caps dense align=left") as tabs:
            for name in WAYS:
                ui.tab(name, label=t(f"sign_in.with_{name}"))
        with ui.tab_panels(tabs, value=way if way in WAYS else "key").classes("w-full bg-transparent"):
            for name, fields in WAYS.items():
                with ui.tab_panel(name).classes("p-0 pt-3"):
                    _form(name, fields, next)


def _form(way: str, fields: tuple[str, ...], target: str) -> None:
    """A plain HTML form, so that password managers know it and no secret passes through the page's socket."""
    with ui.element("form").classes("flex flex-col gap-3 w-full").props(f"method=post action={ROOT}{SIGN_IN}"):
        for name, value in (("way", way), ("next", target)):
            hidden = ui.element("input").props("type=hidden")
            hidden.props["name"], hidden.props["value"] = name, value
        for field in fields:
            kind = "type=password autocomplete=current-password" if field in SECRET else "autocomplete=username"
            ui.input(t(f"sign_in.{field}")).props(f"name={field} outlined required {kind}").classes("w-full")
        ui.label(t(f"sign_in.hint_{way}")).classes("quiet text-sm")
        ui.button(t("sign_in.sign_in"), color=None).props(f"type=submit {parts.LOOKS['primary']}").classes("self-end")


@core.app.post(SIGN_IN)
async def enter(request: Request) -> Response:
    """Raises nothing that the form can't say: a refusal goes back to it."""
    form = await form_body(request)
    way, target = form.get("way", "key"), _inside(form.get("next", "/"))
    try:
        cookie = await in_turn(rooms_of(request).sign_ins, lambda: _proved(request, way, form))
    except TuneryError as error:
        back = RedirectResponse(f"{ROOT}{SIGN_IN}?way={quote(way)}&next={quote(target)}", 303)
        back.set_cookie(REFUSAL, quote(error.message), max_age=10, path=COOKIE_PATH, httponly=True, samesite="strict")
        return back
    return _signed_in(request, cookie, target)


@core.app.get("/enter")
async def enter_by_link(request: Request, token: str = "") -> Response:
    try:
        cookie = await in_turn(rooms_of(request).sign_ins, lambda: sessions_of(request).by_link(token))
    except TuneryError as error:
        back = RedirectResponse(ROOT + SIGN_IN, 303)
        back.set_cookie(REFUSAL, quote(error.message), max_age=10, path=COOKIE_PATH, httponly=True, samesite="strict")
        return back
    return _signed_in(request, cookie, "/")


@core.app.post("/sign-out")
def leave(request: Request) -> Response:
    sessions = sessions_of(request)
    sessions.end(request.cookies.get(sessions.cookie, ""))
    gone = RedirectResponse(ROOT + SIGN_IN, 303)
    gone.delete_cookie(sessions.cookie, path=COOKIE_PATH)
    return gone


def _proved(request: Request, way: str, form: dict[str, str]) -> str:
    sessions = sessions_of(request)
    if way == "password":
        _refuse_open_line(request)
        return sessions.by_password(form.get("name", ""), form.get("password", ""))
    if way == "token":
        return sessions.by_token(form.get("token", "").strip())
    return sessions.by_key(form.get("key", "").strip())


def _refuse_open_line(request: Request) -> None:
    """As for the token endpoint; on loopback there is no line."""
    local = request.client is not None and request.client.host in LOOPBACK
    if request.url.scheme != "https" and not local:
        raise InvalidRequest(
            f"Passwords are taken over TLS only: use {rooms_of(request).settings.tls_endpoint}{ROOT} on this machine, "
            "or put a proxy with a certificate in front."
        )


def _signed_in(request: Request, cookie: str, target: str) -> Response:
    sessions = sessions_of(request)
    answer = RedirectResponse(ROOT + target, 303)
    secure = request.url.scheme == "https"
    life = rooms_of(request).settings.studio_session_seconds
    answer.set_cookie(
        sessions.cookie, cookie, max_age=life, path=COOKIE_PATH, httponly=True, samesite="strict", secure=secure
    )
    return answer


def _inside(target: str) -> str:
    """A page of Studio's own, whatever a link asked for."""
    return target if target.startswith("/") and not target.startswith(("//", "/\\")) else "/"
