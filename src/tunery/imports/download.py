"""One link into one partial file: attempts, redirects, and going on where a connection broke off."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpcore
import httpx
import msgspec

from tunery.errors import FileImportFailed
from tunery.imports import answer, links
from tunery.imports.addresses import Gate, Unreachable
from tunery.imports.answer import Answer, Content
from tunery.imports.connection import CheckedBackend
from tunery.imports.partial import Partial
from tunery.imports.watch import Watch

MOST_REDIRECTS = 5
MOST_FIRST_TRIES = 4
"""Before anything has come; later the stall limit decides."""
MOST_RESTARTS = 3
"""From the first byte, of a content that changed or can't be continued."""
RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 8.0
CONNECT_SECONDS = 10.0
BROKEN = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError)


class Transient(FileImportFailed):
    """Worth another try."""


class Download:
    """`content` and `partial` are all that has to be kept for another process to go on."""

    def __init__(
        self, url: httpx.URL, partial: Partial, *, content: Content, gate: Gate, watch: Watch, limit: int
    ) -> None:
        self._url = url
        self._partial = partial
        self.content = content
        self._watch = watch
        self._limit = limit
        self._backend = CheckedBackend(gate, watch.look)
        self._complete = content.size is not None and content.size == partial.size > 0
        self._restarts = 0

    def run(self) -> None:
        """Until all bytes are there. Raises FileImportFailed, and what the watch raises."""
        tries = 0
        while not self._complete:
            before = self._partial.size
            try:
                self._attempt()
            except (Transient, Unreachable) as trouble:
                tries = 1 if self._partial.size > before else tries + 1
                if self._partial.size == 0 and tries >= MOST_FIRST_TRIES:
                    raise
                self._watch.trouble = trouble
                self._watch.wait(min(LONGEST_RETRY_SECONDS, RETRY_SECONDS * 2 ** (tries - 1)))

    def _attempt(self) -> None:
        url = self._url
        for _ in range(MOST_REDIRECTS + 1):
            with self._get(url) as response:
                headers = answer.headers_of(response)
                if response.status not in answer.REDIRECTS or "location" not in headers:
                    self._take(url.host, response, headers)
                    return
                url = links.redirected(url, headers["location"])
        raise FileImportFailed(f"{self._url.host} redirects more than {MOST_REDIRECTS} times. Send the last link.")

    @contextmanager
    def _get(self, url: httpx.URL) -> Iterator[httpcore.Response]:
        """A connection of its own for each request; nothing of one host, cookies included, goes to the next."""
        headers = [(b"Host", url.netloc), (b"Accept", b"*/*"), (b"Accept-Encoding", b"identity")]
        headers.append((b"User-Agent", b"tunery"))
        if self._partial.size and self.content.etag:
            headers.append((b"Range", b"bytes=%d-" % self._partial.size))
            headers.append((b"If-Match", self.content.etag.encode()))
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        timeout = {"connect": CONNECT_SECONDS, "write": CONNECT_SECONDS}  # how long to read is for the watch to say
        context = httpx.create_ssl_context() if url.scheme == "https" else None
        try:
            with (
                httpcore.ConnectionPool(context, network_backend=self._backend) as pool,
                pool.stream("GET", target, headers=headers, extensions={"timeout": timeout}) as response,
            ):
                yield response
        except BROKEN as error:
            raise Transient(
                f"The connection to {url.host} broke off after {self._partial.size} bytes and didn't come back. "
                "Try again, or import the file from another server."
            ) from error

    def _take(self, host: str, response: httpcore.Response, headers: dict[str, str]) -> None:
        if response.status in answer.TRANSIENT:
            raise Transient(f"{host} answers {response.status}, again and again. Try later.")
        if response.status in answer.STARTS_OVER and self._partial.size:
            raise self._begin_again(host)
        found = answer.read(response.status, headers, host)
        if not self._continues(found):
            if self._partial.size or found.start:
                changed = self._begin_again(host)
                if found.start:
                    raise changed
            self.content = found.content
        self.content = msgspec.structs.replace(self.content, size=found.content.size)
        self._refuse_over_limit(host, self.content.size or 0)
        for chunk in response.iter_stream():
            self._refuse_over_limit(host, self._partial.size + len(chunk))
            self._partial.write(chunk)
            self._watch.received(len(chunk))
        self._complete = True

    def _continues(self, found: Answer) -> bool:
        """Whether its bytes follow on ours: right offset, and the tag says it is the same content."""
        same = self.content.etag is not None and found.content.etag == self.content.etag
        whole = self.content.size in (None, found.content.size)
        return 0 < self._partial.size == found.start and same and whole

    def _begin_again(self, host: str) -> Transient:
        """Drop what is there. Raises FileImportFailed when that has happened too often."""
        self._restarts += 1
        if self._restarts > MOST_RESTARTS:
            raise FileImportFailed(
                f"The connection to {host} broke off again and again, and the file can't be continued there: the "
                "server knows no ranges, or the file changes. Try again, or import it from another server."
            )
        self._partial.clear()
        self.content = Content()
        self._watch.beat()  # before other bytes come: what a crash leaves must not pair them with the old tag
        return Transient(f"The file at {host} changed while it was being fetched. Try again once it stays the same.")

    def _refuse_over_limit(self, host: str, size: int) -> None:
        if size > self._limit:
            raise FileImportFailed(
                f"The file at {host} is larger than the {self._limit} bytes that it may have here. "
                "Split it, or delete files of this account that are no longer needed."
            )
