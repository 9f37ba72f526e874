"""multipart/form-data read as it comes in (RFC 7578): small fields into a dict, the one file straight to its sink.

Parts may come in any order and the body chunked without a length: Node's client sends the file before the purpose.
"""

from collections.abc import AsyncIterator, Callable

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from tunery.errors import InvalidRequest, TooLarge, TuneryError

LONGEST_FIELD = 4096
MOST_FIELDS = 20
OVERHEAD = 64 * 1024
"""Bytes that boundaries, headers and small fields may add to a file."""
CHUNK = 1 << 20
MOST_DRAINED = 1 << 30


class Form:
    """A form being read; `fields` and `filename` are complete when `read` returns."""

    def __init__(self, file_field: str, sink: Callable[[bytes], None]) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        """None until the file's part began."""
        self._file_field = file_field
        self._sink = sink
        self._headers: dict[bytes, bytes] = {}
        self._header_name = b""
        self._header_value = b""
        self._field: str | None = None
        self._value = bytearray()
        self._ended = False

    async def read(self, request: Request) -> None:
        """Raises InvalidRequest for anything but a whole form with its file; whatever the sink raises."""
        parser = MultipartParser(boundary(request), self._callbacks())  # type: ignore[arg-type]
        body = request.stream()
        pending = bytearray()
        try:
            async for chunk in body:
                pending += chunk
                if len(pending) >= CHUNK:
                    await run_in_threadpool(parser.write, bytes(pending))
                    pending.clear()
            await run_in_threadpool(parser.write, bytes(pending))
        except MultipartParseError as error:
            await drain(body)
            raise InvalidRequest(f"The multipart body isn't valid: {error}.") from error
        except TuneryError:
            await drain(body)
            raise
        if not self._ended:
            raise InvalidRequest(
                "The multipart body ends before its last boundary: the upload was cut off. Send it again."
            )
        if self.filename is None:
            raise InvalidRequest(f"The form has no file part named '{self._file_field}'.", param=self._file_field)

    def _callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": self._add_header_name,
            "on_header_value": self._add_header_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._take,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin_part(self) -> None:
        self._headers, self._field, self._value = {}, None, bytearray()

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name, self._header_value = b"", b""

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name == self._file_field:
            if self.filename is not None:
                raise InvalidRequest(f"The form has two parts named '{name}'. Send one file a request.", param=name)
            self.filename = options.get(b"filename", name.encode()).decode("utf-8", "replace")
        elif len(self.fields) >= MOST_FIELDS:
            raise InvalidRequest(f"The form has more than {MOST_FIELDS} fields.")
        else:
            self._field = name

    def _take(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self._sink(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > LONGEST_FIELD:
            raise InvalidRequest(f"The field '{self._field}' is longer than {LONGEST_FIELD} bytes.", param=self._field)

    def _end_part(self) -> None:
        if self._field is not None:
            self.fields[self._field] = self._value.decode("utf-8", "replace")

    def _end(self) -> None:
        self._ended = True


def boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise InvalidRequest("Send the file as multipart/form-data, with a boundary in the Content-Type header.")
    return options[b"boundary"]


async def refuse_oversized(request: Request, limit: int) -> None:
    """Refuse by the announced length, before anything is stored."""
    announced = request.headers.get("content-length", "")
    if not announced.isdigit() or int(announced) <= limit + OVERHEAD:
        return
    await drain(request.stream())
    raise TooLarge(
        f"The upload has {int(announced)} bytes; a file may have {limit} ({limit // 1024**2} MB). "
        "Send it in parts through the uploads API or split it.",
        param="file",
    )


async def drain(body: AsyncIterator[bytes]) -> None:
    """Read and drop, up to a bound: a client that is still sending would see a reset connection, not the answer."""
    dropped = 0
    async for chunk in body:
        dropped += len(chunk)
        if dropped > MOST_DRAINED:
            return
