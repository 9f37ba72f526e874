"""Bounds of every parameter; each refusal names the parameter and what it may be."""

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes import serving
from tunery.api.chat import chat_order
from tunery.api.completion import completion_order
from tunery.api.sampling import Sampling
from tunery.errors import InvalidRequest
from tunery.messages import Calls, Generate, JsonForm

HELLO = [{"role": "user", "content": "Hello?"}]
FUNCTION = {"name": "weather", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": FUNCTION}
PLACE = serving("both", context_length=100)
ASSISTANT_CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


def chat(**body: Any) -> Generate:
    return chat_order(msgspec.json.encode({"messages": HELLO, **body}), PLACE, "1").request


def complete(**body: Any) -> Generate:
    return completion_order(msgspec.json.encode(body), PLACE, "1").request


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


SHARED = [
    ({"temperature": -0.1}, "temperature", "0 to 2"),
    ({"temperature": 2.1}, "temperature", "0 to 2"),
    ({"temperature": "hot"}, "temperature", "float"),
    ({"top_p": 1.01}, "top_p", "0 to 1"),
    ({"n": 0}, "n", "1 to 128"),
    ({"n": 129}, "n", "1 to 128"),
    ({"n": 1.5}, "n", "int"),
    ({"n": 10**40}, "n", "1 to 128"),
    ({"presence_penalty": 2.5}, "presence_penalty", "-2 to 2"),
    ({"frequency_penalty": -2.5}, "frequency_penalty", "-2 to 2"),
    ({"seed": 2**63}, "seed", "-9223372036854775808 to 9223372036854775807"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "up to 4"),
    ({"stop": ""}, "stop", "1 character or more"),
    ({"stop": [1]}, "stop[0]", "str"),
    ({"max_tokens": -1}, "max_tokens", "to 100"),
    ({"max_tokens": 101}, "max_tokens", "to 100"),
    ({"logit_bias": {"fifty": 1}}, "logit_bias", "token ids"),
    ({"logit_bias": {"-5": 1}}, "logit_bias", "token ids"),
    ({"logit_bias": {"5": 101}}, "logit_bias", "-100 to 100"),
    ({"logit_bias": {"99999999999": 1}}, "logit_bias", "token ids"),
    ({"logit_bias": {str(key): 1 for key in range(1025)}}, "logit_bias", "1024"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream is true"),
    ({"top_k": 4}, "top_k", "Unrecognized request argument supplied: top_k"),
]

CHAT = [
    ({"messages": []}, "messages", "1 to 2048"),
    ({"messages": HELLO * 2049}, "messages", "1 to 2048"),
    ({"messages": "Hello"}, "messages", "array"),
    ({"messages": [{"content": "a"}]}, "role", "role"),
    ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role", "assistant"),
    ({"messages": [*HELLO, {"role": "user"}]}, "messages[1].content", "string or text parts"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "string or text parts"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "str"),
    ({"messages": [{"role": "assistant"}]}, "messages[0].content", "tool_calls"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].tool_call_id", "the call that it answers"),
    ({"messages": [{"role": "function", "content": "a"}]}, "messages[0].name", "name the function"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
        "messages[0].content[0]",
        "text only",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text", "has no text"),
    ({"max_tokens": 0}, "max_tokens", "1 to 100"),
    ({"max_completion_tokens": 0}, "max_completion_tokens", "1 to 100"),
    ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens", "only one"),
    ({"logprobs": 3}, "logprobs", "bool"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "0 to 20"),
    ({"top_logprobs": 2}, "top_logprobs", "logprobs is true"),
    ({"tools": [TOOL] * 129}, "tools", "1 to 128"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "'function'"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "1 to 64 letters"),
    (
        {"tools": [{"type": "function", "function": {"name": "a", "parameters": nested(70)}}]},
        "tools[0].function.parameters",
        "60 levels",
    ),
    ({"tool_choice": "required"}, "tool_choice", "when there are tools"),
    ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice", "name a function"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": 1}}}, "tool_choice", "name a function"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "time"}}}, "tool_choice", "'time'"),
    ({"tools": [TOOL], "tool_choice": "maybe"}, "tool_choice", "'required'"),
    ({"tools": [TOOL], "function_call": {"name": "weather"}}, "function_call", "when there are functions"),
    ({"functions": [FUNCTION], "function_call": {"name": "time"}}, "function_call", "'time'"),
    ({"functions": [FUNCTION], "function_call": "required"}, "function_call", "'none', 'auto', or name"),
    ({"functions": []}, "functions", "1 to 128"),
    ({"functions": [FUNCTION], "tools": [TOOL]}, "functions", "only tools"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "name and a schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "name", "name"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}},
        "response_format.json_schema.name",
        "1 to 64 letters",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": nested(70)}}},
        "response_format.json_schema",
        "60 levels",
    ),
    ({"response_format": {"type": "xml"}}, "response_format", "'text'"),
    ({"response_format": {}}, "type", "type"),
    ({"data_sources": [{"type": "azure_search"}]}, "data_sources", "isn't supported"),
    ({"modalities": ["text", "audio"]}, "modalities", "text only"),
    ({"audio": {"voice": "alloy", "format": "wav"}}, "audio", "text only"),
    ({"prompt": "Hello"}, "prompt", "Unrecognized"),
]

COMPLETIONS = [
    ({"prompt": []}, "prompt", "no empty list"),
    ({"prompt": [[]]}, "prompt", "no empty list"),
    ({"prompt": ["a", 1]}, "prompt", "no mixture"),
    ({"prompt": [[1], "a"]}, "prompt", "no mixture"),
    ({"prompt": [-1]}, "prompt", "0 to 2147483647"),
    ({"prompt": [[2**31]]}, "prompt", "0 to 2147483647"),
    ({"prompt": {"text": "a"}}, "prompt", "str"),
    ({"prompt": [1] * 101}, "prompt", "101 token ids"),
    ({"prompt": [[1], [1] * 101]}, "prompt", "101 token ids"),
    ({"prompt": ["a"] * 2049}, "prompt", "2048 prompts"),
    ({"prompt": ["a"] * 600, "n": 4}, "prompt", "2048"),
    ({"logprobs": 6}, "logprobs", "0 to 5"),
    ({"logprobs": True}, "logprobs", "int"),
    ({"best_of": 21}, "best_of", "0 to 20"),
    ({"best_of": 2, "n": 3}, "best_of", "less than n"),
    ({"best_of": 2, "stream": True}, "best_of", "can't stream"),
    ({"suffix": "the end"}, "suffix", "isn't supported"),
    ({"echo": 1}, "echo", "bool"),
    ({"messages": HELLO}, "messages", "Unrecognized"),
]


@pytest.mark.parametrize(("body", "param", "cue"), [*SHARED, *CHAT])
def test_chat_refuses_and_says_what_may_be(body: dict[str, Any], param: str, cue: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat(**body)
    assert refused.value.param == param
    assert cue in refused.value.message


@pytest.mark.parametrize(("body", "param", "cue"), [*SHARED, *COMPLETIONS])
def test_completions_refuse_and_say_what_may_be(body: dict[str, Any], param: str, cue: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        complete(**body)
    assert refused.value.param == param
    assert cue in refused.value.message


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"NaN", b'{"temperature": NaN}', b'{"temperature": 1e999}', b"\xff"]
)
def test_what_is_not_a_json_object_of_finite_numbers_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        chat_order(body, PLACE, "1")
    with pytest.raises(InvalidRequest):
        completion_order(body, PLACE, "1")


def test_nulls_are_defaults() -> None:
    nothing = dict.fromkeys(set(Sampling.__struct_fields__) | {"logprobs", "user"})
    left_out, given_null = chat(), chat(**nothing, tools=None, response_format=None)
    assert msgspec.structs.replace(given_null, id=left_out.id) == left_out
    left_out, given_null = complete(), complete(**nothing, suffix=None, echo=None, best_of=None, prompt=None)
    assert msgspec.structs.replace(given_null, id=left_out.id) == left_out


def test_the_bounds_themselves_are_allowed() -> None:
    for temperature, top_p, n, penalty, seed in [(0, 0, 1, -2, -(2**63)), (2, 1, 128, 2, 2**63 - 1)]:
        asked = chat(temperature=temperature, top_p=top_p, n=n, presence_penalty=penalty, seed=seed, max_tokens=100)
        assert (asked.temperature, asked.top_p, asked.n, asked.best_of) == (temperature, top_p, n, n)
        assert (asked.presence_penalty, asked.seed, asked.max_tokens) == (penalty, seed, 100)


def test_arguments_that_change_no_answer_are_ignored() -> None:
    chat(user="me", store=True, metadata={"a": "b"}, reasoning_effort="low", verbosity="low", service_tier="auto")
    chat(modalities=["text"], prompt_cache_key="k", safety_identifier="s", prediction=None, web_search_options={})
    complete(user="me", metadata={"a": "b"})


def test_several_unknown_arguments_are_all_named() -> None:
    with pytest.raises(InvalidRequest, match="arguments supplied: min_p, top_k") as refused:
        chat(min_p=1, top_k=1)
    assert refused.value.code == "unknown_parameter"


def test_max_completion_tokens_is_max_tokens() -> None:
    assert chat(max_completion_tokens=7).max_tokens == 7
    assert chat().max_tokens is None


def test_logit_bias_is_keyed_by_token() -> None:
    assert chat(logit_bias={"50256": -100, "7": 1.5}).logit_bias == {50256: -100, 7: 1.5}


def test_chat_logprobs_count_the_alternatives() -> None:
    assert chat().logprobs is None
    assert chat(logprobs=False).logprobs is None
    assert chat(logprobs=True).logprobs == 0
    assert chat(logprobs=True, top_logprobs=20).logprobs == 20


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    assert chat(messages=[{"role": "user", "content": parts}]).messages == [{"role": "user", "content": "Hello"}]


def test_a_conversation_with_tools_keeps_what_the_template_needs() -> None:
    answer = {"role": "assistant", "content": None, "refusal": None, "audio": None, "tool_calls": [ASSISTANT_CALL]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "sunny", "name": None}
    assert chat(messages=[*HELLO, answer, result], tools=[TOOL]).messages == [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [ASSISTANT_CALL]},
        {"role": "tool", "content": "sunny", "tool_call_id": "call_1"},
    ]


def test_a_refusal_that_is_sent_back_is_the_assistants_text() -> None:
    (message,) = chat(messages=[{"role": "assistant", "content": None, "refusal": "No."}]).messages or []
    assert message == {"role": "assistant", "content": "No."}


def test_tools_reach_the_template_as_they_were_written() -> None:
    written = {"function": {"parameters": {"z": 1, "a": 2}, "name": "weather", "strict": False}, "type": "function"}
    (tool,) = chat(tools=[written]).tools or []
    assert msgspec.json.encode(tool) == msgspec.json.encode(written)


@pytest.mark.parametrize("body", [{"tools": [TOOL], "tool_choice": "none"}, {"tools": []}, {"tool_choice": "auto"}])
def test_without_tools_to_choose_from_the_engine_gets_none(body: dict[str, Any]) -> None:
    assert chat(**body).tools is None


@pytest.mark.parametrize(
    ("body", "calls"),
    [
        ({}, Calls()),
        ({"tool_choice": "auto", "parallel_tool_calls": False}, Calls(parallel=False)),
        ({"tool_choice": "required"}, Calls(demanded=True)),
        (
            {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
            Calls(demanded=True, names=["weather"], parallel=False),
        ),
    ],
)
def test_tool_choice_says_which_calls_there_may_be(body: dict[str, Any], calls: Calls) -> None:
    assert chat(tools=[TOOL], **body).calls == calls


def test_function_call_says_so_too_and_there_is_one_at_most() -> None:
    assert chat(functions=[FUNCTION]).calls == Calls(parallel=False, param="functions")
    assert chat(functions=[FUNCTION], function_call={"name": "weather"}).calls == Calls(
        demanded=True, names=["weather"], parallel=False, param="functions"
    )


@pytest.mark.parametrize(
    ("wanted", "form"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, JsonForm(schema={"type": "object"}, strict=False)),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "array"}}},
            JsonForm(schema={"type": "array"}, strict=False),
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": {"$ref": "#"}}},
            JsonForm(schema={"$ref": "#"}, strict=True),
        ),
    ],
)
def test_response_format_is_the_form_of_the_answer(wanted: dict[str, Any], form: JsonForm | None) -> None:
    assert chat(response_format=wanted).json_form == form


def test_functions_become_tools_and_function_call_none_drops_them() -> None:
    assert chat(functions=[FUNCTION]).tools == [TOOL]
    assert chat(functions=[FUNCTION], function_call="none").tools is None


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        (None, [""]),
        ("<|endoftext|>", [""]),
        ("Hello", ["Hello"]),
        (["a", "<|endoftext|>"], ["a", ""]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
def test_prompts_have_four_forms_and_none_is_the_start_of_a_document(prompt: Any, prompts: list[Any]) -> None:
    assert complete(prompt=prompt).prompts == prompts


def test_completions_have_16_tokens_unless_asked() -> None:
    assert complete().max_tokens == 16
    assert complete(max_tokens=0, echo=True).max_tokens == 0


def test_best_of_is_n_unless_asked() -> None:
    assert complete(n=3).best_of == 3
    assert complete(n=3, best_of=0).best_of == 3
    assert complete(n=2, best_of=5).best_of == 5
    assert complete(n=2, best_of=2, stream=True).best_of == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
# The first text that hypothesis ever draws on a machine takes it seconds.
unhurried = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
CHAT_KEYS = sorted({key for body, _, _ in [*SHARED, *CHAT] for key in body} | {"user", "parallel_tool_calls", "stream"})
COMPLETION_KEYS = sorted({key for body, _, _ in [*SHARED, *COMPLETIONS] for key in body} | {"user", "stream"})
VALUES = [value for body, _, _ in [*SHARED, *CHAT, *COMPLETIONS] for value in body.values()]
PLAUSIBLE = st.sampled_from([value for value in VALUES if len(msgspec.json.encode(value)) < 500])


@unhurried
@given(st.dictionaries(st.sampled_from(CHAT_KEYS), JSON | PLAUSIBLE, max_size=4))
def test_any_chat_body_is_taken_or_refused_by_name(body: dict[str, Any]) -> None:
    try:
        request = chat(**body)
    except InvalidRequest as refused:
        assert refused.message
    else:
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=Generate) == request


@unhurried
@given(st.dictionaries(st.sampled_from(COMPLETION_KEYS), JSON | PLAUSIBLE, max_size=4))
def test_any_completion_body_is_taken_or_refused_by_name(body: dict[str, Any]) -> None:
    try:
        request = complete(**body)
    except InvalidRequest as refused:
        assert refused.message
    else:
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=Generate) == request
