"""JSON with the place of every value, for pointing at faults. Slow and thorough; knows nothing of examples.

Anything may come in: nesting, the number of values and the length of numbers are bounded.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

DEEPEST_LINE = 100
MOST_VALUES = 100_000
LONGEST_INTEGER = 4300
"""Characters; msgspec's own limit."""

_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_SURROGATE = re.compile("[\ud800-\udfff]")
_WORD = re.compile(r"[A-Za-z]+")
_WORDS = {"true": True, "false": False, "null": None}
_OTHER_WORDS = {
    "True": "True is Python; JSON writes true.",
    "False": "False is Python; JSON writes false.",
    "None": "None is Python; JSON writes null.",
    "NaN": "JSON has no NaN; write a number or null.",
    "Infinity": "JSON has no Infinity; write a number or null.",
}


class Located(NamedTuple):
    """A JSON value and the offsets, in characters from 0, where it and its key (if it has one) begin."""

    at: int
    value: Any
    """dict[str, Located], list[Located], str, int, float, bool or None."""
    key_at: int = 0

    def plain(self) -> Any:
        if isinstance(self.value, dict):
            return {key: member.plain() for key, member in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value


class Fault(NamedTuple):
    """A broken rule, at an offset in characters from 0 (None: the line as a whole), and a sentence about it."""

    at: int | None
    rule: str
    message: str


class Unreadable(Exception):
    """The text isn't one JSON value within the bounds."""

    def __init__(self, at: int, rule: str, message: str) -> None:
        super().__init__(message)
        self.fault = Fault(at, rule, message)


class Reader:
    """Reads one JSON text. Faults that don't hinder reading on (repeated keys, half characters) gather in `faults`."""

    def __init__(self, text: str) -> None:
        self.faults: list[Fault] = []
        self._text = text
        self._at = 0
        self._values_left = MOST_VALUES
        self._strings = json.JSONDecoder()

    def read(self) -> Located:
        """The whole text as one value. Raises Unreadable."""
        self._skip_space()
        value = self._value(DEEPEST_LINE)
        self._skip_space()
        if self._at < len(self._text):
            raise Unreadable(self._at, "invalid_json", "More text follows the JSON value; write one example a line.")
        return value

    def _skip_space(self) -> None:
        space = _SPACE.match(self._text, self._at)
        assert space is not None
        self._at = space.end()

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _value(self, levels: int, key_at: int = 0) -> Located:
        at = self._at
        self._values_left -= 1
        if self._values_left < 0:
            raise Unreadable(at, "too_many_values", f"The line has more than {MOST_VALUES:,} values; split it.")
        if levels == 0:
            raise Unreadable(at, "nested_too_deeply", f"The line nests over {DEEPEST_LINE} levels deep; flatten it.")
        match self._next():
            case "{":
                return Located(at, self._object(levels), key_at)
            case "[":
                return Located(at, self._list(levels), key_at)
            case '"':
                return Located(at, self._string(), key_at)
            case _:
                return Located(at, self._scalar(), key_at)

    def _object(self, levels: int) -> dict[str, Located]:
        members: dict[str, Located] = {}
        for _ in self._members("}", "object"):
            key_at = self._at
            if self._next() != '"':
                raise self._expected("a key in double quotes")
            key = self._string()
            if key in members:
                self.faults.append(Fault(key_at, "duplicate_key", f"The key {quoted(key)} is given twice; keep one."))
            self._skip_space()
            if self._next() != ":":
                raise self._expected("a colon after the key")
            self._at += 1
            self._skip_space()
            members[key] = self._value(levels - 1, key_at)
        return members

    def _list(self, levels: int) -> list[Located]:
        return [self._value(levels - 1) for _ in self._members("]", "list")]

    def _members(self, close: str, what: str) -> Iterator[None]:
        """Stops before each member, for the caller to read it, and after the closing bracket."""
        self._at += 1
        self._skip_space()
        if self._next() == close:
            self._at += 1
            return
        while True:
            yield
            self._skip_space()
            if self._next() == close:
                self._at += 1
                return
            if self._next() != ",":
                raise self._expected(f"a comma or the end of the {what}")
            comma = self._at
            self._at += 1
            self._skip_space()
            if self._next() == close:
                raise Unreadable(comma, "invalid_json", f"A comma stands before the end of the {what}; remove it.")

    def _string(self) -> str:
        at = self._at
        try:
            text, self._at = self._strings.raw_decode(self._text, at)
        except json.JSONDecodeError as error:
            if error.msg.startswith("Unterminated"):
                message = "The string that begins here has no end; an example must stand on one line."
            elif error.msg.startswith("Invalid control"):
                message = "A control character stands in a string; write it as an escape such as \\n or \\t."
            else:
                message = "A string holds an escape that JSON doesn't know; write a backslash as \\\\."
            raise Unreadable(error.pos, "invalid_json", message) from None
        if not text.isascii() and (half := _SURROGATE.search(text)):
            message = f"A string holds \\u{ord(half[0]):x}, half a character; write the character itself."
            self.faults.append(Fault(at, "lone_surrogate", message))
        return str(text)

    def _scalar(self) -> int | float | bool | None:
        if number := _NUMBER.match(self._text, self._at):
            self._at = number.end()
            return _number(number)
        word = _WORD.match(self._text, self._at)
        if word and word[0] in _OTHER_WORDS:
            raise Unreadable(self._at, "invalid_json", _OTHER_WORDS[word[0]])
        if word is None or word[0] not in _WORDS:
            raise self._expected("a JSON value")
        self._at = word.end()
        return _WORDS[word[0]]

    def _expected(self, what: str) -> Unreadable:
        found = self._next()
        if not found:
            message = f"The line ends where {what} should stand; an example must stand on one line."
        elif found == "'":
            message = f"A single quote stands where {what} should; JSON wants double quotes."
        else:
            message = f"{quoted(found)} stands where {what} should."
        return Unreadable(self._at, "invalid_json", message)


def _number(number: re.Match[str]) -> int | float:
    whole = number[1] is None and number[2] is None
    if whole and len(number[0]) <= LONGEST_INTEGER:
        return int(number[0])
    if not whole and math.isfinite(value := float(number[0])):
        return value
    raise Unreadable(number.start(), "number_out_of_range", "A number is too large; write a smaller one, or a string.")


def quoted(value: str) -> str:
    """A value of the user's for a sentence: short, on one line, without characters that can't be seen."""
    short = value if len(value) <= 40 else value[:39] + "…"
    return json.dumps(short, ensure_ascii=not short.isprintable())
