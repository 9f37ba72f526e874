"""Where JSON objects begin and end in a stream of bytes: brackets and strings alone. Knows no examples."""

import re
from collections.abc import Iterator

_BEGIN = re.compile(rb"[^ \t\r\n,]")
_OUTSIDE = re.compile(rb'["\[\]{}]')
_INSIDE = re.compile(rb'["\\]')
_OPENING = b"[{"


class Values:
    """Takes text bit by bit and gives the objects in it, one after the other, commas and spaces between them left out.

    What lies within an object is told by its brackets only: whether it is JSON has to be looked at.
    """

    def __init__(self, *, in_list: bool = False) -> None:
        """`in_list`: a bracket that was never opened ends the text instead of spoiling it."""
        self.commas = 0
        """Between objects, and behind the last."""
        self.spoilt = False
        """Something else than objects stands there."""
        self.ended = False
        self.in_string = False
        self._in_list = in_list
        self._held = bytearray()
        self._depth = 0
        self._escaped = False

    @property
    def is_open(self) -> bool:
        """Whether an object has begun and not ended."""
        return self._depth > 0

    @property
    def size(self) -> int:
        """Bytes so far of the object that has begun."""
        return len(self._held)

    def feed(self, text: bytes) -> Iterator[bytes]:
        at = 0
        while at < len(text) and not self.spoilt:
            if self.is_open:
                end = self._end_of_object(text, at)
                self._held += text[at:end]
                at = end
                if not self.is_open:
                    yield bytes(self._held)
                    self._held.clear()
            else:
                at = self._begin(text, at)

    def _begin(self, text: bytes, at: int) -> int:
        found = _BEGIN.search(text, at)
        begin = found.start() if found else len(text)
        self.commas += text.count(b",", at, begin)
        if found is None:
            return begin
        if self._in_list and not self.ended and found[0] == b"]":
            self.ended = True
            return begin + 1
        if found[0] != b"{" or self.ended:
            self.spoilt = True
            return begin
        self._held += b"{"
        self._depth = 1
        return begin + 1

    def _end_of_object(self, text: bytes, at: int) -> int:
        """Behind the bracket that closes the object, or the end of the text."""
        if self._escaped:
            self._escaped = False
            at += 1
        while found := (_INSIDE if self.in_string else _OUTSIDE).search(text, at):
            at = found.end()
            if found[0] == b"\\":
                self._escaped = at == len(text)
                at += 1
            elif found[0] == b'"':
                self.in_string = not self.in_string
            else:
                self._depth += 1 if found[0] in _OPENING else -1
                if self._depth == 0:
                    return at
        return len(text)
