"""Links, redirects and names that try to lead an import inside: the victim on loopback hears of none."""

import contextlib
import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests.imports.given import Desk, Origin, serving
from tests.live import free_ports
from tunery.records import FileStatus
from tunery.settings import Settings
from tunery.store import Store

HOUR = 3600.0
VICTIM = b"inside secrets"
WAYS_IN = [
    "http://169.254.169.254/latest/meta-data/",
    "http://127.0.0.1:{port}/",
    "http://localhost:{port}/",
    "http://[::1]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/",
    "http://[64:ff9b::7f00:1]:{port}/",
    "http://[2002:7f00:1::]:{port}/",
    "http://0x7f000001:{port}/",
    "http://0x7f.1:{port}/",
    "http://2130706433:{port}/",
    "http://127.1:{port}/",
    "http://0:{port}/",
    "//127.0.0.1:{port}/",
]
NO_LINKS = [
    "http://0177.0.0.1:{port}/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/",
    "ftp://127.0.0.1:{port}/",
    "http://a@127.0.0.1:{port}/",
]


@pytest.fixture
def victim() -> Iterator[tuple[Origin, int]]:
    origin = Origin(VICTIM)
    with serving(origin) as port:
        yield origin, port


@pytest.mark.parametrize("way", [*WAYS_IN, *NO_LINKS])
def test_no_redirect_leads_inside(store: Store, settings: Settings, victim: tuple[Origin, int], way: str) -> None:
    target = way.format(port=victim[1])
    with serving(Origin(b"", statuses=[302] * 9, headers={"Location": target})) as port:
        file = Desk(store, settings, allow=f"127.0.0.1:{port}").fetch(f"http://127.0.0.1:{port}/", "assistants")
    assert file.status == FileStatus.ERROR
    assert victim[0].requests == []


@pytest.mark.parametrize("way", [way for way in WAYS_IN if way.startswith("http")])
def test_no_link_leads_inside(store: Store, settings: Settings, victim: tuple[Origin, int], way: str) -> None:
    file = Desk(store, settings, allow="").fetch(way.format(port=victim[1]), "assistants")
    assert file.status == FileStatus.ERROR
    assert "Couldn't reach" in (file.status_details or "")
    assert victim[0].requests == []


def test_a_name_that_turns_inward_between_two_connections_is_refused(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses, ahead = ["127.0.0.1", "127.0.0.2", "127.0.0.2"], [0.0]

    def resolve(_host: str, _port: int) -> list[str]:
        ahead[0] = 0.0 if len(addresses) > 1 else HOUR  # the third time nothing has come for longer than the limit
        return [addresses.pop(0)]

    monkeypatch.setattr("tunery.imports.watch.time", SimpleNamespace(monotonic=lambda: time.monotonic() + ahead[0]))
    outside = Origin(b"x" * 100_000, cuts=[50_000])
    with serving(outside) as port:
        desk = Desk(store, settings, allow="127.0.0.1", resolve=resolve)
        file = desk.fetch(f"http://rebinding.example:{port}/", "assistants")
    assert "Couldn't reach rebinding.example" in (file.status_details or "")
    assert len(outside.requests) == 1


def test_a_connection_goes_to_the_checked_address_and_the_name_is_asked_for_once(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, looked_up, system = [], [], socket.getaddrinfo

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    def watched(host: str, *arguments: object, **more: object) -> object:
        looked_up.append(host)
        return system(host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", watched)
    origin = Origin(b"x")
    with serving(origin) as port:
        desk = Desk(store, settings, resolve=resolve)
        assert desk.fetch(f"http://blob.example:{port}/", "assistants").status == FileStatus.PROCESSED
    assert asked == ["blob.example"]
    assert set(looked_up) <= {"127.0.0.1"}
    assert origin.requests[0]["host"] == f"blob.example:{port}"


def test_an_unknown_name_a_closed_port_and_an_address_inside_look_the_same(store: Store, settings: Settings) -> None:
    (closed,) = free_ports(1)

    def resolve(host: str, port: int) -> list[str]:
        if ways[-1] == "unknown":
            raise socket.gaierror
        return ["10.0.0.1"] if ways[-1] == "inside" else ["127.0.0.1"]

    said, ways = set(), []
    desk = Desk(store, settings, allow=f"127.0.0.1:{closed}", resolve=resolve)
    for way in ("unknown", "inside", "closed"):
        ways.append(way)
        said.add(desk.fetch(f"http://h.example:{closed}/", "assistants").status_details)
    assert len(said) == 1


def test_no_proxy_of_the_environment_is_used(
    store: Store, settings: Settings, victim: tuple[Origin, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{victim[1]}")
    with serving(Origin(b"x")) as port, contextlib.suppress(StopIteration):
        assert Desk(store, settings).fetch(f"http://127.0.0.1:{port}/", "assistants").bytes == 1
    assert victim[0].requests == []
