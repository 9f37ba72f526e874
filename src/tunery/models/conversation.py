"""Messages in the few forms that chat templates know, and the form in which they write calls. Knows no tokens."""

import json
from typing import Any

CALL_BEGIN = "<tool_call>"
"""Behind text or another call it stands on a line of its own; its line end is part of neither."""
CALL_NAME = '\n{"name": "'
CALL_ARGUMENTS = '", "arguments": '
CALL_END = "}\n</tool_call>"
ITEM_SEPARATOR, KEY_SEPARATOR = ", ", ": "
"""Of the JSON in a call: `tojson` writes Python's (templates.py)."""

_PROBED = {"name": "probe", "arguments": {"a": [1, 2]}}
_PROBE = '<tool_call>\n{"name": "probe", "arguments": {"a": [1, 2]}}\n</tool_call>'
PROBE_MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "type": "function", "function": _PROBED}] * 2},
]


def has_probed_calls(text: str) -> bool:
    """Whether a template wrote `PROBE_MESSAGES` in the Hermes style: what the constants above say, and nothing else."""
    return f"{_PROBE}\n{_PROBE}" in text


_ROLES = {"developer": "system", "function": "tool"}


def canonical(message: dict[str, Any]) -> dict[str, Any]:
    """Roles system, user, assistant and tool; content a string; calls as tool_calls with values for arguments."""
    plain = {key: value for key, value in message.items() if value is not None and key != "weight"}
    plain["role"] = _ROLES.get(message["role"], message["role"])
    plain["content"] = _text(message.get("content"))
    calls = list(plain.pop("tool_calls", ()))
    if called := plain.pop("function_call", None):
        calls.append({"type": "function", "function": called})
    if calls:
        plain["tool_calls"] = [{**call, "function": _with_values(call["function"])} for call in calls]
    return plain


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part["text"] for part in content)


def _with_values(function: dict[str, Any]) -> dict[str, Any]:
    """Arguments as values, as templates expect; a string that isn't JSON stays one."""
    try:
        return {**function, "arguments": json.loads(function["arguments"])}
    except (ValueError, RecursionError):
        return function
