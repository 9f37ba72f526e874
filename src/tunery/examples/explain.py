"""Everything that is wrong with one line, in words and with its place. Slow: for lines that the types refuse.

Says of every text what `formats.py` and `conversation.py` say: valid or not. Knows no file.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from tunery.examples.conversation import (
    DEEPEST_VALUE,
    Call,
    Disorder,
    Turn,
    answer_faults,
    are_arguments,
    is_shallow,
    order_faults,
)
from tunery.examples.formats import Format
from tunery.examples.located import Fault, Located, Reader, Unreadable, quoted

Members = Mapping[str, Located]

_EXAMPLE_KEYS: Mapping[Format, tuple[str, ...]] = MappingProxyType(
    {
        "chat": ("messages", "tools", "parallel_tool_calls", "functions"),
        "completion": ("prompt", "completion"),
        "preference": ("input", "preferred_output", "non_preferred_output"),
    }
)
_INPUT_KEYS = ("messages", "tools", "parallel_tool_calls")
_ROLE_KEYS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "system": ("role", "content", "name"),
        "developer": ("role", "content", "name"),
        "user": ("role", "content", "name"),
        "assistant": ("role", "content", "name", "weight", "tool_calls", "function_call"),
        "tool": ("role", "content", "name", "tool_call_id"),
        "function": ("role", "content", "name"),
    }
)
_MESSAGE_KEYS = (*_ROLE_KEYS["assistant"], "tool_call_id")
_OUTPUT_ROLES = ("assistant", "tool")
_KINDS: Mapping[type, str] = MappingProxyType(
    {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "true or false",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
)


def explain(text: str) -> tuple[Format | None, list[Fault]]:
    """The line's format, as far as its keys tell, and all its faults in reading order; none means it is valid."""
    reader = Reader(text)
    try:
        line = reader.read()
    except Unreadable as unreadable:
        return None, [*reader.faults, unreadable.fault]
    if not isinstance(line.value, dict):
        hint = "" if not isinstance(line.value, list) else " JSON Lines has no list around the examples."
        message = f"The line is {_KINDS[type(line.value)]}; write one JSON object a line.{hint}"
        return None, [*reader.faults, Fault(line.at, "data_type", message)]
    format_ = format_of(line.value)
    checks = {"chat": _chat, "completion": _completion, "preference": _preference, None: _no_format}
    faults = [*reader.faults, *checks[format_](line)]
    return format_, sorted(faults, key=lambda fault: -1 if fault.at is None else fault.at)


def format_of(members: Members) -> Format | None:
    for format_, keys in _EXAMPLE_KEYS.items():
        if any(key in members for key in keys if key not in ("tools", "parallel_tool_calls", "functions")):
            return format_
    return None


def _no_format(line: Located) -> Iterator[Fault]:
    yield Fault(line.at, "missing_messages_list", "The example has no messages list; add the key messages.")


def _chat(line: Located) -> Iterator[Fault]:
    yield from _known_keys(line.value, _EXAMPLE_KEYS["chat"], "example_unrecognized_key", "The example")
    yield from _tool_lists(line.value)
    turns, faults = _messages(line, "")
    yield from faults
    if turns:
        nodes = line.value["messages"]
        disorders = order_faults(turns) + (answer_faults(turns) if all(turn.role for turn in turns) else [])
        yield from _placed(disorders, nodes, "")


def _completion(line: Located) -> Iterator[Fault]:
    yield from _known_keys(line.value, _EXAMPLE_KEYS["completion"], "example_unrecognized_key", "The example")
    for key in _EXAMPLE_KEYS["completion"]:
        node = line.value.get(key)
        if node is None:
            yield Fault(line.at, "example_missing_key", f"The example has no {key}; add it.")
        elif type(node.value) is not str:
            yield _wrong_type(node, key, str)
        elif not node.value:
            yield Fault(node.at, "empty_text", f"{key} is empty; write its text or remove the line.")


def _preference(line: Located) -> Iterator[Fault]:
    yield from _known_keys(line.value, _EXAMPLE_KEYS["preference"], "example_unrecognized_key", "The example")
    yield from (
        Fault(line.at, "example_missing_key", f"The example has no {key}; add it.")
        for key in _EXAMPLE_KEYS["preference"]
        if key not in line.value
    )
    asked: list[Turn] = []
    if question := line.value.get("input"):
        if not isinstance(question.value, dict):
            yield _wrong_type(question, "input", dict)
        else:
            yield from _known_keys(question.value, _INPUT_KEYS, "example_unrecognized_key", "input")
            yield from _tool_lists(question.value)
            asked, faults = _messages(question, " of input")
            yield from faults
            if asked:
                yield from _placed(order_faults(asked), question.value["messages"], " of input")
    for key in ("preferred_output", "non_preferred_output"):
        if output := line.value.get(key):
            yield from _output(output, key, asked)


def _output(output: Located, key: str, asked: list[Turn]) -> Iterator[Fault]:
    if not isinstance(output.value, list):
        yield _wrong_type(output, key, list)
        return
    if not output.value:
        yield Fault(output.at, "example_missing_assistant_message", f"{key} is empty; write the assistant's answer.")
        return
    turns: list[Turn] = []
    for number, node in enumerate(output.value, start=1):
        turn, faults = _message(node, f"Message {number} of {key}", _OUTPUT_ROLES)
        turns.append(turn)
        yield from faults
    disorders = [
        disorder._replace(place=disorder.place - len(asked))
        for disorder in order_faults([*asked, *turns], start=len(asked))
        if disorder.place is not None
    ]
    if all(turn.role for turn in turns):
        disorders += answer_faults(turns)
    yield from _placed(disorders, output, f" of {key}")


def _placed(disorders: Sequence[Disorder], messages: Located, of: str) -> Iterator[Fault]:
    for place, rule, message in disorders:
        if place is None:
            yield Fault(messages.at, rule, message)
        else:
            yield Fault(messages.value[place].at, rule, f"Message {place + 1}{of} {message}")


def _messages(holder: Located, of: str) -> tuple[list[Turn], list[Fault]]:
    """The turns of a messages list, as far as they can be told, and the faults of its messages one by one."""
    node = holder.value.get("messages")
    if node is None or node.value is None or node.value == []:
        at = holder.at if node is None else node.at
        message = f"The list messages{of} is missing or empty; write the conversation."
        return [], [Fault(at, "missing_messages_list", message)]
    if not isinstance(node.value, list):
        return [], [_wrong_type(node, "messages", list)]
    turns: list[Turn] = []
    found: list[Fault] = []
    for number, item in enumerate(node.value, start=1):
        turn, faults = _message(item, f"Message {number}{of}", tuple(_ROLE_KEYS))
        turns.append(turn)
        found += faults
    return turns, found


def _message(node: Located, where: str, roles: tuple[str, ...]) -> tuple[Turn, list[Fault]]:
    """The turn (of role "" if it can't be told) and the faults of one message."""
    if not isinstance(node.value, dict):
        return Turn(""), [_wrong_type(node, where, dict)]
    members: Members = node.value
    role = _text(members, "role")
    if role not in roles:
        role = ""
    faults = [
        *_role(node, where, roles),
        *_message_keys(members, where, role),
        *_content(node, where, role),
        *_weight(members, where, role),
        *_calls(node, where, role),
    ]
    return _turn(members, role), faults


def _message_keys(members: Members, where: str, role: str) -> Iterator[Fault]:
    yield from _known_keys(members, _MESSAGE_KEYS, "message_unrecognized_key", where)
    for key in _MESSAGE_KEYS:
        if role and key in members and key not in _ROLE_KEYS[role] and members[key].value is not None:
            message = f"{where} has the key {quoted(key)}, but its role is {role}; remove it."
            yield Fault(members[key].key_at, "message_unrecognized_key", message)


def _role(node: Located, where: str, roles: tuple[str, ...]) -> Iterator[Fault]:
    role: Located | None = node.value.get("role")
    if role is None:
        yield Fault(node.at, "message_missing_key", f"{where} has no role; add it.")
    elif role.value not in roles:
        said = quoted(role.value) if isinstance(role.value, str) else _KINDS[type(role.value)]
        yield Fault(role.at, "unrecognized_role", f"{where} has the role {said}; use {_listed(roles)}.")


def _content(node: Located, where: str, role: str) -> Iterator[Fault]:
    content: Located | None = node.value.get("content")
    calls = [node.value[key] for key in ("tool_calls", "function_call") if key in node.value]
    optional = role == "assistant" and any(call.value is not None for call in calls)
    if content is None:
        if not optional:
            yield Fault(node.at, "message_missing_key", f"{where} has no content; add it.")
    elif content.value is None or content.value == []:
        if content.value is not None or not optional:
            said = "null" if content.value is None else "an empty list"
            yield Fault(content.at, "missing_content", f"The content of {_lower(where)} is {said}; write its text.")
    elif isinstance(content.value, list):
        for part in content.value:
            yield from _part(part, where)
    elif not isinstance(content.value, str):
        yield _wrong_type(content, f"The content of {_lower(where)}", str)


def _part(part: Located, where: str) -> Iterator[Fault]:
    if not isinstance(part.value, dict):
        yield _wrong_type(part, f"A content part of {_lower(where)}", dict)
        return
    kind = _text(part.value, "type")
    if kind != "text":
        what = f"of type {quoted(kind)}" if kind else "without a type"
        images = "Images aren't" if kind.startswith("image") else "Only text is"
        message = f"{where} has a content part {what}. {images} supported by this service's base models; write text."
        yield Fault(part.at, "unsupported_content", message)
        return
    yield from _known_keys(part.value, ("type", "text"), "message_unrecognized_key", f"A text part of {_lower(where)}")
    text = part.value.get("text")
    if text is None:
        yield Fault(part.at, "message_missing_key", f"A text part of {_lower(where)} has no text; add it.")
    elif not isinstance(text.value, str):
        yield _wrong_type(text, f"The text of a part of {_lower(where)}", str)


def _weight(members: Members, where: str, role: str) -> Iterator[Fault]:
    weight = members.get("weight")
    if role != "assistant" or weight is None or weight.value is None:
        return
    if type(weight.value) is not int or weight.value not in (0, 1):
        message = f"The weight of {_lower(where)} isn't 0 or 1; write 0 (not trained) or 1 (trained)."
        yield Fault(weight.at, "invalid_weight", message)


def _calls(node: Located, where: str, role: str) -> Iterator[Fault]:
    """Faults of name, tool_call_id, tool_calls and function_call."""
    members: Members = node.value
    if role == "function":
        yield from _needed(node, "name", where, "message_missing_key")
    else:
        yield from _optional(members, "name", str, where)
    if role == "tool":
        yield from _needed(node, "tool_call_id", where, "message_missing_key")
    if role != "assistant":
        return
    yield from _optional(members, "tool_calls", list, where)
    calls = members.get("tool_calls")
    if calls is not None and isinstance(calls.value, list):
        if not calls.value:
            yield Fault(calls.at, "invalid_tool", f"The list tool_calls of {_lower(where)} is empty; leave it out.")
        for call in calls.value:
            yield from _tool_call(call, f"A tool call of {_lower(where)}")
    call = members.get("function_call")
    if call is not None and call.value is not None:
        yield from _called_function(call, f"The function_call of {_lower(where)}")


def _tool_call(node: Located, where: str) -> Iterator[Fault]:
    yield from _typed_object(node, where, ("id", "type", "function"))
    if isinstance(node.value, dict):
        yield from _needed(node, "id", where, "invalid_tool")
        if function := node.value.get("function"):
            yield from _called_function(function, where)


def _called_function(node: Located, where: str) -> Iterator[Fault]:
    if not isinstance(node.value, dict):
        yield _wrong_type(node, where, dict)
        return
    yield from _known_keys(node.value, ("name", "arguments"), "invalid_tool", where)
    yield from _needed(node, "name", where, "invalid_tool")
    arguments = node.value.get("arguments")
    at = node.at if arguments is None else arguments.at
    if arguments is None or not isinstance(arguments.value, str) or not are_arguments(arguments.value):
        message = f"{where} needs arguments: the text of a JSON object, in quotes; write it as a string."
        yield Fault(at, "invalid_arguments", message)


def _tool_lists(members: Members) -> Iterator[Fault]:
    yield from _optional(members, "parallel_tool_calls", bool, "The example")
    for key, check in (("tools", _tool_spec), ("functions", _function_spec)):
        yield from _optional(members, key, list, "The example")
        node = members.get(key)
        if node is not None and isinstance(node.value, list):
            for number, item in enumerate(node.value, start=1):
                yield from check(item, f"Entry {number} of {key}")


def _tool_spec(node: Located, where: str) -> Iterator[Fault]:
    yield from _typed_object(node, where, ("type", "function"))
    if isinstance(node.value, dict) and (function := node.value.get("function")):
        yield from _function_spec(function, where)


def _function_spec(node: Located, where: str) -> Iterator[Fault]:
    if not isinstance(node.value, dict):
        yield _wrong_type(node, where, dict)
        return
    members: Members = node.value
    yield from _known_keys(members, ("name", "description", "parameters", "strict"), "invalid_tool", where)
    yield from _needed(node, "name", where, "invalid_tool")
    for key, kind in (("description", str), ("parameters", dict), ("strict", bool)):
        yield from _optional(members, key, kind, where)
    parameters = members.get("parameters")
    if parameters is not None and not is_shallow(parameters.plain()):
        message = f"The parameters of {_lower(where)} nest more than {DEEPEST_VALUE} levels deep; flatten them."
        yield Fault(parameters.at, "nested_too_deeply", message)


def _typed_object(node: Located, where: str, keys: tuple[str, ...]) -> Iterator[Fault]:
    """Faults of an object of type "function" that holds a function."""
    if not isinstance(node.value, dict):
        yield _wrong_type(node, where, dict)
        return
    yield from _known_keys(node.value, keys, "invalid_tool", where)
    if _text(node.value, "type") != "function":
        yield Fault(node.at, "invalid_tool", f'{where} isn\'t of type "function"; write "type": "function".')
    if "function" not in node.value:
        yield Fault(node.at, "invalid_tool", f"{where} has no function; add it.")


def _turn(members: Members, role: str) -> Turn:
    """What can be told of a message that may be faulty, with the benefit of the doubt."""
    if role == "tool":
        return Turn(role, answers=Call("tool", _text(members, "tool_call_id")))
    if role == "function":
        return Turn(role, answers=Call("function", _text(members, "name")))
    if role != "assistant":
        return Turn(role)
    weight = members.get("weight")
    trained = weight is None or type(weight.value) is not int or weight.value != 0
    calls: list[Call] = []
    listed = members.get("tool_calls")
    if listed is not None and isinstance(listed.value, list):
        calls += [Call("tool", _text(call.value, "id")) for call in listed.value if isinstance(call.value, dict)]
    called = members.get("function_call")
    if called is not None and isinstance(called.value, dict):
        calls.append(Call("function", _text(called.value, "name")))
    return Turn(role, trained, tuple(calls))


def _known_keys(members: Members, known: tuple[str, ...], rule: str, where: str) -> Iterator[Fault]:
    for key, member in members.items():
        if key not in known:
            message = f"{where} has the key {quoted(key)}, which isn't known there; remove it."
            yield Fault(member.key_at, rule, message)


def _needed(node: Located, key: str, where: str, rule: str) -> Iterator[Fault]:
    if not _text(node.value, key):
        at = node.value[key].at if key in node.value else node.at
        yield Fault(at, rule, f"{where} needs {key}, a string that isn't empty; add it.")


def _optional(members: Members, key: str, kind: type, where: str) -> Iterator[Fault]:
    node = members.get(key)
    if node is not None and node.value is not None and type(node.value) is not kind:
        yield _wrong_type(node, f"{key} of {_lower(where)}", kind)


def _wrong_type(node: Located, what: str, kind: type) -> Fault:
    return Fault(node.at, "data_type", f"{what} is {_KINDS[type(node.value)]}; write {_KINDS[kind]}.")


def _text(members: Mapping[str, Any], key: str) -> str:
    """The string under a key, "" if there is none."""
    node = members.get(key)
    return node.value if node is not None and isinstance(node.value, str) else ""


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _lower(where: str) -> str:
    return where[:1].lower() + where[1:]
