"""Messages in the few forms that chat templates know, and tool calls out of a model's text. Knows no tokens."""

import json
import re
from typing import Any, NoReturn

from tunery.messages import ToolCall

_TOOL_CALL = re.compile(r"\n?<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
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


def parse_tool_calls(text: str) -> tuple[str, list[ToolCall]]:
    """(text without the calls, calls) of an answer in the Hermes style; what isn't a whole call stays in the text."""
    calls: list[ToolCall] = []

    def taken(match: re.Match[str]) -> str:
        call = _tool_call(match[1])
        if call is None:
            return match[0]
        calls.append(call)
        return ""

    return _TOOL_CALL.sub(taken, text), calls


def _tool_call(text: str) -> ToolCall | None:
    try:
        call = json.loads(text, parse_constant=_refuse)
        name, arguments = call["name"], call["arguments"]
    except (ValueError, KeyError, RecursionError):
        return None
    if not isinstance(name, str):
        return None
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return ToolCall(name=name, arguments=arguments)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} isn't JSON")
