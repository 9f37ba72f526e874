"""Faults of one example that can be mended without guessing: each edit leaves what the example says as it was."""

import json
import re
from collections.abc import Mapping
from types import MappingProxyType

from tunery.examples.explain import explain
from tunery.examples.located import Fault

MENDS: Mapping[str, str] = MappingProxyType(
    {
        "utf_16": "The file was UTF-16; it is UTF-8 now.",
        "list": "A list stood around the examples; now each stands on a line of its own.",
        "byte_order_mark": "A byte order mark inside the file was removed.",
        "empty_line": "An empty line was removed.",
        "shared_line": "Several examples stood on one line; now each has its own.",
        "line_breaks": "An example that ran over several lines stands on one now.",
        "comma": "A comma too many was removed.",
        "word": "True, False or None was written as JSON's true, false or null.",
        "control_character": "Control characters in strings were written as escapes.",
        "arguments": "Arguments of a call that were an object were written as its text.",
    }
)
"""Everything that `correcting.py` does, and how it says so."""
_MOST_EDITS = 100
_WORDS = {"True": "true", "False": "false", "None": "null"}
_WORD = re.compile("True|False|None")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_CONTROL = re.compile("[\x00-\x1f]")
_BREAKS = re.compile(r"[ \t]*[\r\n][ \t\r\n]*")


def mended(text: str) -> tuple[str, list[str]] | None:
    """The example on one line and what was done to it, as in MENDS; None if a fault remains."""
    done: dict[str, None] = {}
    for _ in range(_MOST_EDITS):
        _, faults = explain(text)
        if not faults:
            line = _BREAKS.sub(" ", text)  # outside of strings, or `explain` would have had a fault
            return line, [*done, *(["line_breaks"] if line != text else [])]
        edits = (_edit(text, fault) for fault in faults)
        mend, edited = next((edit for edit in edits if edit is not None), (None, text))
        if mend is None or edited == text:
            return None
        done[mend] = None
        text = edited
    return None


def _edit(text: str, fault: Fault) -> tuple[str, str] | None:
    at, rule, _ = fault
    if at is None:
        return None
    if rule == "invalid_arguments" and text.startswith("{", at):
        end = json.JSONDecoder().raw_decode(text, at)[1]
        return "arguments", text[:at] + json.dumps(text[at:end], ensure_ascii=False) + text[end:]
    if rule != "invalid_json":
        return None
    if text.startswith(",", at) and text[at + 1 :].lstrip(" \t\r\n")[:1] in ("}", "]"):
        return "comma", text[:at] + text[at + 1 :]
    if word := _WORD.match(text, at):
        return "word", text[:at] + _WORDS[word[0]] + text[word.end() :]
    if _CONTROL.match(text, at):
        return "control_character", _STRING.sub(_escaped, text)
    return None


def _escaped(string: re.Match[str]) -> str:
    return _CONTROL.sub(lambda found: json.dumps(found[0])[1:-1], string[0])
