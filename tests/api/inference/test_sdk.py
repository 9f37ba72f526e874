"""The openai SDK, unmodified, as AzureOpenAI and against /openai/v1/."""

import asyncio
from collections.abc import Iterator

import openai
import pytest

from tests.api.inference.conftest import Service
from tests.fakes import piece, says
from tunery.errors import EngineUnavailable
from tunery.messages import ToolCall

Client = openai.AzureOpenAI | openai.OpenAI
HELLO = [{"role": "user", "content": "Hello?"}]


@pytest.fixture(params=["classic", "v1"])
def client(request: pytest.FixtureRequest, service: Service) -> Iterator[Client]:
    made: Client
    if request.param == "classic":
        made = openai.AzureOpenAI(
            azure_endpoint=service.url, api_key=service.key, api_version="2024-02-01", max_retries=0
        )
    else:
        made = openai.OpenAI(base_url=f"{service.url}/openai/v1/", api_key=service.key, max_retries=0)
    with made:
        yield made


def test_chat(client: Client) -> None:
    answer = client.chat.completions.create(model="talk", messages=HELLO)
    assert answer.choices[0].message.content == "Hello there."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 6
    assert answer._request_id


def test_streamed_chat(client: Client) -> None:
    stream = client.chat.completions.create(
        model="talk", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "Hello there."
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3


def test_the_sdks_own_accumulator_reads_a_stream_with_calls_and_logprobs(client: Client, service: Service) -> None:
    service.plays(says("Let me see", finish="tool_calls", calls=[ToolCall(name="weather", arguments="{}")]))
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    with client.chat.completions.stream(model="talk", messages=HELLO, tools=tools, logprobs=True) as stream:
        answer = stream.get_final_completion()
    (choice,) = answer.choices
    assert choice.message.content == "Let me see"
    assert choice.message.tool_calls is not None
    assert choice.message.tool_calls[0].function.name == "weather"
    assert choice.logprobs is not None
    assert [token.token for token in choice.logprobs.content or []] == ["Let me see"]


def test_completions(client: Client) -> None:
    answer = client.completions.create(model="write", prompt="Say", logprobs=1, echo=True)
    assert answer.choices[0].text == "SayHello there."
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.text_offset == [0, 3, 8, 14]


def test_streamed_completions(client: Client) -> None:
    stream = client.completions.create(model="write", prompt=["a", "b"], stream=True)
    said = {0: "", 1: ""}
    for chunk in stream:
        said[chunk.choices[0].index] += chunk.choices[0].text
    assert said == {0: "Hello there.", 1: "Hello there."}


def test_an_unknown_deployment_is_not_found(client: Client) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="nowhere", messages=HELLO)
    assert raised.value.code == "DeploymentNotFound"


def test_a_wrong_parameter_is_a_bad_request_that_names_it(client: Client) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model="talk", messages=HELLO, temperature=3)
    assert raised.value.param == "temperature"
    assert raised.value.type == "invalid_request_error"


def test_a_wrong_key_is_an_authentication_error(client: Client) -> None:
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").chat.completions.create(model="talk", messages=HELLO)


def test_an_error_halfway_through_a_stream_is_raised_with_its_sentence(client: Client, service: Service) -> None:
    service.plays(lambda request: [piece(request, 0, "Hel"), EngineUnavailable("It broke.")])
    with pytest.raises(openai.APIError, match="It broke"):
        list(client.chat.completions.create(model="talk", messages=HELLO, stream=True))


def test_a_deployment_given_at_construction_answers_whatever_the_model_says(service: Service) -> None:
    with openai.AzureOpenAI(
        azure_endpoint=service.url, azure_deployment="talk", api_key=service.key, api_version="2024-10-21"
    ) as client:
        answer = client.chat.completions.create(model="anything", messages=HELLO)
    assert answer.model == "gpt-35-turbo-0613.ft-talk"


def test_many_requests_at_once_keep_their_answers_apart(service: Service) -> None:
    service.plays(lambda request: says((request.messages or [{}])[0]["content"])(request))

    async def ask(client: openai.AsyncOpenAI, text: str, stream: bool) -> str:
        messages = [{"role": "user", "content": text}]
        if not stream:
            answer = await client.chat.completions.create(model="talk", messages=messages)
            return answer.choices[0].message.content or ""
        chunks = await client.chat.completions.create(model="talk", messages=messages, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{service.url}/openai/v1/", api_key=service.key) as client:
            return await asyncio.gather(*(ask(client, str(number), number % 2 == 0) for number in range(40)))

    assert asyncio.run(ask_all()) == [str(number) for number in range(40)]
