"""A file as numbered lines of bounded length, in batches. Knows no JSON."""

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import msgspec

LONGEST_LINE = 1 << 20
"""Bytes without the line end: about 250,000 tokens, more than any base model here reads."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BATCH = 1 << 18
Source = BinaryIO | str | Path


class Batch(msgspec.Struct, frozen=True):
    """Some whole lines, or one that is too long and left out."""

    first: int
    """Number of the first line, from 1."""
    lines: list[bytes]
    """With their ends."""
    too_long: bool = False


class Lines:
    """Iterates over a stream's batches; counts its bytes. A byte order mark at the start is left out."""

    def __init__(self, stream: BinaryIO) -> None:
        self.bytes = 0
        self._stream = stream

    def __iter__(self) -> Iterator[Batch]:
        number = 1
        while text := self._stream.read(_BATCH):
            if not text.endswith(b"\n"):
                text += self._stream.readline(LONGEST_LINE + 2)
            self.bytes += len(text)
            if number == 1:
                text = text.removeprefix(BYTE_ORDER_MARK)
            lines = BytesIO(text).readlines()
            if len(text) > LONGEST_LINE and len(lines[-1].rstrip(b"\r\n")) > LONGEST_LINE:
                self._skip_rest(text)
                if whole := lines[:-1]:
                    yield Batch(number, whole)
                yield Batch(number + len(whole), [], too_long=True)
            elif lines:
                yield Batch(number, lines)
            number += len(lines)

    def _skip_rest(self, text: bytes) -> None:
        while text and not text.endswith(b"\n"):
            text = self._stream.readline(_BATCH)
            self.bytes += len(text)


def picked(source: Source, numbers: Collection[int]) -> dict[int, str]:
    """The lines of these numbers without their ends; bytes that aren't UTF-8 become U+FFFD, one that is too long ''."""
    found: dict[int, str] = {}
    last = max(numbers, default=0)
    with opened(source) as stream:
        for batch in Lines(stream):
            if batch.first > last:
                break
            for number, line in enumerate(batch.lines, start=batch.first):
                if number in numbers:
                    found[number] = line.rstrip(b"\r\n").decode("utf-8", "replace")
    return found


def opened(source: Source) -> AbstractContextManager[BinaryIO]:
    """The stream itself, which stays open, or the file at the path, which is closed at the end."""
    if isinstance(source, str | Path):
        return Path(source).open("rb")
    return nullcontext(source)
