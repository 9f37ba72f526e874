"""The fast types and the slow explanations say the same of every line; what is sound passes, what is broken doesn't."""

import json
import re
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.examples.given import assistant, call, chat, user
from tunery.examples.explain import explain
from tunery.examples.formats import Format
from tunery.examples.located import Located, Reader
from tunery.examples.typed import TypedReader

READERS: dict[Format, TypedReader] = {name: TypedReader(name) for name in ("chat", "completion", "preference")}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ['"', "\\", 'a\\"', "é\\", '""']
)
names = st.sampled_from(["add", "say", 'a"b'])
contents = texts | st.lists(texts.map(lambda text: {"type": "text", "text": text}), min_size=1, max_size=3)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
arguments = st.dictionaries(names, json_values, max_size=2).map(json.dumps)
functions = st.fixed_dictionaries(
    {"name": names},
    optional={
        "description": texts | st.none(),
        "parameters": st.dictionaries(texts, json_values, max_size=3),
        "strict": st.booleans(),
    },
)
nulls = st.dictionaries(
    st.sampled_from(["weight", "tool_calls", "tool_call_id", "function_call"]), st.none(), max_size=2
)


@st.composite
def exchanges(draw: st.DrawFn, trained: bool = False) -> list[dict[str, Any]]:
    """Messages from a user's to an assistant's, maybe by way of a tool."""
    role = draw(st.sampled_from(["user", "user", "system", "developer"]))
    messages = [{**draw(nulls), "role": role, "content": draw(contents)}]
    match draw(st.sampled_from(["plain", "plain", "tool", "function"])):
        case "tool":
            made = call(draw(names), draw(arguments), id=f"c{draw(st.integers(0, 9))}")
            messages.append({"role": "assistant", "content": draw(contents | st.none()), "tool_calls": [made]})
            messages.append({"role": "tool", "content": draw(contents), "tool_call_id": made["id"]})
        case "function":
            made = {"name": draw(names), "arguments": draw(arguments)}
            messages.append({"role": "assistant", "function_call": made})
            messages.append({"role": "function", "content": draw(texts), "name": made["name"]})
    answer = {**draw(nulls), "role": "assistant", "content": draw(contents)}
    if draw(st.booleans()) and not trained:
        answer["weight"] = draw(st.sampled_from([0, 1, None]))
    return [*messages, answer]


@st.composite
def chats(draw: st.DrawFn) -> dict[str, Any]:
    messages = [message for exchange in draw(st.lists(exchanges(), max_size=2)) for message in exchange]
    line: dict[str, Any] = {"messages": messages + draw(exchanges(trained=True))}
    if draw(st.booleans()):
        spec = st.fixed_dictionaries({"type": st.just("function"), "function": functions})
        line["tools"] = draw(st.lists(spec, max_size=2) | st.none())
    if draw(st.booleans()):
        line["functions"] = draw(st.lists(functions, max_size=2))
    if draw(st.booleans()):
        line["parallel_tool_calls"] = draw(st.booleans() | st.none())
    return line


completions = st.fixed_dictionaries({"prompt": texts.filter(bool), "completion": texts.filter(bool)})
outputs = contents.map(lambda content: [assistant(content)])
preferences = st.fixed_dictionaries(
    {
        "input": exchanges().map(lambda messages: {"messages": [*messages, user()]}),
        "preferred_output": outputs,
        "non_preferred_output": outputs,
    }
)
sound = st.tuples(st.just("chat"), chats()) | st.tuples(st.just("completion"), completions)
sound |= st.tuples(st.just("preference"), preferences)

WORDS = [
    *("messages", "tools", "functions", "parallel_tool_calls", "prompt", "completion", "input", "preferred_output"),
    *("role", "content", "name", "weight", "tool_calls", "tool_call_id", "function_call", "type", "text", "function"),
    *("id", "arguments", "parameters", "description", "strict", "user", "assistant", "system", "tool", "other", ""),
]
VALUES: list[Any] = [
    *(None, True, 0, 1, 2, 1.0, "", "{}", "[]", "user", "tool", "c1", [], {}, [[]], user(), assistant(), call()),
    *([{"type": "text", "text": "a"}], [{"type": "image_url"}], {"name": "add", "arguments": "{}"}),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


@st.composite
def changed(draw: st.DrawFn, line: dict[str, Any]) -> dict[str, Any]:
    """The line with one thing taken out, put in or replaced."""
    line = json.loads(json.dumps(line))
    *path, key = draw(st.sampled_from([place for place in places(line) if place]))
    holder: Any = line
    for step in path:
        holder = holder[step]
    match draw(st.sampled_from(["remove", "replace", "add", "move"])):
        case "remove":
            del holder[key]
        case "replace":
            holder[key] = draw(st.sampled_from(VALUES))
        case "add" if isinstance(holder, dict):
            holder[draw(st.sampled_from(WORDS))] = draw(st.sampled_from(VALUES))
        case _ if isinstance(holder, dict):
            holder[draw(st.sampled_from(WORDS))] = holder.pop(key)
        case _:
            holder.insert(key, draw(st.sampled_from([*VALUES, *holder])))
    return line


@st.composite
def written(draw: st.DrawFn, line: Any) -> str:
    """The line as JSON text, in one of many spellings."""
    text = json.dumps(
        line, ensure_ascii=draw(st.booleans()), separators=draw(st.sampled_from([(",", ":"), (" , ", ": ")]))
    )
    if draw(st.booleans()):
        spellings = draw(st.sampled_from([{'\\"': "\\u0022"}, {"\\\\": "\\u005c"}]))
        text = re.sub(r"\\.", lambda escape: spellings.get(escape[0], escape[0]), text).replace("role", "r\\u006fle")
    return text


def is_sound(format_: Format, text: str, *, trusted: bool = False) -> bool:
    encoded = text.encode("utf-8", "surrogatepass")
    return READERS[format_].read([encoded], trusted=trusted) is not None


def assert_agreement(text: str) -> None:
    format_, faults = explain(text)
    for name in READERS:
        if is_sound(name, text):
            assert (format_, faults) == (name, [])
    if not faults:
        assert format_ is not None
        assert is_sound(format_, text, trusted=True)


@given(sound.flatmap(lambda pair: st.tuples(st.just(pair[0]), written(pair[1]))))
@settings(max_examples=80, deadline=None)
@example(("chat", chat(user("\\"), assistant('\\"'))))
@example(("chat", chat(user("\\", name="\\"), assistant("\\", weight=1))))
def test_sound_examples_pass_in_every_spelling(line: tuple[Format, str]) -> None:
    format_, text = line
    assert explain(text) == (format_, [])
    assert is_sound(format_, text, trusted=True)


@given(sound.flatmap(lambda pair: changed(pair[1])).flatmap(written))
@settings(max_examples=300, deadline=None)
@example(
    r'{"messages": [{"role": "assistant", "content": [{"text": "\u005c"}, {"type": "text", "text": "\u005c\u005c"}]}]}'
)
def test_types_and_explanations_agree_on_almost_sound_lines(text: str) -> None:
    assert_agreement(text)


@given(sound.flatmap(lambda pair: written(pair[1])), st.data())
@settings(max_examples=150, deadline=None)
def test_types_and_explanations_agree_on_damaged_text(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 20)))
    patch = data.draw(
        st.sampled_from(['"', "\\", "{", "}", "[", "]", ",", ":", "1", "\\u", "\ud800", "\x00", "é", text[:30], ""])
    )
    assert_agreement(text[:start] + patch + text[end:])


@given(sound, st.data())
@settings(max_examples=80, deadline=None)
def test_a_key_that_stands_twice_never_passes(pair: tuple[Format, dict[str, Any]], data: st.DataObject) -> None:
    format_, line = pair
    text = json.dumps(line)
    member = data.draw(st.sampled_from(members(Reader(text).read())))
    end = json.JSONDecoder().raw_decode(text, member.at)[1]
    twice = f"{text[:end]}, {text[member.key_at :]}"
    assert "duplicate_key" in {fault.rule for fault in explain(twice)[1]}
    assert not is_sound(format_, twice)


def members(value: Located) -> list[Located]:
    """All values under keys, at any depth."""
    if isinstance(value.value, dict):
        return [found for member in value.value.values() for found in [member, *members(member)]]
    return [found for item in value.value for found in members(item)] if isinstance(value.value, list) else []


CHANGES = [
    ("message_unrecognized_key", lambda message: message.update(other=1)),
    ("unrecognized_role", lambda message: message.update(role="bot")),
    ("message_missing_key", lambda message: message.pop("role")),
    ("missing_content", lambda message: message.update(content=[])),
    ("data_type", lambda message: message.update(content=7)),
    ("data_type", lambda message: message.update(content=[7])),
]


@given(chats(), st.lists(st.sampled_from(CHANGES), min_size=1, max_size=3, unique_by=id), st.data())
@settings(max_examples=80, deadline=None)
def test_every_fault_that_is_put_in_is_found(line: dict[str, Any], changes: list[Any], data: st.DataObject) -> None:
    places = data.draw(st.permutations(range(len(line["messages"]))))
    expected = []
    for place, (rule, change) in zip(places, changes, strict=False):
        change(line["messages"][place])
        expected.append(rule)
    text = json.dumps(line)
    found = [fault.rule for fault in explain(text)[1]]
    assert all(found.count(rule) >= expected.count(rule) for rule in expected)
    assert not is_sound("chat", text, trusted=True)
