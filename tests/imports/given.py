"""A web server that serves one file and misbehaves as told, and a desk that imports from it."""

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import sqlalchemy as sa

from tests.test_queue import add_account
from tunery.files import Files
from tunery.imports import Fetch, Imports, NewImport
from tunery.imports.addresses import Gate, Resolver
from tunery.records import File
from tunery.settings import Settings
from tunery.store import Store


class Origin:
    """Serves `content` at every path. `cuts`: after how many bytes of a body each answer breaks off, in turn."""

    def __init__(
        self,
        content: bytes,
        *,
        etag: str | None = '"one"',
        ranges: bool = True,
        cuts: Iterable[int] = (),
        statuses: Iterable[int] = (),
        headers: dict[str, str] | None = None,
        hold: threading.Event | None = None,
    ) -> None:
        self.content, self.etag, self.ranges = content, etag, ranges
        self.cuts, self.statuses = iter(cuts), iter(statuses)
        self.headers = headers or {}
        self.hold = hold
        """Where given, an answer that should break off waits for it instead."""
        self.requests: list[dict[str, str]] = []
        self.holding = threading.Event()
        self.between: Callable[[], None] = lambda: None
        """Called before each answer."""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append({name.lower(): value for name, value in request.headers.items()})
        self.between()
        status = next(self.statuses, 200)
        wanted = request.headers.get("If-Match")
        if wanted is not None and wanted != self.etag:
            status = 412
        if status != 200:
            self._send(request, status, b"")
            return
        start, total = 0, len(self.content)
        if self.ranges and (span := request.headers.get("Range")):
            start, status = int(span.removeprefix("bytes=").removesuffix("-")), 206
        part = {"Content-Range": f"bytes {start}-{total - 1}/{total}"} if status == 206 else {}
        self._send(request, status, self.content[start:], **part)

    def _send(self, request: BaseHTTPRequestHandler, status: int, body: bytes, **more: str) -> None:
        request.send_response_only(status)
        tag = {"ETag": self.etag} if self.etag else {}
        for name, value in {"Content-Length": str(len(body)), **tag, **more, **self.headers}.items():
            if value:
                request.send_header(name, value)
        request.end_headers()
        cut = next(self.cuts, None) if status in (200, 206) else None
        request.wfile.write(body[:cut])
        request.wfile.flush()
        if cut is not None:
            self.holding.set()
            if self.hold is not None:
                self.hold.wait()
            request.close_connection = True


@contextlib.contextmanager
def serving(origin: Origin, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """The port on 127.0.0.1 where it answers."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):
                origin.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            return  # a client that doesn't like our certificate

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        if origin.hold is not None:
            origin.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()


class Desk:
    """Imports of one store; by default everything on 127.0.0.1 is allowed."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        allow: str = "127.0.0.1",
        resolve: Resolver | None = None,
        **more: object,
    ) -> None:
        self.store = store
        self.settings = msgspec.structs.replace(settings, **more)
        self.files = Files(store, self.settings)
        self.imports = Imports(store, self.settings, self.files, Gate(allow, resolve=resolve))
        self.stopping = threading.Event()
        with contextlib.suppress(sa.exc.IntegrityError):
            add_account(store, 1)

    def ask(self, url: str, purpose: str = "fine-tune", *, key: str | None = None, **more: object) -> File:
        wanted = msgspec.convert({"purpose": purpose, "filename": "a.jsonl", "content_url": url, **more}, NewImport)
        return self.imports.create(1, wanted, idempotency_key=key)

    def run(self) -> bool:
        claim = self.imports.claim()
        if claim is not None:
            Fetch(self.imports, claim, self.stopping).run()
        return claim is not None

    def fetch(self, url: str, purpose: str = "fine-tune") -> File:
        """The file as it is once its fetch has ended."""
        file = self.ask(url, purpose)
        assert self.run()
        return self.files.get(1, file.id)

    def content(self, file: File) -> bytes:
        return self.files.content(file).read_bytes()

    def left_over(self) -> list[str]:
        """What lies on disk and belongs to no file."""
        blobs = {path.name for path in (self.settings.home / "blobs").rglob("*") if path.is_file()}
        known = {file.blob.removeprefix("files/") for file in self.files.page(1)[0]}
        partial = self.imports.folder.glob("*") if self.imports.folder.exists() else ()
        return sorted({*(blobs - known), *(path.name for path in partial)})
