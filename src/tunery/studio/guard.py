"""ASGI middleware around Studio's pages: no foreign origin, no foreign script, no foreign frame."""

import re
import secrets
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SCRIPT = re.compile(rb"<script\b")
SAFE = ("GET", "HEAD", "OPTIONS")
POLICY = (
    "default-src 'self'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
"""unsafe-eval: NiceGUI runs what its server sends over the page's own socket. Inline styles are Quasar's way."""


class Guard:
    """Refuses what another site's page sends here with the visitor's cookie, and gives each page's scripts a nonce.

    Foreign text can't carry the nonce: NiceGUI escapes every < of what a page shows before this sees the page.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and not _same_origin(scope):
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["method"] not in SAFE and not _same_origin(scope):
            await _refuse(send)
        else:
            await self._app(_uncompressed(scope), receive, _Page(send))


class _Page:
    """`send` of one answer: a page is held until it is whole, anything else passes."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["referrer-policy"] = "same-origin"
            if headers.get("content-type", "").startswith("text/html"):
                self._start = message
                return
            await self._send(message)
        elif self._start is None:
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._finish(self._start)

    async def _finish(self, start: Message) -> None:
        nonce = secrets.token_urlsafe(16)
        body = SCRIPT.sub(b'<script nonce="%s"' % nonce.encode(), self._body)
        headers = MutableHeaders(scope=start)
        headers["content-length"] = str(len(body))
        headers["content-security-policy"] = POLICY.format(nonce=nonce)
        headers["cache-control"] = "no-store"
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})


def _same_origin(scope: Scope) -> bool:
    """Whether the browser says that the caller is a page of this very address; nothing but a browser says nothing."""
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site", "none") in ("none", "same-origin")
    return urlsplit(origin).netloc == headers.get("host", "")


def _uncompressed(scope: Scope) -> Scope:
    """A page can't be read once it is compressed; scripts and styles may be."""
    if b"text/html" not in Headers(scope=scope).get("accept", "").encode():
        return scope
    return {**scope, "headers": [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]}


async def _refuse(send: Send) -> None:
    await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"Studio takes changes from its own pages only."})
