"""Links that callers and redirecting servers give: what is one, and what of it may be shown."""

import re

import httpx

from tunery.errors import FileImportFailed, InvalidRequest

LONGEST = 4096
HOST = re.compile(r"[a-z0-9_.-]{1,253}|[0-9a-f:.]{2,45}")
"""As httpx normalises it: lower case, IDNA, IPv6 without brackets. A zone, a backslash or a % is no part of one."""


def checked(content_url: str) -> httpx.URL:
    """Raises InvalidRequest for anything but an http or https link without user name and password."""
    if len(content_url) > LONGEST:
        raise InvalidRequest(
            f"content_url has {len(content_url)} characters; it may have {LONGEST}.", param="content_url"
        )
    problem, url = _parse(content_url)
    if url is None:
        raise InvalidRequest(f"content_url {problem}. Send a link that an anonymous GET opens.", param="content_url")
    return url


def redirected(here: httpx.URL, location: str) -> httpx.URL:
    """Where `here` sends us. Raises FileImportFailed unless that is a link as good as a caller's own."""
    try:
        target = str(here.join(location))
    except (httpx.InvalidURL, ValueError):
        target = ""
    problem, url = _parse(target) if len(target) <= LONGEST else ("is too long", None)
    if url is None:
        raise FileImportFailed(f"{here.host} redirects to a link that {problem}. Send the link of the file itself.")
    if here.scheme == "https" and url.scheme == "http":
        raise FileImportFailed(
            f"{here.host} redirects from https to plain http at {url.host}. Send a link that stays on https."
        )
    return url


def _parse(text: str) -> tuple[str, httpx.URL | None]:
    """The link, or what is wrong with it in words that continue a sentence; never any of its text."""
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        return "isn't a valid link", None
    if url.scheme not in ("http", "https"):
        return "doesn't begin with http:// or https://", None
    if not HOST.fullmatch(url.raw_host.decode("ascii")):
        return "has no valid host name", None
    if url.port is not None and not 0 < url.port < 65536:
        return "has no valid port", None
    if url.userinfo:
        return "carries a user name or password", None
    return "", url
