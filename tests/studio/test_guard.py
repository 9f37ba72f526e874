"""What another site's page can't do with a visitor's cookie, and what no script can do on our pages."""

import re
from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from tunery.studio.guard import Guard

PAGE = "<html><script>one()</script><script src='x.js'></script><p>&lt;script>text</p></html>"


async def _echo(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("here")
    await socket.close()


@pytest.fixture
def client() -> Iterator[TestClient]:
    routes = [
        Route("/page", lambda _: HTMLResponse(PAGE)),
        Route("/change", lambda _: PlainTextResponse("changed"), methods=["POST", "DELETE"]),
        WebSocketRoute("/socket", _echo),
    ]
    with TestClient(Guard(Starlette(routes=routes)), base_url="http://studio.test") as opened:
        yield opened


@pytest.mark.parametrize(
    "origin", ["http://evil.test", "null", "http://studio.test.evil.test", "http://studio.test:81"]
)
def test_a_change_from_another_origin_is_refused(client: TestClient, origin: str) -> None:
    for method in ("POST", "DELETE"):
        assert client.request(method, "/change", headers={"origin": origin}).status_code == 403


def test_a_change_from_our_own_page_or_from_no_browser_passes(client: TestClient) -> None:
    assert client.post("/change", headers={"origin": "http://studio.test"}).text == "changed"
    assert client.post("/change").text == "changed"


def test_a_cross_site_form_without_an_origin_is_refused(client: TestClient) -> None:
    assert client.post("/change", headers={"sec-fetch-site": "cross-site"}).status_code == 403


def test_a_socket_of_another_origin_is_closed_before_it_opens(client: TestClient) -> None:
    foreign, own = ({"origin": f"http://{name}"} for name in ("evil.test", "testserver"))
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/socket", headers=foreign):
        pass
    with client.websocket_connect("/socket", headers=own) as socket:
        assert socket.receive_text() == "here"


def test_each_page_s_scripts_carry_a_nonce_that_no_other_page_has(client: TestClient) -> None:
    nonces = set()
    for _ in range(2):
        answer = client.get("/page", headers={"accept": "text/html"})
        (nonce,) = set(re.findall(r'<script nonce="([^"]+)"', answer.text))
        assert answer.text.count("<script ") == 2
        assert f"'nonce-{nonce}'" in answer.headers["content-security-policy"]
        nonces.add(nonce)
    assert len(nonces) == 2


def test_the_policy_lets_in_no_inline_script_no_other_host_and_no_frame(client: TestClient) -> None:
    policy = dict(
        part.strip().split(" ", 1) for part in client.get("/page").headers["content-security-policy"].split(";")
    )
    assert "'unsafe-inline'" not in policy["script-src"]
    assert (policy["default-src"], policy["frame-ancestors"], policy["object-src"]) == ("'self'", "'none'", "'none'")
    assert not any("http" in sources for sources in policy.values())
