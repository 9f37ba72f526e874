"""Whatever goes wrong, the answer has the contract's status and shape."""

import asyncio
import json
import logging
from http.client import HTTPConnection
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.inference.conftest import CLASSIC, V1, Service
from tests.fakes import Silence, Step
from tests.waiting import PATIENCE, until
from tunery import api, errors
from tunery.api.stream import while_connected
from tunery.messages import Generate, Started

INFERENCE_PATHS = [
    CLASSIC.format("talk", "chat/completions"),
    CLASSIC.format("write", "completions"),
    V1.format("chat/completions"),
    V1.format("completions"),
]


def raises(error: Exception) -> Any:
    return lambda request: [Started(id=request.id, prompt_tokens=1), error]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (
            errors.ContextOverflow("Too long.", param="messages"),
            400,
            "invalid_request_error",
            "context_length_exceeded",
        ),
        (errors.EngineUnavailable(), 503, "server_error", "DeploymentNotReady"),
        (errors.TooManyRequests(), 429, "rate_limit_error", "tooManyRequests"),
        (errors.TuneryError(), 500, "server_error", "internalFailure"),
    ],
)
def test_an_error_of_the_engine_before_its_first_word_is_the_status(
    service: Service, error: errors.TuneryError, status: int, kind: str, code: str, stream: bool
) -> None:
    service.plays(raises(error))
    response = service.chat(stream=stream)
    assert response.status_code == status
    assert response.json() == {
        "error": {"message": error.message, "type": kind, "param": error.param, "code": code},
    }


def test_a_fault_of_ours_is_told_without_its_details_and_logged(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.plays(raises(ZeroDivisionError("a secret")))
    response = service.chat()
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "secret" not in response.text
    assert response.headers["connection"] == "close"
    (record,) = [record for record in caplog.records if record.name == "tunery.api"]
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "POST /openai/deployments/talk/chat/completions broke: ZeroDivisionError"


def test_an_engine_that_stops_halfway_is_no_answer(service: Service) -> None:
    service.plays(lambda request: [Started(id=request.id, prompt_tokens=1)])
    for stream in (False, True):
        response = service.chat(stream=stream)
        assert response.status_code == 503
        assert "went away" in response.json()["error"]["message"]


@pytest.mark.parametrize("path", INFERENCE_PATHS)
def test_a_wrong_key_is_refused_on_every_path(service: Service, path: str) -> None:
    response = service.http.post(path, json={}, headers={"api-key": "wrong"})
    assert response.status_code == 401
    assert response.json()["error"]["message"].startswith("Access denied")


def test_the_key_as_bearer_works_on_v1(service: Service) -> None:
    body = {"model": "write", "prompt": "Hello?"}
    headers = {"authorization": f"Bearer {service.key}"}
    response = httpx.post(service.url + V1.format("completions"), json=body, headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/openai/deployments/talk/chat/completions",
        "/openai/deployments/talk/chat/completions?api-version=yesterday",
        "/openai/deployments/talk/chat?api-version=2024-10-21",
        "/",
    ],
)
def test_a_wrong_path_or_version_is_resource_not_found(service: Service, path: str) -> None:
    response = service.http.post(path, json={})
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "404"
    assert response.json()["error"]["message"] == "Resource not found"


def test_a_dated_version_on_v1_is_refused_with_the_reason(service: Service) -> None:
    response = service.http.post(V1.format("completions") + "?api-version=2024-10-21", json={"model": "write"})
    assert response.status_code == 400
    assert "API version not supported" in response.json()["error"]["message"]


def test_a_wrong_method_says_which_is_right(service: Service) -> None:
    response = service.http.get(CLASSIC.format("talk", "chat/completions"))
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert response.json()["error"]["message"] == "GET isn't possible here; this path takes POST."


@pytest.mark.parametrize("path", INFERENCE_PATHS)
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"model": "talk", "messages": 1}', b"[" * 9999]
)
def test_a_body_that_cannot_be_read_is_400_in_openais_shape(service: Service, path: str, body: bytes) -> None:
    response = service.http.post(path, content=body)
    assert response.status_code == 400
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_a_body_over_the_limit_is_413(service: Service) -> None:
    response = service.http.post(INFERENCE_PATHS[0], content=b" " * (service.app.state.settings.max_body_bytes + 1))
    assert response.status_code == 413


@settings(suppress_health_check=list(HealthCheck), max_examples=60, deadline=None)
@given(path=st.sampled_from(INFERENCE_PATHS), body=st.binary(max_size=60))
def test_no_bytes_break_the_server(service: Service, path: str, body: bytes) -> None:
    assert service.http.post(path, content=body).status_code == 400


def test_a_query_parameter_of_the_wrong_type_has_the_contracts_shape() -> None:
    async def answer(limit: int) -> int:
        return limit

    app = FastAPI()
    app.get("/openai/files")(answer)
    api.install(app)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return await client.get("/openai/files?limit=many")

    response = asyncio.run(ask())
    assert response.status_code == 400
    assert response.json()["error"]["target"] == "limit"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_before_the_first_word_cancels_the_request(service: Service, stream: bool) -> None:
    def script(request: Generate) -> list[Step]:
        return [Started(id=request.id, prompt_tokens=1), Silence.FOREVER]

    engine = service.plays(script)
    body = json.dumps({"messages": [{"role": "user", "content": "Hello?"}], "stream": stream})
    leaving = HTTPConnection(service.url.removeprefix("http://"))
    leaving.request("POST", CLASSIC.format("talk", "chat/completions"), body, {"api-key": service.key})
    until(lambda: engine.requests)
    leaving.close()
    assert engine.cancelled.wait(PATIENCE)
    assert service.chat("loading").status_code == 503


def test_work_outlived_by_its_client_returns_its_result() -> None:
    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def work() -> str:
        return "done"

    assert asyncio.run(while_connected(receive, work())) == "done"
