"""The bundled base in an engine of its own behind the real HTTP edge, asked by the unmodified SDK."""

import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from fastapi import FastAPI

from tests.api.inference.conftest import served
from tests.serving.conftest import BUNDLED
from tests.serving.given import base_in
from tunery.deployments import Serving
from tunery.serving import commands
from tunery.serving.pool import EnginePool
from tunery.weights import Weights

pytestmark = pytest.mark.model

ASK = [{"role": "user", "content": "What is the weather in Köln? Answer with emoji 🌳."}]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"enum": ["Köln", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS, "strict": True}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "place", "schema": PARAMETERS, "strict": True}}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    home: Path = tmp_path_factory.mktemp("real")
    base = base_in(BUNDLED, name="smollm2", context_length=2048)
    place = Serving(
        name="real",
        model="smollm2",
        weights=Weights("smollm2"),
        adapter=None,
        kinds=frozenset({"chat", "completion"}),
        context_length=2048,
    )

    @contextlib.asynccontextmanager
    async def with_engine(app: FastAPI) -> AsyncIterator[None]:
        command = commands.embedded(threads=1, device="cpu")
        app.state.generator = EnginePool({"smollm2": base}.get, home / "engines", command, silence_seconds=120)
        yield
        await app.state.generator.close()

    with (
        served(home, {"real": place}, with_engine) as service,
        openai.OpenAI(base_url=f"{service.url}/openai/v1/", api_key=service.key, max_retries=0, timeout=120) as client,
    ):
        yield client


def streamed(client: openai.OpenAI, **asked: Any) -> dict[int, tuple[str, list[tuple[str, str]], str]]:
    """Text, calls and finish_reason of each choice, out of a stream's deltas."""
    texts, reasons = defaultdict(str), dict[int, str]()
    calls: defaultdict[int, dict[int, tuple[str, str]]] = defaultdict(dict)
    for chunk in client.chat.completions.create(model="real", stream=True, **asked):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            for call in choice.delta.tool_calls or []:
                name, arguments = calls[choice.index].get(call.index, (call.function.name, ""))
                calls[choice.index][call.index] = name, arguments + call.function.arguments
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index, "")
    return {index: (texts[index], list(calls[index].values()), reasons[index]) for index in sorted(reasons)}


@pytest.mark.parametrize(
    "asked",
    [
        {"max_tokens": 30, "temperature": 0},
        {"max_tokens": 40, "temperature": 1.2, "seed": 7, "n": 3, "stop": ["the", "\n"]},
        {"max_tokens": 60, "temperature": 1, "seed": 5, "n": 2, "tools": [WEATHER], "tool_choice": "required"},
        {"max_tokens": 60, "temperature": 1, "seed": 5, "response_format": SCHEMA},
        {"max_tokens": 12, "temperature": 0, "tools": [WEATHER], "tool_choice": "required"},
        {"max_tokens": 40, "temperature": 1, "seed": 2, "tools": [WEATHER]},
    ],
)
def test_streamed_pieces_join_to_the_whole_answer(client: openai.OpenAI, asked: dict[str, Any]) -> None:
    pieces = streamed(client, messages=ASK, **asked)
    answer = client.chat.completions.create(model="real", messages=ASK, **asked)
    assert pieces == {
        choice.index: (
            choice.message.content or "",
            [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or []],
            choice.finish_reason,
        )
        for choice in answer.choices
    }


def test_a_named_function_is_called_by_its_schema(client: openai.OpenAI) -> None:
    wanted = {"type": "function", "function": {"name": "weather"}}
    answer = client.chat.completions.create(
        model="real", messages=ASK, tools=[WEATHER], tool_choice=wanted, temperature=0, max_tokens=80
    )
    (call,) = answer.choices[0].message.tool_calls or []
    arguments = json.loads(call.function.arguments)
    assert (arguments["city"] in ("Köln", "Rome"), arguments["days"] in range(1, 10)) == (True, True)
    assert answer.choices[0].finish_reason == "tool_calls"


def test_a_json_object_is_one(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="real", messages=ASK, response_format={"type": "json_object"}, temperature=0, max_tokens=300
    )
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)
    else:
        assert (answer.choices[0].message.content or "").startswith("{")


def test_a_hostile_schema_is_a_bad_request(client: openai.OpenAI) -> None:
    schema = {"type": "integer", "multipleOf": 99_730_007}
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="real",
            messages=ASK,
            response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
        )
    assert (refused.value.param, refused.value.type) == ("response_format", "invalid_request_error")


def test_more_than_the_context_is_refused_with_the_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="2048") as refused:
        client.chat.completions.create(model="real", messages=ASK * 200, max_tokens=100)
    assert refused.value.code == "context_length_exceeded"


def test_a_prompt_seen_before_counts_as_cached(client: openai.OpenAI) -> None:
    usages = [client.completions.create(model="real", prompt=[5] * 200, max_tokens=2).usage for _ in range(2)]
    assert usages[1] is not None
    assert usages[1].prompt_tokens_details is not None
    assert (usages[1].prompt_tokens_details.cached_tokens or 0) >= 128
