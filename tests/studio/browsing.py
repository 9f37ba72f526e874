"""Chromium in front of Studio, and everything that a page must not do."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal
from urllib.parse import urlsplit

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    Response,
    expect,
    sync_playwright,
)

from tests import identities
from tests.live import Doors
from tests.waiting import PATIENCE
from tunery.records import Account
from tunery.settings import DATA_PLANE_AUDIENCE
from tunery.studio.sessions import Sessions

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
HINT = "no Chromium on the path: `make browser` installs Debian's, or install Chrome or Chromium yourself"
# Of every step of the browser and of whatever a page is expected to show.
expect.set_options(timeout=1000 * PATIENCE)
NO_HOST = ("data", "blob", "about")


def program() -> str | None:
    """The Chromium of this machine."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """No sandbox: it sees pages of our own alone, and in containers it couldn't have one."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


class Complaints:
    """What a browser had to say against its pages: errors of scripts, blocked content, requests to other hosts."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self._expected: list[str] = []

    def expect(self, *parts: str) -> None:
        """Lines with one of these in them are what the test provokes, such as `status of 404`."""
        self._expected += parts

    def watch(self, context: BrowserContext, home: str) -> None:
        """`home`: host and port that may be asked."""
        context.on("console", self._console)
        context.on("weberror", lambda error: self._note(f"page error: {error.error}"))
        context.on("request", lambda request: self._request(request, home))

    def unexpected(self) -> list[str]:
        return [line for line in self.said if not any(part in line for part in self._expected)]

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._note(f"console: {message.text} ({message.location.get('url', '')})")

    def _request(self, request: Request, home: str) -> None:
        address = urlsplit(request.url)
        if address.scheme not in NO_HOST and address.netloc != home:
            self._note(f"request to another host: {request.url}")

    def _note(self, line: str) -> None:
        self.said.append(line)


class Browsing:
    """Opens windows of a browser on a service: each a context of its own, signed in unless told otherwise."""

    def __init__(self, browser: Browser, service: Doors) -> None:
        self.complaints = Complaints()
        self._browser, self._service = browser, service
        self._sessions = Sessions(service.rooms)
        self._contexts: list[BrowserContext] = []

    def window(
        self,
        *,
        roles: tuple[str, ...] | None = None,
        account: Account | None = None,
        signed_in: bool = True,
        language: Literal["en", "de"] = "en",
        colours: Literal["light", "dark"] = "light",
        size: tuple[int, int] = (1280, 800),
        tls: bool = False,
    ) -> Page:
        """A blank page whose `goto("/studio/...")` is signed in: with a key, or as a principal with these roles."""
        settings = self._service.rooms.settings
        base = settings.tls_endpoint if tls else settings.endpoint
        context = self._browser.new_context(
            base_url=base,
            locale={"en": "en-GB", "de": "de-DE"}[language],
            color_scheme=colours,
            viewport={"width": size[0], "height": size[1]},
            ignore_https_errors=tls,
            accept_downloads=True,
            permissions=["clipboard-read", "clipboard-write"],
        )
        context.set_default_timeout(1000 * PATIENCE)
        self._contexts.append(context)
        self.complaints.watch(context, urlsplit(base).netloc)
        if signed_in:
            context.add_cookies([self._cookie(base, account or self._service.account, roles)])
        return _patient(context.new_page())

    def close(self) -> None:
        for context in self._contexts:
            context.close()
        self._contexts.clear()

    def _cookie(self, base: str, account: Account, roles: tuple[str, ...] | None) -> Any:
        sessions = self._sessions
        if roles is None:
            value = sessions.by_key(self._service.rooms.accounts.keys(account)[0])
        else:
            known = identities.make(self._service, *roles, scope=account.arm_id)
            value = sessions.by_token(identities.token(self._service, known, f"{DATA_PLANE_AUDIENCE}/.default"))
        return {
            "name": sessions.cookie,
            "value": value,
            "domain": urlsplit(base).hostname,
            "path": "/studio",
            "httpOnly": True,
            "sameSite": "Strict",
        }


def _patient(page: Page) -> Page:
    """Opens a page of Studio as people do: nobody types before its socket stands, which takes a blink."""

    def patient(visit: Callable[..., Response | None]) -> Callable[..., Response | None]:
        def visited(*given: Any, **more: Any) -> Response | None:
            answer = visit(*given, **more)
            if page.locator("#content").count():
                page.locator("html[data-connected]").wait_for(state="attached")
            return answer

        return visited

    for way in ("goto", "reload", "go_back"):
        setattr(page, way, patient(getattr(page, way)))
    return page
