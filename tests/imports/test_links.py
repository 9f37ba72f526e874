"""Which links are taken, which are the caller's own mistake, and what no message ever repeats."""

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunery.errors import FileImportFailed, InvalidRequest
from tunery.imports.links import LONGEST, checked, redirected

SIGNED = "https://a.blob.core.windows.net/c/d%20e.jsonl?sv=2026-10-06&sp=r&sig=a%2Fb%2Bc%3D"


def test_a_signed_link_reaches_its_server_as_it_was_given() -> None:
    url = checked(SIGNED + "#fragment")
    assert url.raw_path == b"/c/d%20e.jsonl?sv=2026-10-06&sp=r&sig=a%2Fb%2Bc%3D"
    assert url.host == "a.blob.core.windows.net"


@pytest.mark.parametrize(
    ("link", "says"),
    [
        ("file:///etc/passwd", "http:// or https://"),
        ("gopher://h/x", "http:// or https://"),
        ("ftp://h/x", "http:// or https://"),
        ("//h/x", "http:// or https://"),
        ("data.jsonl", "http:// or https://"),
        ("", "http:// or https://"),
        ("http:///x", "no valid host"),
        ("http://a\\b/x", "no valid host"),
        ("http://%31%32/x", "no valid host"),
        ("http://[fe80::1%25eth0]/x", "no valid host"),
        ("http://h:0/x", "no valid port"),
        ("http://h:99999/x", "no valid port"),
        ("http://h\r\nX: y/x", "isn't a valid link"),
        ("https://user:secret@h/x", "user name or password"),
        ("https://h/" + "x" * LONGEST, str(LONGEST)),
    ],
)
def test_a_link_that_can_t_be_fetched_is_refused_with_its_parameter(link: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as refused:
        checked(link)
    assert refused.value.param == "content_url"
    assert "secret" not in refused.value.message


@given(st.text(max_size=80) | st.from_regex(r"https?://[ -~]{0,40}", fullmatch=True))
def test_any_text_is_a_link_or_a_refusal_never_a_crash(text: str) -> None:
    try:
        url = checked(text)
    except InvalidRequest:
        return
    assert url.scheme in ("http", "https")
    assert url.host
    assert not url.userinfo


@given(st.text(max_size=80))
def test_any_redirect_is_a_link_or_a_refusal_never_a_crash(location: str) -> None:
    here = httpx.URL("https://h/a")
    try:
        assert redirected(here, location).scheme == "https"
    except FileImportFailed as refused:
        assert refused.code == "fileImportFailed"


def test_a_relative_redirect_stays_on_its_host() -> None:
    assert str(redirected(httpx.URL("https://h/a/b?sig=1"), "../c?d=%2F")) == "https://h/c?d=%2F"


@pytest.mark.parametrize("location", ["file:///etc/passwd", "gopher://h/", "http://u:p@h/", "http://h/plain"])
def test_a_redirect_to_another_scheme_a_password_or_plain_http_is_refused(location: str) -> None:
    with pytest.raises(FileImportFailed, match="redirects"):
        redirected(httpx.URL("https://h/a"), location)
