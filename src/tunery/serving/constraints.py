"""What the form of an answer has to be, as a grammar in llguidance's variant of Lark. Knows no request's text.

Calls have the form that the base's template teaches (models/conversation.py), to the character. JSON that is asked for
by response_format may be written compactly or over several lines, with a bounded run of blanks at a place: small
models would go on with blanks for ever.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunery.errors import InvalidRequest, OperationNotSupported
from tunery.messages import Generate, JsonForm
from tunery.models.conversation import (
    CALL_ARGUMENTS,
    CALL_BEGIN,
    CALL_END,
    CALL_NAME,
    ITEM_SEPARATOR,
    KEY_SEPARATOR,
)
from tunery.models.tokenizer import Tokenizer

LONGEST_GRAMMAR = 256 * 1024
"""Characters."""
JSON_STYLE = {"whitespace_pattern": r" |\r?\n[ \t]{0,32}", "json_allow_general_unicode_escapes": True}
CALL_STYLE = {"whitespace_flexible": False, "item_separator": ITEM_SEPARATOR, "key_separator": KEY_SEPARATOR}


@dataclass(frozen=True, slots=True)
class Source:
    """A grammar to compile."""

    lark: str
    schemas: dict[int, tuple[str, str]]
    """The caller's: line of `lark`, from 1, that holds one -> what it is, and the parameter that it came in."""


def source_of(generate: Generate, tokenizer: Tokenizer) -> Source | None:
    """None: any text will do. Raises InvalidRequest or OperationNotSupported for what no grammar can be made of."""
    demanded = bool(generate.tools) and generate.calls.demanded
    if demanded and not tokenizer.writes_tool_calls:
        raise OperationNotSupported(
            "This model's chat template writes no tool calls that could be demanded. Leave tool_choice out, or deploy "
            "another model.",
            param="tool_choice",
        )
    lines = _Lines(tokenizer)
    if generate.tools and tokenizer.writes_tool_calls:
        if demanded:
            lines.add("start: calls")
        elif generate.json_form:
            lines.add("start: json | calls")
            lines.add_json(generate.json_form)
        else:
            lines.add_start_with_text()
        lines.add_calls(generate)
    elif generate.json_form:
        lines.add("start: json")
        lines.add_json(generate.json_form)
    else:
        return None
    return lines.source()


class _Lines:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._lines: list[str] = []
        self._schemas: dict[int, tuple[str, str]] = {}

    def add(self, line: str) -> None:
        self._lines.append(line)

    def source(self) -> Source:
        lark = "\n".join(self._lines)
        if len(lark) > LONGEST_GRAMMAR:
            raise InvalidRequest(
                f"The schemas of this request make a grammar of {len(lark)} characters; it may have {LONGEST_GRAMMAR}. "
                "Send fewer or smaller ones."
            )
        return Source(lark, self._schemas)

    def add_calls(self, generate: Generate) -> None:
        """Rules `calls`, `call`, `more` and what they need."""
        tools = [tool["function"] for tool in generate.tools or []]
        names = generate.calls.names
        callable_ = [tool for tool in tools if names is None or tool["name"] in names]
        more = f"({self._literal(chr(10) + CALL_BEGIN)} call)*" if generate.calls.parallel else '""'
        self.add(f"more: {more}")
        self.add(f"calls: {self._literal(CALL_BEGIN)} call more")
        self.add("call: " + " | ".join(f"call_{number}" for number in range(len(callable_))))
        for number, tool in enumerate(callable_):
            self._add_call(number, tool, generate)

    def _add_call(self, number: int, tool: dict[str, Any], generate: Generate) -> None:
        schema, strict = tool.get("parameters") or {}, bool(tool.get("strict"))
        if strict or generate.calls.demanded:
            place = f"The parameters of the function '{tool['name']}'"
            if schema.get("type", "object") != "object":
                raise InvalidRequest(f"{place} have to be of type 'object'.", param=generate.calls.param)
            self._schemas[len(self._lines) + 1] = place, generate.calls.param
        else:
            schema = {}  # which arguments the model was taught, and in which order, is its own business
        head = self._literal(f"{CALL_NAME}{tool['name']}{CALL_ARGUMENTS}")
        body = _json({"type": "object", **schema}, CALL_STYLE, strict=strict)
        self.add(f"call_{number}: {head} {body} {self._literal(CALL_END)}")

    def add_start_with_text(self) -> None:
        """Any text, and calls behind it from where one begins."""
        self.add("start: TEXT | lead call more")
        self.add("TEXT: /(.|\\n)*/")
        as_text = self._tokenizer.literal(CALL_BEGIN) == [CALL_BEGIN]
        self.add(f"lead{'[lazy]' if as_text else ''}: TEXT {self._literal(CALL_BEGIN)}")

    def add_json(self, json_form: JsonForm) -> None:
        if json_form.schema != {"type": "object"}:
            self._schemas[len(self._lines) + 1] = "The schema of response_format", "response_format"
        self.add(f"json: {_json(json_form.schema, JSON_STYLE, strict=json_form.strict)}")

    def _literal(self, text: str) -> str:
        parts: Sequence[str | int] = self._tokenizer.literal(text)
        return " ".join(json.dumps(part) if isinstance(part, str) else f"<[{part}]>" for part in parts)


def _json(schema: dict[str, Any], style: dict[str, Any], *, strict: bool) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": {**style, "lenient": not strict}})
