"""Rate limits on the wire, as the SDK's back-off reads them. The deployment `limited` has one unit."""

import time
from collections.abc import Iterator

import httpx
import msgspec
import openai
import pytest

from tests.api.inference.conftest import Service
from tests.fake_training import FakeClock
from tests.fakes import Silence, Step, piece, says
from tests.waiting import PATIENCE
from tunery.errors import EngineUnavailable
from tunery.messages import Done, Generate, Started
from tunery.throttle import Throttle

HELLO = [{"role": "user", "content": "Hello?"}]


@pytest.fixture
def clock(service: Service) -> Iterator[FakeClock]:
    """The limits' clock, which stands still."""
    clock, kept = FakeClock(), service.app.state.throttle
    service.app.state.throttle = Throttle(service.app.state.settings, clock)
    yield clock
    service.app.state.throttle = kept


@pytest.fixture
def client(service: Service) -> Iterator[openai.AzureOpenAI]:
    with openai.AzureOpenAI(azure_endpoint=service.url, api_key=service.key, api_version="2024-10-21") as client:
        yield client


def remaining(service: Service, **body: object) -> int:
    """Tokens left once this request has taken its own."""
    return int(service.chat("limited", **body).headers["x-ratelimit-remaining-tokens"])


def test_the_seventh_request_of_a_minute_is_a_429_that_says_when_to_come_back(
    service: Service, clock: FakeClock
) -> None:
    for left in range(5, -1, -1):
        assert service.chat("limited").headers["x-ratelimit-remaining-requests"] == str(left)
    response = service.chat("limited")
    assert response.status_code == 429
    assert response.headers["retry-after"] == "10"
    assert response.headers["retry-after-ms"] == "10000"
    assert response.headers["x-ratelimit-limit-requests"] == "6"
    assert response.headers["x-ratelimit-remaining-requests"] == "0"
    assert response.headers["x-ratelimit-limit-tokens"] == "1000"
    error = response.json()["error"]
    assert error["code"] == "429"
    assert "call rate limit of 6 a minute" in error["message"]
    assert "Please retry after 10 seconds" in error["message"]


def test_the_sdk_waits_as_long_as_it_is_told_and_then_gets_its_answer(service: Service, clock: FakeClock) -> None:
    refused_at: list[float] = []

    def note(response: httpx.Response) -> None:
        if response.status_code == 429:
            refused_at.append(time.monotonic())

    # The limits' clock stands still until the first refusal, however long it takes to get there.
    going = lambda: clock() + (time.monotonic() - refused_at[0] if refused_at else 0.0)  # noqa: E731
    fast = msgspec.structs.replace(service.app.state.settings, tokens_per_unit=6000)
    service.app.state.throttle = Throttle(fast, going)
    service.plays(lambda request: [Done(id=request.id, prompt_tokens=3, completion_tokens=6000)])
    service.chat("limited")  # leaves a debt, which is paid at 100 tokens a second
    service.plays(says("Hello"))
    with (
        httpx.Client(event_hooks={"response": [note]}) as watched,
        openai.AzureOpenAI(
            azure_endpoint=service.url, api_key=service.key, api_version="2024-10-21", http_client=watched
        ) as client,
    ):
        answer = client.chat.completions.with_raw_response.create(model="limited", messages=HELLO, max_tokens=16)
    assert answer.retries_taken == 1
    assert answer.parse().choices[0].message.content == "Hello"


def test_without_retries_it_is_a_rate_limit_error(
    service: Service, client: openai.AzureOpenAI, clock: FakeClock
) -> None:
    patient = client.with_options(max_retries=0)
    patient.chat.completions.create(model="limited", messages=HELLO, max_tokens=900)
    for _ in range(5):
        patient.chat.completions.create(model="limited", messages=HELLO)
    with pytest.raises(openai.RateLimitError) as refused:
        patient.chat.completions.create(model="limited", messages=HELLO)
    assert refused.value.code == "429"


def test_what_an_answer_didn_t_use_is_there_for_the_next_one(service: Service, clock: FakeClock) -> None:
    first = remaining(service, max_tokens=500)
    assert 450 < first < 500
    # Three tokens of prompt, three of answer.
    assert remaining(service, max_tokens=500) == first - 6


def test_a_stream_is_settled_at_its_end_and_when_its_reader_leaves(service: Service, clock: FakeClock) -> None:
    first = remaining(service, max_tokens=500, stream=True)

    def endless(request: Generate) -> Iterator[Step]:
        yield Started(id=request.id, prompt_tokens=3)
        yield piece(request, 0, "word")
        yield Silence.FOREVER

    generator = service.plays(endless)
    body = {"messages": HELLO, "stream": True, "max_tokens": 500}
    url = "/openai/deployments/limited/chat/completions?api-version=2024-10-21"
    with service.http.stream("POST", url, json=body) as response:
        next(response.iter_lines())
    assert generator.cancelled.wait(PATIENCE)
    service.plays(says("Hello"))
    assert remaining(service, max_tokens=500) == first - 6 - 4


def test_an_engine_that_fails_costs_a_request_and_no_tokens(service: Service, clock: FakeClock) -> None:
    service.plays(lambda _request: [EngineUnavailable()])
    assert service.chat("limited", max_tokens=900).status_code == 503
    service.plays(says("Hello"))
    response = service.chat("limited", max_tokens=900)
    assert response.status_code == 200
    assert response.headers["x-ratelimit-remaining-requests"] == "4"


def test_a_deployment_without_capacity_has_no_limit_and_no_headers(service: Service, clock: FakeClock) -> None:
    for _ in range(20):
        response = service.chat("talk")
        assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("x-ratelimit")]
