"""Connections that go to checked addresses only, and that are watched while they wait.

httpcore hands every connection to a network backend; ours asks the gate for the addresses of a name and connects to
exactly those numbers. The name stays in the Host header and in TLS, which verifies it.
"""

import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any

import httpcore

from tunery.errors import FileImportFailed
from tunery.imports.addresses import Gate, Unreachable
from tunery.imports.watch import SLICE_SECONDS

Look = Callable[[], None]


class CheckedBackend(httpcore.NetworkBackend):
    """Resolves through the gate, on every connection anew."""

    def __init__(self, gate: Gate, look: Look) -> None:
        self._gate = gate
        self._look = look
        self._system = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Raises Unreachable: no address may be connected to, or none answers."""
        for address in self._gate.addresses(host, port):
            self._look()
            try:
                stream = self._system.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
            return WatchedStream(stream, host, self._look)
        raise Unreachable(host)

    def sleep(self, seconds: float) -> None:
        self._system.sleep(seconds)


class WatchedStream(httpcore.NetworkStream):
    """Looks around at least once a second while it waits for bytes."""

    def __init__(self, stream: httpcore.NetworkStream, host: str, look: Look) -> None:
        self._stream = stream
        self._host = host
        self._look = look

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            self._look()
            try:
                return self._stream.read(max_bytes, SLICE_SECONDS)
            except httpcore.ReadTimeout:
                if end is not None and time.monotonic() > end:
                    raise

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """Raises FileImportFailed where the certificate isn't one for this host: trying again wouldn't help."""
        try:
            secured = self._stream.start_tls(ssl_context, server_hostname, timeout)
        except httpcore.ConnectError as error:
            if isinstance(error.__cause__, ssl.SSLCertVerificationError):
                raise FileImportFailed(
                    f"{self._host} has no valid certificate ({error.__cause__.verify_message}). "
                    "Ask whoever runs it, or import from another server."
                ) from error
            raise
        return WatchedStream(secured, self._host, self._look)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
