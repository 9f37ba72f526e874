"""Server-sent events: their order and shape, that they add up to the whole answer, and what happens when they break."""

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.inference.conftest import CLASSIC, Service
from tests.fakes import Step, piece, says
from tests.waiting import PATIENCE
from tunery.api.stream import event
from tunery.errors import EngineUnavailable
from tunery.messages import Done, Generate, Piece, Started, ToolCall

CALLS = [ToolCall(name="weather", arguments="{}"), ToolCall(index=1, name="time", arguments='{"a": 1}')]


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The data of a stream that ended well."""
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.split("\n\n")
    assert blocks.pop() == ""
    assert blocks.pop() == "data: [DONE]"
    assert all(block.startswith("data: ") for block in blocks)
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


def test_a_chat_stream_begins_with_the_role_and_ends_with_the_reason(service: Service) -> None:
    chunks = events(service.chat(stream=True))
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]
        for delta, reason in [
            ({"role": "assistant", "content": "", "refusal": None}, None),
            ({"content": "Hello"}, None),
            ({"content": " there"}, None),
            ({"content": "."}, None),
            ({}, "stop"),
        ]
    ]
    assert {(chunk["object"], chunk["model"]) for chunk in chunks} == {
        ("chat.completion.chunk", "gpt-35-turbo-0613.ft-talk")
    }
    assert len({(chunk["id"], chunk["created"], chunk["system_fingerprint"]) for chunk in chunks}) == 1
    assert chunks[0]["id"].startswith("chatcmpl-")
    assert all("usage" not in chunk for chunk in chunks)


def test_a_completion_stream_has_the_shape_of_completions(service: Service) -> None:
    chunks = events(service.complete(prompt="Say", stream=True, logprobs=1))
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Hello", " there", ".", ""]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    offsets = [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks[:-1]]
    assert offsets == [[0], [5], [11]]


@pytest.mark.parametrize("operation", ["chat", "complete"])
def test_usage_comes_last_and_only_when_asked_for(service: Service, operation: str) -> None:
    chunks = events(getattr(service, operation)(stream=True, stream_options={"include_usage": True}))
    assert all(chunk["choices"] for chunk in chunks[:-1])
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 6


def test_streamed_calls_are_numbered(service: Service) -> None:
    service.plays(says(finish="tool_calls", calls=CALLS))
    tools = [{"type": "function", "function": {"name": "weather"}}]
    chunks = events(service.chat(stream=True, tools=tools))
    calls = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert [(call["index"], call["function"]["name"], call["type"]) for call in calls] == [
        (0, "weather", "function"),
        (1, "time", "function"),
    ]
    assert len({call["id"] for call in calls}) == 2
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_a_call_is_told_by_id_and_name_first_then_by_pieces_of_its_arguments(service: Service) -> None:
    parts = [ToolCall(name="weather"), ToolCall(arguments='{"a"'), ToolCall(arguments=": 1}")]
    service.plays(says(finish="tool_calls", calls=parts))
    chunks = events(service.chat(stream=True, tools=[{"type": "function", "function": {"name": "weather"}}]))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    (first,), *rest = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
    assert first.pop("id").startswith("call_")
    assert first == {"index": 0, "type": "function", "function": {"name": "weather", "arguments": ""}}
    assert rest == [
        [{"index": 0, "function": {"arguments": '{"a"'}}],
        [{"index": 0, "function": {"arguments": ": 1}"}}],
    ]


def test_streamed_calls_to_functions_are_one_function_call(service: Service) -> None:
    parts = [ToolCall(name="weather"), ToolCall(arguments='{"a"'), ToolCall(arguments=": 1}")]
    service.plays(says(finish="tool_calls", calls=parts))
    chunks = events(service.chat(stream=True, functions=[{"name": "weather"}]))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert [delta["function_call"] for delta in deltas if "function_call" in delta] == [
        {"name": "weather", "arguments": ""},
        {"arguments": '{"a"'},
        {"arguments": ": 1}"},
    ]
    assert chunks[-1]["choices"][0]["finish_reason"] == "function_call"


def test_an_error_halfway_is_the_last_event(service: Service) -> None:
    def script(request: Generate) -> list[Step]:
        return [Started(id=request.id, prompt_tokens=1), piece(request, 0, "Hel"), EngineUnavailable("It broke.")]

    service.plays(script)
    response = service.chat(stream=True)
    assert response.status_code == 200
    *said, last, nothing = response.text.split("\n\n")
    assert len(said) == 2
    assert json.loads(last.removeprefix("data: "))["error"] == {
        "message": "It broke.",
        "type": "server_error",
        "param": None,
        "code": "DeploymentNotReady",
    }
    assert nothing == ""


def test_a_fault_of_ours_halfway_is_told_without_its_details(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.plays(lambda request: [piece(request, 0, "Hel"), KeyError("a secret")])
    response = service.chat(stream=True)
    assert '"error"' in response.text
    assert "secret" not in response.text
    assert "[DONE]" not in response.text
    assert [record.name for record in caplog.records if record.exc_info] == ["tunery.api.stream"]


def endless(request: Generate) -> Iterator[Step]:
    yield Started(id=request.id, prompt_tokens=1)
    while True:
        yield piece(request, 0, "word " * 200)


def test_a_client_that_leaves_cancels_the_request(service: Service) -> None:
    engine = service.plays(endless)
    body = {"messages": [{"role": "user", "content": "Hello?"}], "stream": True}
    with service.http.stream("POST", CLASSIC.format("talk", "chat/completions"), json=body) as response:
        arriving = response.iter_raw()  # kept: an iterator that is dropped closes the connection
        next(arriving)
        assert not engine.cancelled.is_set()
    assert engine.cancelled.wait(PATIENCE)


def test_a_reader_that_stops_reading_stops_the_answer(service: Service) -> None:
    engine = service.plays(endless)
    body = {"messages": [{"role": "user", "content": "Hello?"}], "stream": True}
    with service.http.stream("POST", CLASSIC.format("talk", "chat/completions"), json=body) as response:
        arriving = response.iter_raw()
        next(arriving)
        given = -1
        # What the sockets take before they are full is the kernel's business; that it ends is ours.
        while given != engine.given:
            given = engine.given
            assert given * 1000 < 50_000_000
            engine.cancelled.wait(0.5)
    assert engine.cancelled.wait(PATIENCE)


def test_no_character_splits_an_event_for_clients_that_count_more_than_newlines_as_line_ends() -> None:
    text = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\nh\ri"
    line = event({"text": text}).decode()
    assert len(line.splitlines()) == 2
    assert json.loads(line.removeprefix("data: ")) == {"text": text}


TEXTS = st.lists(st.lists(st.text(max_size=4), max_size=5), min_size=1, max_size=4)
SHUFFLES = st.randoms(use_true_random=False)


@settings(suppress_health_check=list(HealthCheck), max_examples=60, deadline=None)
@given(texts=TEXTS, shuffle=SHUFFLES, logprobs=st.booleans())
def test_the_stream_adds_up_to_the_whole_answer(
    service: Service, texts: list[list[str]], shuffle: Any, logprobs: bool
) -> None:
    order = [index for index, said in enumerate(texts) for _ in [*said, "end"]]
    shuffle.shuffle(order)

    def script(request: Generate) -> Iterator[Step]:
        left = [iter(said) for said in texts]
        for index in order:
            text = next(left[index], None)
            if text is None:
                yield Piece(id=request.id, index=index, finish_reason="length")
            else:
                yield piece(request, index, text)
        yield Done(id=request.id, prompt_tokens=1, completion_tokens=len(order))

    service.plays(script)
    options = {"logprobs": True, "top_logprobs": 1} if logprobs else {}
    whole = service.chat(n=len(texts), **options).json()["choices"]
    said, tokens = defaultdict(str), defaultdict(list)
    for chunk in events(service.chat(n=len(texts), stream=True, **options)):
        (choice,) = chunk["choices"]
        said[choice["index"]] += choice["delta"].get("content", "")
        tokens[choice["index"]] += (choice["logprobs"] or {"content": []})["content"]
    assert [choice["message"]["content"] for choice in whole] == [said[index] for index in range(len(texts))]
    assert [(choice["logprobs"] or {"content": []})["content"] for choice in whole] == [
        tokens[index] for index in range(len(texts))
    ]

    options = {"logprobs": 2} if logprobs else {}
    whole = service.complete(n=len(texts), **options).json()["choices"]
    said, offsets = defaultdict(str), defaultdict(list)
    for chunk in events(service.complete(n=len(texts), stream=True, **options)):
        (choice,) = chunk["choices"]
        said[choice["index"]] += choice["text"]
        offsets[choice["index"]] += (choice["logprobs"] or {"text_offset": []})["text_offset"]
    assert [choice["text"] for choice in whole] == [said[index] for index in range(len(texts))]
    if logprobs:
        assert [choice["logprobs"]["text_offset"] for choice in whole] == [offsets[i] for i in range(len(texts))]
