"""Messages and tools of a chat request (contract.md 3.2), checked. Knows no sampling, no model and no template.

What the base's template will see stays as training data has it: names, order and deprecated forms aren't rewritten,
except that text parts become one string and nulls go.
"""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from tunery.errors import InvalidRequest
from tunery.examples.conversation import DEEPEST_VALUE, is_shallow
from tunery.messages import Calls, JsonForm

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
MOST_MESSAGES = 2048
MOST_TOOLS = 128
TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Part(msgspec.Struct, frozen=True):
    type: str
    text: str | None = None
    refusal: str | None = None


class Called(msgspec.Struct, frozen=True):
    name: str
    arguments: str


class PastCall(msgspec.Struct, frozen=True):
    id: str
    function: Called


class Message(msgspec.Struct, frozen=True):
    """Unknown keys are let through unread: clients send answers back with all their keys."""

    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[PastCall] | None = None
    tool_call_id: str | None = None
    function_call: Called | None = None


class FunctionSpec(msgspec.Struct, frozen=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolSpec(msgspec.Struct, frozen=True):
    type: str
    function: FunctionSpec | None = None


def plain_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as the engine takes them: `content` a string, None only beside calls. Raises InvalidRequest."""
    if not 1 <= len(messages) <= MOST_MESSAGES:
        raise InvalidRequest(f"messages holds {len(messages)}; it may hold 1 to {MOST_MESSAGES}.", param="messages")
    return [_plain(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _plain(message: Message, place: str) -> dict[str, Any]:
    role = message.role
    if role not in ROLES:
        raise InvalidRequest(
            f"{place}.role is {role[:64]!r}; it may be one of {', '.join(ROLES)}.", param=f"{place}.role"
        )
    if role == "tool" and not message.tool_call_id:
        raise InvalidRequest(
            f"{place} has no tool_call_id: it has to name the call that it answers.", param=f"{place}.tool_call_id"
        )
    if role == "function" and not message.name:
        raise InvalidRequest(f"{place} has no name: it has to name the function.", param=f"{place}.name")
    plain: dict[str, Any] = {"role": role, "content": _text(message, place)}
    if message.name is not None:
        plain["name"] = message.name
    if role == "tool":
        plain["tool_call_id"] = message.tool_call_id
    if role == "assistant" and message.tool_calls:
        plain["tool_calls"] = [
            {"id": call.id, "type": "function", "function": msgspec.to_builtins(call.function)}
            for call in message.tool_calls
        ]
    if role == "assistant" and message.function_call:
        plain["function_call"] = msgspec.to_builtins(message.function_call)
    return plain


def _text(message: Message, place: str) -> str | None:
    place = f"{place}.content"
    content = message.content
    if isinstance(content, str):
        return content
    if content:
        return "".join(_part_text(part, f"{place}[{index}]") for index, part in enumerate(content))
    if message.role == "assistant" and content is None:
        if message.refusal is not None:
            return message.refusal
        if message.tool_calls or message.function_call:
            return None
    raise InvalidRequest(
        f"{place} is missing or empty; write a string or text parts. Only an assistant message with tool_calls may do "
        "without.",
        param=place,
    )


def _part_text(part: Part, place: str) -> str:
    if part.type not in ("text", "refusal"):
        raise InvalidRequest(
            f"{place} is of type {part.type[:64]!r}; the base models here read text only: send parts of type 'text'.",
            param=place,
        )
    text = part.text if part.type == "text" else part.refusal
    if text is None:
        raise InvalidRequest(f"{place} has no {part.type}.", param=f"{place}.{part.type}")
    return text


def check_tools(tools: Sequence[ToolSpec]) -> None:
    """Raises InvalidRequest."""
    _check_count(tools, "tools")
    for index, tool in enumerate(tools):
        place = f"tools[{index}]"
        if tool.type != "function" or tool.function is None:
            raise InvalidRequest(
                f"{place} is of type {tool.type[:64]!r}; only tools of type 'function' with a function are supported.",
                param=f"{place}.type",
            )
        _check_function(tool.function, f"{place}.function")


def check_functions(functions: Sequence[FunctionSpec]) -> None:
    """The deprecated form of tools. Raises InvalidRequest."""
    _check_count(functions, "functions")
    for index, function in enumerate(functions):
        _check_function(function, f"functions[{index}]")


def _check_count(tools: Sequence[object], param: str) -> None:
    if not 1 <= len(tools) <= MOST_TOOLS:
        raise InvalidRequest(f"{param} holds {len(tools)}; it may hold 1 to {MOST_TOOLS}.", param=param)


def _check_function(function: FunctionSpec, place: str) -> None:
    _check_name(function.name, place)
    if not is_shallow(function.parameters):
        raise InvalidRequest(
            f"{place}.parameters is nested more than {DEEPEST_VALUE} levels deep.", param=f"{place}.parameters"
        )


def _check_name(name: str, place: str) -> None:
    if not TOOL_NAME.fullmatch(name):
        raise InvalidRequest(
            f"{place}.name is {name[:80]!r}; it may have 1 to 64 letters, digits, '_' and '-'.", param=f"{place}.name"
        )


class JsonSchemaSpec(msgspec.Struct, frozen=True):
    name: str
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    type: str
    json_schema: JsonSchemaSpec | None = None


ANY_OBJECT: dict[str, Any] = {"type": "object"}


def json_form(wanted: ResponseFormat | None) -> JsonForm | None:
    """What response_format asks for; None: text. Raises InvalidRequest."""
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return JsonForm(schema=ANY_OBJECT, strict=False)
    if wanted.type != "json_schema":
        raise InvalidRequest(
            f"response_format.type is {wanted.type[:64]!r}; it may be 'text', 'json_object' or 'json_schema'.",
            param="response_format",
        )
    place = "response_format.json_schema"
    spec = wanted.json_schema
    if spec is None:
        raise InvalidRequest(f"{place} is missing; it has to hold a name and a schema.", param=place)
    _check_name(spec.name, place)
    if not is_shallow(spec.schema):
        raise InvalidRequest(f"{place}.schema is nested more than {DEEPEST_VALUE} levels deep.", param=place)
    return JsonForm(schema=ANY_OBJECT if spec.schema is None else spec.schema, strict=bool(spec.strict))


def read_choice(choice: str | dict[str, Any] | None, names: Sequence[str], calls: Calls) -> Calls | None:
    """`calls` as tool_choice (or function_call) narrows it; None: there may be no call. Raises InvalidRequest."""
    param = "tool_choice" if calls.param == "tools" else "function_call"
    if choice is None or choice == "auto":
        return calls
    if choice == "none":
        return None
    if not names:
        raise InvalidRequest(f"{param} may only demand a call when there are {calls.param}.", param=param)
    if choice == "required" and param == "tool_choice":
        return msgspec.structs.replace(calls, demanded=True)
    name = _chosen_name(choice) if isinstance(choice, dict) else None
    if name is None:
        required = "'required', " if param == "tool_choice" else ""
        raise InvalidRequest(
            f"{param} is {str(choice)[:64]!r}; it may be 'none', 'auto', {required}or name a function.", param=param
        )
    if name not in names:
        raise InvalidRequest(f"{param} names the function {name[:64]!r}, which isn't in {calls.param}.", param=param)
    return msgspec.structs.replace(calls, demanded=True, names=[name], parallel=False)


def _chosen_name(choice: dict[str, Any]) -> str | None:
    """{"type": "function", "function": {"name": N}}, or in the deprecated form {"name": N}."""
    named = choice.get("function", choice)
    name = named.get("name") if isinstance(named, dict) else None
    return name if isinstance(name, str) else None
