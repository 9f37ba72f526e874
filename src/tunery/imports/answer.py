"""What a server's answer says: how far it goes, whether it is still the same content, or why there is none."""

import base64
import binascii
import re
from collections.abc import Mapping

import httpcore
import msgspec

from tunery.errors import FileImportFailed

CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})")
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
STARTS_OVER = frozenset({412, 416})
"""If-Match or Range don't fit any more: the content changed."""
LONGEST_TAG = 1000


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the content of a link; an empty one at first."""

    etag: str | None = None
    """A strong one: it alone vouches that two parts belong together."""
    md5: str | None = None
    """Hexadecimal."""
    size: int | None = None


class Answer(msgspec.Struct, frozen=True):
    """A 200 or 206 whose body is worth reading."""

    start: int
    content: Content


def headers_of(response: httpcore.Response) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}


def read(status: int, headers: Mapping[str, str], host: str) -> Answer:
    """Raises FileImportFailed where this can't be the file, whatever one tries again."""
    if status not in (200, 206):
        raise FileImportFailed(_refusal(status, host))
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise FileImportFailed(
            f"{host} sends the file compressed ({encoding[:40]!r}), which imports don't unpack. Store it uncompressed, "
            "without Content-Encoding."
        )
    etag = headers.get("etag", "")
    content = Content(etag=etag if _is_strong(etag) else None, md5=_md5(status, headers), size=None)
    if status == 206:
        found = CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
        if found is None:
            raise FileImportFailed(f"{host} answers with a part of the file and doesn't say which. Try again.")
        return Answer(int(found[1]), msgspec.structs.replace(content, size=int(found[2])))
    length = headers.get("content-length", "")
    if length.isascii() and length.isdigit() and len(length) <= 18:
        return Answer(0, msgspec.structs.replace(content, size=int(length)))
    if "chunked" not in headers.get("transfer-encoding", "").lower():
        raise FileImportFailed(
            f"{host} doesn't say how long the file is, so a cut couldn't be noticed. Import it from another server."
        )
    return Answer(0, content)


def _refusal(status: int, host: str) -> str:
    if status in (401, 403):
        return (
            f"{host} refuses access ({status}). The link is private, or its SAS is expired, not yet valid or lacks "
            "read permission. Make a new one."
        )
    if status in (404, 410):
        return f"{host} has nothing at that link ({status}). Check container, path and name."
    return f"{host} answers {status} instead of the file. Send a link that an anonymous GET opens."


def _md5(status: int, headers: Mapping[str, str]) -> str | None:
    """Of the whole content: the Content-MD5 of a part is that of the part."""
    value = headers.get("x-ms-blob-content-md5") or (headers.get("content-md5") if status == 200 else None)
    try:
        digest = base64.b64decode(value or "", validate=True)
    except (binascii.Error, ValueError):
        return None
    return digest.hex() if len(digest) == 16 else None


def _is_strong(etag: str) -> bool:
    return len(etag) <= LONGEST_TAG and etag.startswith('"') and etag.endswith('"') and etag.isascii() and len(etag) > 2
