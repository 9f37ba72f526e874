"""A file with every fault mended that can be mended without guessing. Sound lines stay byte for byte.

Where a line isn't sound, the objects on it and on the lines behind it are looked at, up to the next sound line: an
example may run over several lines, or share one. Memory doesn't grow with the file.
"""

import codecs
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from tempfile import TemporaryFile
from typing import BinaryIO

import msgspec

from tunery.examples.checking import Summary, check
from tunery.examples.lines import BYTE_ORDER_MARK, LONGEST_LINE
from tunery.examples.mending import mended
from tunery.examples.typed import TypedReader, reader_for
from tunery.examples.values import Values

MOST_CHANGES = 100
_MOST_LINES = 10_000
"""Of one example."""
_CHUNK = 1 << 18
_SPACE = b" \t\r\n"


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What was done at one place of a file."""

    line: int
    """Of the file as it was; in a file that is one list, the number of the example."""
    mends: list[str]
    """Keys of MENDS."""


class Correction(msgspec.Struct, frozen=True, kw_only=True):
    mends: dict[str, int]
    """How often each was done."""
    changes: list[Change]
    """The first MOST_CHANGES."""
    unmended: int
    """Lines with faults that only their writer can mend: kept as they were, or left out."""
    summary: Summary
    """What the check says of the corrected file."""


def correct(source: BinaryIO, target: BinaryIO, *, leave_out: bool = False) -> Correction:
    """Writes the corrected file to the empty `target`, and goes to its beginning. Both can be sought.

    `leave_out`: lines that can't be mended don't go along.
    """
    with TemporaryFile() as room:
        recoded = _recoded(source, room)
        stream = room if recoded else source
        done = _as_list(stream, target, leave_out) or _as_lines(stream, target, leave_out)
    if recoded:
        done.note(1, ["utf_16"])
    target.seek(0)
    summary = check(target, on_finding=lambda _finding: None)
    target.seek(0)
    return Correction(mends=dict(done.mends), changes=done.changes, unmended=done.unmended, summary=summary)


def _as_list(stream: BinaryIO, target: BinaryIO, leave_out: bool) -> "_Correcting | None":
    """None, with nothing written, if the file isn't one list of objects."""
    done = _Correcting(target, leave_out=leave_out)
    if not _begins_a_list(stream):
        return None
    done.note(1, ["list"])
    values = Values(in_list=True)
    number = 0
    while chunk := stream.read(_CHUNK):
        for value in values.feed(chunk):
            number += 1
            done.take_value(number, value)
        if values.spoilt or values.size > LONGEST_LINE:
            break
    if not values.ended or values.spoilt:
        target.seek(0)
        target.truncate()
        return None
    return done


def _as_lines(stream: BinaryIO, target: BinaryIO, leave_out: bool) -> "_Correcting":
    done = _Correcting(target, leave_out=leave_out)
    if _has_mark(stream):
        target.write(BYTE_ORDER_MARK)
    lines = _Lines(stream)
    while lines.next is not None:
        done.take_line(lines)
    return done


class _Lines:
    """Lines one by one, with a look at the next. One that is too long comes in pieces, all but the last without end."""

    def __init__(self, stream: BinaryIO) -> None:
        self.number = 0
        """Of the line that was taken last."""
        self.next: bytes | None = b""
        self._stream = stream
        self._advance()

    def take(self) -> bytes:
        taken = self.next
        assert taken is not None
        self.number += 1
        self._advance()
        return taken

    def rest_of(self, piece: bytes) -> Iterator[bytes]:
        """The pieces behind this one of a line that is too long."""
        while not piece.endswith(b"\n") and self.next is not None:
            piece = self.next
            self._advance()
            yield piece

    def _advance(self) -> None:
        self.next = self._stream.readline(LONGEST_LINE + 3) or None


class _Correcting:
    """Takes a file bit by bit and writes what becomes of it."""

    def __init__(self, target: BinaryIO, *, leave_out: bool) -> None:
        self.mends: Counter[str] = Counter()
        self.changes: list[Change] = []
        self.unmended = 0
        self._target = target
        self._leave_out = leave_out
        self._reader: TypedReader | None = None

    def note(self, line: int, mends: Iterable[str]) -> None:
        done = list(dict.fromkeys(mends))
        self.mends.update(done)
        if done and len(self.changes) < MOST_CHANGES:
            self.changes.append(Change(line=line, mends=done))

    def take_value(self, number: int, value: bytes) -> None:
        """An example out of a list."""
        found = self._mended(value)
        if found is None:
            self._leave([value.translate(bytes.maketrans(b"\r\n", b"  ")), b"\n"])
            return
        line, mends = found
        self.note(number, [mend for mend in mends if mend != "line_breaks"])
        self._target.write(line)

    def take_line(self, lines: _Lines) -> None:
        """The next line, and those behind it that belong to it."""
        line = lines.take()
        if len(line) > LONGEST_LINE + 2:
            self._leave([line, *lines.rest_of(line)])
        elif self._is_sound(line):
            self._target.write(line)
        elif not line.strip(_SPACE):
            self._take_blank(line, lines)
        else:
            self._take_faulty(line, lines)

    def _is_sound(self, line: bytes) -> bool:
        if self._reader is None:
            self._reader = reader_for(line)
        return self._reader is not None and self._reader.read([line]) is not None

    def _take_blank(self, line: bytes, lines: _Lines) -> None:
        """Empty lines are a fault between examples only; behind the last one they stay."""
        first, blank = lines.number, [line]
        while lines.next is not None and not lines.next.strip(_SPACE):
            blank.append(lines.take())
        if lines.next is None:
            self._target.writelines(blank)
        else:
            self.note(first, ["empty_line"])

    def _take_faulty(self, line: bytes, lines: _Lines) -> None:
        first, region, values = lines.number, [line], Values()
        list(values.feed(_without_mark(line)))
        while values.is_open and not values.in_string and len(region) < _MOST_LINES and self._may_go_on(values, lines):
            region.append(lines.take())
            list(values.feed(region[-1]))
        if not self._mend(first, region):
            for number, one in enumerate(region, start=first):
                if len(region) == 1 or not self._mend(number, [one]):
                    self._leave([one])

    def _may_go_on(self, values: Values, lines: _Lines) -> bool:
        """Whether the next line may belong to the example that is open: no sound one does."""
        line = lines.next
        return line is not None and values.size + len(line) < LONGEST_LINE and not self._is_sound(line)

    def _mend(self, first: int, region: Sequence[bytes]) -> bool:
        """Writes the examples on these lines; False, with nothing written, if one can't be mended."""
        values, text = Values(), _without_mark(b"".join(region))
        found = list(values.feed(text))
        mended = [self._mended(value) for value in found]
        sound = [each for each in mended if each is not None]
        if not sound or len(sound) < len(found) or values.is_open or values.spoilt:
            return False
        mends = [mend for _, done in sound for mend in done]
        mends += ["byte_order_mark"] if text != b"".join(region) else []
        mends += ["shared_line"] if len(sound) > len(region) else []
        mends += ["comma"] if values.commas else []
        self.note(first, mends)
        self._target.writelines([line for line, _ in sound] if mends else region)
        return True

    def _mended(self, value: bytes) -> tuple[bytes, list[str]] | None:
        """The example as a line that the check takes, and what was done to it."""
        try:
            found = mended(value.decode())
        except UnicodeDecodeError:
            return None
        if found is None:
            return None
        line = found[0].encode() + b"\n"
        if self._reader is None:
            self._reader = reader_for(line)
        if len(line) > LONGEST_LINE or self._reader is None or self._reader.read([line], trusted=True) is None:
            return None
        return line, found[1]

    def _leave(self, pieces: Iterable[bytes]) -> None:
        """What can't be mended; the pieces make one line."""
        self.unmended += 1
        for piece in pieces:
            if not self._leave_out:
                self._target.write(piece)


def _recoded(source: BinaryIO, room: BinaryIO) -> bool:
    """Whether the file is UTF-16 from its byte order mark to its end; it lies in `room` as UTF-8 then."""
    marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    is_utf_16 = source.read(2) in marks
    source.seek(0)
    if is_utf_16:
        decode = codecs.getincrementaldecoder("utf-16")().decode
        try:
            while chunk := source.read(_CHUNK):
                room.write(decode(chunk).encode())
            decode(b"", final=True)
        except UnicodeError:
            is_utf_16 = False
    source.seek(0)
    room.seek(0)
    return is_utf_16


def _has_mark(stream: BinaryIO) -> bool:
    """Stands behind the byte order mark at the beginning of the file, or at its beginning."""
    stream.seek(0)
    if stream.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK:
        return True
    stream.seek(0)
    return False


def _begins_a_list(stream: BinaryIO) -> bool:
    """Stands behind the bracket if it does."""
    _has_mark(stream)
    while (byte := stream.read(1)) and byte in _SPACE:
        pass
    return byte == b"["


def _without_mark(line: bytes) -> bytes:
    while line.startswith(BYTE_ORDER_MARK):
        line = line.removeprefix(BYTE_ORDER_MARK)
    return line
