"""What a browser, another site or another account gets out of a running Studio, on the open port and over TLS."""

import html
import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from playwright.sync_api import Page, expect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests import identities
from tests.studio.browsing import Browsing
from tests.studio.furnished import USER, an_account
from tests.studio.serving import StudioService
from tests.test_files import jsonl
from tests.waiting import PATIENCE
from tunery.records import Account

PAYLOAD = "\"><img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>{{1+1}}"
SCRIPT = re.compile(r"<script\b([^>]*)>")


class Visits:
    """Plain requests with a session's cookie, on one of the two ports."""

    def __init__(self, studio: StudioService, *, tls: bool = False, cookie: str = "") -> None:
        settings = studio.rooms.settings
        self.base = settings.tls_endpoint if tls else settings.endpoint
        self.name, self.cookie = studio.sessions.cookie, cookie or studio.sessions.by_key(studio.key)
        self._ca = str(studio.ca)

    def ask(self, method: str, path: str, **more: Any) -> requests.Response:
        cookies = {self.name: self.cookie}
        given = {"cookies": cookies, "allow_redirects": False, "verify": self._ca, "timeout": PATIENCE, **more}
        return requests.request(method, self.base + path, **given)

    def signed_in(self) -> bool:
        return self.ask("GET", "/studio/").status_code == 200


@pytest.fixture(params=[False, True], ids=["open", "tls"])
def visits(request: pytest.FixtureRequest, studio: StudioService) -> Visits:
    return Visits(studio, tls=request.param)


def test_a_page_lets_in_no_inline_script_no_frame_and_no_guessed_type(visits: Visits) -> None:
    answer = visits.ask("GET", "/studio/")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    nonce = re.search(r"'nonce-([\w-]+)'", policy["script-src"])
    assert nonce is not None and "unsafe-inline" not in policy["script-src"]
    assert policy["frame-ancestors"] == "'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    scripts = SCRIPT.findall(answer.text)
    assert scripts and all(f'nonce="{nonce[1]}"' in attributes for attributes in scripts)


def test_the_cookie_is_for_no_script_no_other_site_and_over_tls_for_tls_alone(
    visits: Visits, studio: StudioService
) -> None:
    answer = visits.ask("POST", "/studio/sign-in", data={"way": "key", "key": studio.key})
    assert answer.status_code == 303
    name, *attributes = answer.headers["set-cookie"].lower().split("; ")
    assert name.startswith(studio.sessions.cookie)
    assert {"httponly", "samesite=strict", "path=/studio"} <= set(attributes)
    assert ("secure" in attributes) == visits.base.startswith("https")


def test_another_site_s_form_changes_nothing(visits: Visits) -> None:
    for stranger in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert visits.ask("POST", "/studio/sign-out", headers=stranger).status_code == 403
    assert visits.signed_in()


def test_another_site_s_socket_is_not_opened(studio: StudioService) -> None:
    visits = Visits(studio)
    address = visits.base.replace("http", "ws") + "/studio/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
    headers = {"Cookie": f"{visits.name}={visits.cookie}"}
    with pytest.raises(InvalidStatus):
        connect(address, origin="https://evil.example", additional_headers=headers)  # type: ignore[arg-type]
    with connect(address, origin=visits.base, additional_headers=headers) as socket:  # type: ignore[arg-type]
        assert str(socket.recv(timeout=PATIENCE)).startswith("0{")


def test_signing_out_ends_the_session_also_for_a_copied_cookie(visits: Visits) -> None:
    assert visits.signed_in()
    answer = visits.ask("POST", "/studio/sign-out", headers={"Origin": visits.base})
    assert answer.headers["location"].endswith("/studio/sign-in")
    assert not visits.signed_in()


def test_the_key_stays_nowhere_in_the_browser(studio: StudioService, browsing: Browsing) -> None:
    page = browsing.window(signed_in=False)
    page.goto("/studio/?x=1")
    page.get_by_label("Account key").fill(studio.key)
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(re.compile(r"/studio/\?x=1$"))
    kept = page.evaluate("() => JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])")
    cookies = page.context.cookies()
    assert studio.key not in kept + page.content() + str(cookies)
    assert studio.sessions.cookie not in kept
    assert {cookie["name"] for cookie in cookies} == {studio.sessions.cookie}


def test_a_page_over_tls_is_as_live_as_on_the_open_port(browsing: Browsing) -> None:
    page = browsing.window(tls=True)
    page.goto("/studio/")
    page.get_by_role("button", name="Light or dark").click()
    expect(page.locator("body")).to_have_class(re.compile("body--dark"))


def test_a_regenerated_key_ends_its_sessions(studio: StudioService, browsing: Browsing) -> None:
    account = an_account(studio, "regenerated")
    page = browsing.window(account=account)
    page.goto("/studio/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Welcome to Tunery")
    studio.rooms.accounts.regenerate(account, 1)
    page.reload()
    expect(page.get_by_role("heading", name="Sign in to Tunery")).to_be_visible()


def test_a_removed_principal_is_out_at_once(studio: StudioService) -> None:
    known = identities.make(studio, USER)
    visits = Visits(studio, cookie=studio.sessions.by_password(known.id, known.secret))
    assert visits.signed_in()
    principals = studio.rooms.access.principals
    principals.remove(principals.get(known.id))
    assert not visits.signed_in()


@pytest.fixture
def stranger(studio: StudioService) -> Iterator[Account]:
    yield an_account(studio, "stranger")


def test_what_another_account_has_is_as_unknown_as_what_nobody_has(studio: StudioService, stranger: Account) -> None:
    file = studio.file("mine.jsonl", jsonl())
    job = studio.job(file)
    theirs = Visits(studio, cookie=studio.sessions.by_key(studio.rooms.accounts.keys(stranger)[0]))
    for path, found in ((f"/studio/files/{file}", file), (f"/studio/models/{job.id}", job.id)):
        assert Visits(studio).ask("GET", path).status_code == 200
        nothing = found[:-4] + "0000"
        foreign, unknown = (theirs.ask("GET", path.replace(found, one)) for one in (found, nothing))
        assert foreign.status_code == unknown.status_code == 404
        assert _said(foreign) == [text.replace(nothing, found) for text in _said(unknown)] != []


def _said(answer: requests.Response) -> list[str]:
    """Every text on the page: the rest of it differs each time it is built."""
    return re.findall(r'"text":\s*"((?:[^"\\]|\\.)*)"', html.unescape(answer.text))


def test_foreign_text_stays_text_wherever_it_is_shown(studio: StudioService, page: Page) -> None:
    line = jsonl().decode().splitlines()[0].replace("Hello", PAYLOAD.replace('"', '\\"'))
    file = studio.file(f"{PAYLOAD}.jsonl", "\n".join([*jsonl().decode().splitlines(), line, line[:-1]]).encode())
    sound = studio.file(f"sound {PAYLOAD}.jsonl", jsonl())
    studio.pull("train", fails=PAYLOAD)
    failed = studio.job(sound, metadata={"note": PAYLOAD})
    for path in ("files", f"files/{file}", f"files/{sound}", "models", f"models/{failed.id}", "create"):
        page.goto(f"/studio/{path}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        page.wait_for_load_state("networkidle")
        assert "pwned" not in page.title()
        assert page.evaluate("document.querySelectorAll('img[src=x], script:not([nonce])').length") == 0
