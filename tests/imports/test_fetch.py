"""Fetches from real servers on loopback: whole, in pieces, refused, and what is left on disk afterwards."""

import base64
import hashlib
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.imports.given import Desk, Origin, serving
from tests.test_files import jsonl
from tunery import certificates
from tunery.errors import WrongState
from tunery.imports import download
from tunery.records import File, FileStatus
from tunery.settings import Settings
from tunery.store import Store

CONTENT = bytes(range(256)) * 4096  # 1 MB
SECRET = "?sig=s3cret%2Fsignature"

Fetched = Callable[..., File]


@pytest.fixture
def desk(store: Store, settings: Settings) -> Desk:
    return Desk(store, settings)


def fetch(desk: Desk, origin: Origin, path: str = "/blob" + SECRET) -> File:
    with serving(origin) as port:
        return desk.fetch(f"http://127.0.0.1:{port}{path}", "assistants")


def refused(desk: Desk, origin: Origin, path: str = "/blob" + SECRET) -> str:
    """Why a fetch ended in error; nothing of it stays, and its link is told to nobody."""
    file = fetch(desk, origin, path)
    assert file.status == FileStatus.ERROR
    assert (file.status_details or "").startswith("fileImportFailed: ")
    assert "s3cret" not in (file.status_details or "")
    assert (file.bytes, desk.left_over()) == (0, [])
    with pytest.raises(WrongState, match="no content"):
        desk.files.content(file)
    return file.status_details or ""


def test_a_link_becomes_a_file_with_its_bytes_and_hash(desk: Desk) -> None:
    file = fetch(desk, Origin(CONTENT))
    assert (file.status, file.bytes) == (FileStatus.PROCESSED, len(CONTENT))
    assert desk.content(file) == CONTENT
    assert file.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert desk.left_over() == []


def test_an_empty_file_arrives_empty(desk: Desk) -> None:
    assert desk.content(fetch(desk, Origin(b""))) == b""


def test_a_training_file_is_checked_after_its_fetch_and_not_before(desk: Desk) -> None:
    with serving(Origin(jsonl())) as port:
        file = desk.ask(f"http://127.0.0.1:{port}/")
        assert desk.files.claim_check(lease_seconds=30) is None
        desk.run()
    claim = desk.files.claim_check(lease_seconds=30)
    assert claim is not None
    desk.files.settle_check(claim, desk.files.check(claim))
    assert desk.files.get(1, file.id).examples == 12


def test_a_request_asks_for_the_bytes_as_they_are_and_carries_no_credentials(desk: Desk) -> None:
    origin = Origin(CONTENT, headers={"Set-Cookie": "a=b"}, cuts=[10, None])
    fetch(desk, origin)
    for headers in origin.requests:
        assert headers["accept-encoding"] == "identity"
        assert not {"cookie", "authorization", "referer", "proxy-authorization"} & set(headers)


def test_a_connection_cut_twice_goes_on_where_it_was(desk: Desk) -> None:
    origin = Origin(CONTENT, cuts=[300_000, 400_000])
    assert desk.content(fetch(desk, origin)) == CONTENT
    ranges = [headers.get("range") for headers in origin.requests]
    assert ranges == [None, "bytes=300000-", "bytes=700000-"]
    assert {headers.get("if-match") for headers in origin.requests[1:]} == {'"one"'}


def test_content_that_changes_between_two_parts_is_fetched_from_the_start(desk: Desk) -> None:
    origin = Origin(CONTENT, cuts=[300_000])

    def change() -> None:
        if len(origin.requests) == 2:
            origin.content, origin.etag = CONTENT[::-1], '"two"'

    origin.between = change
    assert desk.content(fetch(desk, origin)) == CONTENT[::-1]


@pytest.mark.parametrize("etag", [None, 'W/"weak"', '"one"'])
def test_a_server_without_ranges_or_a_strong_tag_is_read_from_the_start_again(desk: Desk, etag: str | None) -> None:
    origin = Origin(CONTENT, cuts=[300_000, 500_000], etag=etag, ranges=False)
    assert desk.content(fetch(desk, origin)) == CONTENT


def test_a_server_that_ignores_if_match_can_t_mix_two_contents(desk: Desk) -> None:
    class Careless(Origin):
        def answer(self, request) -> None:
            del request.headers["If-Match"]
            super().answer(request)

    origin = Careless(CONTENT, cuts=[300_000])

    def change() -> None:
        if len(origin.requests) == 2:
            origin.content, origin.etag = CONTENT[::-1], '"two"'

    origin.between = change
    assert desk.content(fetch(desk, origin)) == CONTENT[::-1]


def test_a_file_that_is_cut_for_ever_and_can_t_be_continued_ends_as_error(desk: Desk) -> None:
    origin = Origin(CONTENT, cuts=[300_000] * 50, ranges=False)
    assert "knows no ranges" in refused(desk, origin)
    assert len(origin.requests) == download.MOST_RESTARTS + 2


def test_a_server_that_is_busy_for_a_moment_is_asked_again(desk: Desk) -> None:
    origin = Origin(CONTENT, statuses=[503, 429, 500], cuts=[300_000])
    assert desk.content(fetch(desk, origin)) == CONTENT


def test_a_server_that_stays_busy_ends_as_error(desk: Desk) -> None:
    origin = Origin(CONTENT, statuses=[503] * 50)
    assert "answers 503" in refused(desk, origin)
    assert len(origin.requests) == download.MOST_FIRST_TRIES


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (403, "SAS"),
        (401, "SAS"),
        (404, "Check container"),
        (410, "Check container"),
        (400, "answers 400"),
        (302, "302"),
    ],
)
def test_a_refusal_says_what_and_where_and_what_to_do(desk: Desk, status: int, says: str) -> None:
    origin = Origin(CONTENT, statuses=[status])
    details = refused(desk, origin)
    assert says in details
    assert "127.0.0.1" in details
    assert len(origin.requests) == 1


def test_a_link_that_expires_half_way_says_so(desk: Desk) -> None:
    assert "SAS is expired" in refused(desk, Origin(CONTENT, cuts=[300_000], statuses=[200, 403]))


def test_a_compressed_answer_is_refused_and_never_unpacked(desk: Desk) -> None:
    assert "compressed" in refused(desk, Origin(CONTENT, headers={"Content-Encoding": "gzip"}))


def test_an_answer_of_no_known_length_is_refused(desk: Desk) -> None:
    assert "how long" in refused(desk, Origin(CONTENT, headers={"Content-Length": ""}))


def test_a_chunked_answer_is_taken_up_to_its_end_and_a_cut_one_isn_t(desk: Desk) -> None:
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (b"abc", b"defg")) + b"0\r\n\r\n"
    chunked = {"Content-Length": "", "Transfer-Encoding": "chunked"}
    assert desk.content(fetch(desk, Origin(body, ranges=False, headers=chunked))) == b"abcdefg"
    cut = Origin(body, ranges=False, headers=chunked, cuts=[9], etag=None)
    assert desk.content(fetch(desk, cut)) == b"abcdefg"
    assert len(cut.requests) == 2


@pytest.mark.parametrize("announced", [True, False])
def test_a_file_over_the_limit_is_refused_announced_or_not(store: Store, settings: Settings, announced: bool) -> None:
    desk = Desk(store, settings, max_upload_bytes=100_000)
    body, headers = CONTENT, {}
    if not announced:
        body, headers = b"fffff\r\n" + CONTENT, {"Content-Length": "", "Transfer-Encoding": "chunked"}
    assert "larger than the 100000 bytes" in refused(desk, Origin(body, headers=headers))


def test_an_account_that_is_nearly_full_takes_only_what_fits(store: Store, settings: Settings) -> None:
    desk = Desk(store, settings, max_total_bytes=1_500_000)
    fetch(desk, Origin(CONTENT))
    assert "larger than the 451424 bytes" in refused(desk, Origin(CONTENT))


@pytest.mark.parametrize("header", ["Content-MD5", "x-ms-blob-content-md5"])
def test_an_md5_that_is_given_is_compared(desk: Desk, header: str) -> None:
    right = base64.b64encode(hashlib.md5(CONTENT).digest()).decode()
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    assert fetch(desk, Origin(CONTENT, headers={header: right}, cuts=[300_000])).status == FileStatus.PROCESSED
    assert "MD5" in refused(desk, Origin(CONTENT, headers={header: wrong}))
    assert fetch(desk, Origin(CONTENT, headers={header: "nonsense"})).status == FileStatus.PROCESSED


def test_the_md5_of_a_part_isn_t_taken_for_that_of_the_whole(desk: Desk) -> None:
    origin = Origin(CONTENT, cuts=[300_000])
    origin.between = lambda: origin.headers.update(
        {"Content-MD5": base64.b64encode(hashlib.md5(CONTENT[300_000:]).digest()).decode()}
        if len(origin.requests) == 2
        else {}
    )
    assert fetch(desk, origin).status == FileStatus.PROCESSED


def test_a_redirect_is_followed_and_every_try_begins_at_the_link_that_was_given(desk: Desk) -> None:
    target = Origin(CONTENT, cuts=[300_000])
    with serving(target) as there:
        here = Origin(b"", statuses=[302] * 9, headers={"Location": f"http://127.0.0.1:{there}/real"})
        assert desk.content(fetch(desk, here)) == CONTENT
    assert len(here.requests) == len(target.requests) == 2


def test_a_circle_of_redirects_ends(desk: Desk) -> None:
    circle = Origin(b"", statuses=[307] * 99, headers={"Location": "/again?s3cret"})
    assert "more than 5 times" in refused(desk, circle)
    assert len(circle.requests) == 6


def test_a_server_that_sends_nothing_ends_by_the_limit_without_progress(store: Store, settings: Settings) -> None:
    desk = Desk(store, settings, import_stall_seconds=0.5)
    details = refused(desk, Origin(CONTENT, cuts=[1000], hold=threading.Event()))
    assert "127.0.0.1 sent less than 64 KB in 0.5 seconds" in details


def test_a_server_that_drips_ends_by_the_limit_of_the_whole(store: Store, settings: Settings) -> None:
    desk = Desk(store, settings, import_seconds=0.0)
    assert "wasn't complete after 0 seconds" in refused(desk, Origin(CONTENT))


def test_a_port_that_doesn_t_speak_http_ends_as_error_and_isn_t_quoted(desk: Desk) -> None:
    class Greeter(Origin):
        def answer(self, request) -> None:
            request.wfile.write(b"SSH-2.0-OpenSSH_9.9\r\n")
            request.close_connection = True

    details = refused(desk, Greeter(b""))
    assert "broke off" in details
    assert "SSH" not in details


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's side for localhost, whose CA this process trusts."""
    paths = certificates.ensure(tmp_path / "tls")
    monkeypatch.setenv("SSL_CERT_FILE", str(paths.ca))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(paths.certificate, paths.key)
    return context


def test_tls_verifies_the_name_although_the_connection_goes_to_a_number(
    store: Store, settings: Settings, tls: ssl.SSLContext
) -> None:
    desk = Desk(store, settings, resolve=lambda _host, _port: ["127.0.0.1"])
    with serving(Origin(CONTENT), tls) as port:
        assert desk.content(desk.fetch(f"https://localhost:{port}/", "assistants")) == CONTENT
        other = desk.fetch(f"https://blob.example:{port}/{SECRET}", "assistants")
    assert other.status == FileStatus.ERROR
    assert "blob.example has no valid certificate" in (other.status_details or "")
