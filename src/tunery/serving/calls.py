"""Tool calls out of an answer's bytes, as they come: its text on one side, the parts of its calls on the other.

Reads the one form of models/conversation.py, which the grammar holds the answer to (constraints.py). Knows no tokens.
"""

import codecs
import re
from enum import Enum, auto

from tunery.messages import ToolCall
from tunery.models.conversation import CALL_ARGUMENTS, CALL_BEGIN, CALL_END, CALL_NAME
from tunery.serving.text import overlap

_BEGIN, _END = CALL_BEGIN.encode(), CALL_END.encode()
_HEAD = re.compile(re.escape(CALL_NAME.encode()) + rb'([^"\\]*)' + re.escape(CALL_ARGUMENTS.encode()))
_TURNS = re.compile(rb'["\\{}]')
"""Where JSON may change from inside a string to outside, or from one depth to another."""


class _Place(Enum):
    TEXT = auto()
    HEAD = auto()
    ARGUMENTS = auto()
    END = auto()


class CallReader:
    """`feed` it the bytes of an answer however they are split; joined, what it returns doesn't depend on the split."""

    def __init__(self) -> None:
        self.count = 0
        """Calls whose name is known."""
        self._place = _Place.TEXT
        self._held = b""
        self._arguments = _Object()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def inside(self) -> bool:
        """A call has begun and hasn't ended."""
        return self._place is not _Place.TEXT

    def feed(self, data: bytes) -> tuple[bytes, list[ToolCall]]:
        """Takes the next bytes; returns those that are text, and what they add to calls."""
        self._held += data
        text, parts = b"", list[ToolCall]()
        before = None
        while before != (self._place, len(self._held)):
            before = self._place, len(self._held)
            match self._place:
                case _Place.TEXT:
                    text += self._read_text()
                case _Place.HEAD:
                    parts += self._read_head()
                case _Place.ARGUMENTS:
                    parts += self._read_arguments()
                case _Place.END if self._held.startswith(_END):
                    self._held = self._held[len(_END) :]
                    self._place = _Place.TEXT
        return text, parts

    def finish(self) -> bytes:
        """What was held back and is text after all: the beginning of a call whose name didn't come."""
        held, self._held = self._held, b""
        if self._place is _Place.HEAD:
            return _BEGIN + held
        return held if self._place is _Place.TEXT else b""

    def _read_text(self) -> bytes:
        found = self._held.find(_BEGIN)
        if found >= 0:
            text = self._held[:found].removesuffix(b"\n")
            self._held = self._held[found + len(_BEGIN) :]
            self._place = _Place.HEAD
            return text
        kept = max(overlap(self._held, _BEGIN), overlap(self._held, b"\n" + _BEGIN))
        text = self._held[: len(self._held) - kept]
        self._held = self._held[len(text) :]
        return text

    def _read_head(self) -> list[ToolCall]:
        head = _HEAD.match(self._held)
        if head is None:
            return []
        self._held = self._held[head.end() :]
        self._place = _Place.ARGUMENTS
        self._arguments = _Object()
        self.count += 1
        return [ToolCall(index=self.count - 1, name=head[1].decode())]

    def _read_arguments(self) -> list[ToolCall]:
        length = self._arguments.read(self._held)
        piece = self._decoder.decode(self._held[:length], self._arguments.ended)
        self._held = self._held[length:]
        if self._arguments.ended:
            self._place = _Place.END
        return [ToolCall(index=self.count - 1, arguments=piece)] if piece else []


class _Object:
    """Finds the end of a JSON object."""

    def __init__(self) -> None:
        self.ended = False
        self._depth = 0
        self._in_string = False
        self._escaped = 0
        """Bytes at the next read's start that a backslash has taken."""

    def read(self, data: bytes) -> int:
        """How many of the next bytes belong to it."""
        place = self._escaped
        while turn := _TURNS.search(data, place):
            place = turn.end()
            match turn[0]:
                case b"\\":
                    place += 1
                case b'"':
                    self._in_string = not self._in_string
                case b"{" if not self._in_string:
                    self._depth += 1
                case b"}" if not self._in_string:
                    self._depth -= 1
                    if not self._depth:
                        self.ended = True
                        return place
        self._escaped = max(place - len(data), 0)
        return len(data)
