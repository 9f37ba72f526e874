"""Routes and raw bodies of chat and completions, as contract.md 3 writes them."""

import pytest

from tests.api.inference.conftest import CLASSIC, V1, Service
from tests.fakes import says
from tunery.messages import Piece, TokenLogprob, ToolCall
from tunery.weights import Weights

CALLS = [ToolCall(name="weather", arguments='{"city": "Rome"}'), ToolCall(index=1, name="time", arguments="{}")]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


def test_chat_answers_in_the_contracts_shape(service: Service) -> None:
    service.plays(says("Hello", " there", cached_tokens=2))
    response = service.chat()
    assert response.status_code == 200
    assert response.headers["apim-request-id"]
    body = response.json()
    assert body.pop("id").startswith("chatcmpl-")
    assert isinstance(body.pop("created"), int)
    assert body.pop("system_fingerprint").startswith("fp_")
    assert body == {
        "object": "chat.completion",
        "model": "gpt-35-turbo-0613.ft-talk",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello there", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 2},
        },
    }


def test_a_completion_answers_in_the_contracts_shape(service: Service) -> None:
    body = service.complete(prompt="Say hello:").json()
    assert body.pop("id").startswith("cmpl-")
    assert isinstance(body.pop("created"), int)
    assert body.pop("system_fingerprint").startswith("fp_")
    assert body == {
        "object": "text_completion",
        "model": "gpt-35-turbo-0613.ft-write",
        "choices": [{"index": 0, "text": "Hello there.", "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 3,
            "total_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


def test_the_engine_is_asked_for_the_deployments_adapter_in_the_callers_name(service: Service) -> None:
    service.chat(temperature=0.5, seed=7, stop="\n", max_tokens=9)
    asked = service.asked()
    assert service.app.state.generator.weights == [Weights("tiny")]
    assert asked.adapter is not None
    assert asked.adapter.digest == "digest-of-talk"
    assert asked.owner == str(service.app.state.accounts.first().id)
    assert asked.messages == [{"role": "user", "content": "Hello?"}]
    assert (asked.temperature, asked.seed, asked.stop, asked.max_tokens) == (0.5, 7, ["\n"], 9)


def test_a_classic_body_may_name_any_model(service: Service) -> None:
    assert service.chat(model="something-else").json()["model"] == "gpt-35-turbo-0613.ft-talk"


def test_v1_takes_the_deployment_from_the_body(service: Service) -> None:
    body = {"model": "talk", "messages": [{"role": "user", "content": "Hello?"}]}
    assert service.http.post(V1.format("chat/completions"), json=body).json()["model"] == "gpt-35-turbo-0613.ft-talk"
    body = {"model": "write", "prompt": "Hello?"}
    assert service.http.post(V1.format("completions"), json=body).json()["model"] == "gpt-35-turbo-0613.ft-write"


@pytest.mark.parametrize("model", [{}, {"model": None}, {"model": ""}, {"model": 5}])
def test_v1_without_a_model_says_what_is_missing(service: Service, model: dict[str, object]) -> None:
    response = service.http.post(V1.format("chat/completions"), json={"messages": [], **model})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "model"


def test_the_fingerprint_belongs_to_the_weights(service: Service) -> None:
    prints = [service.chat(name).json()["system_fingerprint"] for name in ("talk", "talk", "both", "int8")]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


@pytest.mark.parametrize(
    ("deployment", "operation", "status", "code"),
    [
        ("nowhere", "chat/completions", 404, "DeploymentNotFound"),
        ("nowhere", "completions", 404, "DeploymentNotFound"),
        ("loading", "chat/completions", 503, "DeploymentNotReady"),
        ("write", "chat/completions", 400, "OperationNotSupported"),
        ("talk", "completions", 400, "OperationNotSupported"),
    ],
)
def test_a_deployment_that_cannot_answer_says_so(
    service: Service, deployment: str, operation: str, status: int, code: str
) -> None:
    body = {"messages": [{"role": "user", "content": "Hello?"}]} if "chat" in operation else {"prompt": "Hello?"}
    response = service.http.post(CLASSIC.format(deployment, operation), json=body)
    assert response.status_code == status
    assert response.json()["error"]["code"] == code


def test_choices_of_several_prompts_are_numbered_prompt_by_prompt(service: Service) -> None:
    choices = service.complete(prompt=["a", "b"], n=2, echo=True).json()["choices"]
    assert [(choice["index"], choice["text"][0]) for choice in choices] == [(0, "a"), (1, "a"), (2, "b"), (3, "b")]


def test_chat_logprobs_name_token_bytes_and_alternatives(service: Service) -> None:
    service.plays(says("Hé"))
    (choice,) = service.chat(logprobs=True, top_logprobs=2).json()["choices"]
    assert choice["logprobs"] == {
        "content": [
            {
                "token": "Hé",
                "logprob": -0.5,
                "bytes": [72, 195, 169],
                "top_logprobs": [
                    {"token": "Hé", "logprob": -0.5, "bytes": [72, 195, 169]},
                    {"token": "other", "logprob": -1.5, "bytes": list(b"other")},
                ],
            }
        ],
        "refusal": None,
    }


def test_completion_logprobs_are_four_lists_with_offsets_into_the_text(service: Service) -> None:
    service.plays(says("é", "b"))
    (choice,) = service.complete(prompt="Say", echo=True, logprobs=2).json()["choices"]
    assert choice["text"] == "Sayéb"
    assert choice["logprobs"] == {
        "tokens": ["Say", "é", "b"],
        "token_logprobs": [None, -0.5, -0.5],
        "top_logprobs": [None, {"é": -0.5, "other": -1.5}, {"b": -0.5, "other": -1.5}],
        "text_offset": [0, 3, 4],
    }


def test_logprobs_0_of_a_completion_gives_the_chosen_tokens_alone(service: Service) -> None:
    logprobs = service.complete(prompt="Say", logprobs=0).json()["choices"][0]["logprobs"]
    assert logprobs["token_logprobs"] == [-0.5, -0.5, -0.5]
    assert logprobs["top_logprobs"] is None


def test_tokens_that_are_part_of_a_character_are_spelt_in_bytes(service: Service) -> None:
    halves = [
        TokenLogprob(token="\ufffd", token_bytes=b"\xc3", logprob=-0.1, top=[("x", b"x", -3.0)]),
        TokenLogprob(token="\ufffd", token_bytes=b"\xa9", logprob=float("-inf"), top=[("\ufffd", b"\xa8", -0.2)]),
    ]
    service.plays(
        lambda request: [
            Piece(id=request.id, index=0, text="é", logprobs=halves, finish_reason="stop"),
            *list(says()(request))[-1:],
        ]
    )
    assert service.complete(prompt="Say", logprobs=1).json()["choices"][0]["logprobs"] == {
        "tokens": ["bytes:\\xc3", "bytes:\\xa9"],
        "token_logprobs": [-0.1, -9999.0],
        "top_logprobs": [{"x": -3.0, "bytes:\\xc3": -0.1}, {"bytes:\\xa8": -0.2, "bytes:\\xa9": -9999.0}],
        "text_offset": [0, 0],
    }


def test_calls_are_told_as_tool_calls_with_ids(service: Service) -> None:
    service.plays(says(finish="tool_calls", calls=CALLS))
    (choice,) = service.chat(tools=TOOLS).json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    calls = choice["message"]["tool_calls"]
    assert len({call.pop("id") for call in calls}) == 2
    assert calls == [
        {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}},
        {"type": "function", "function": {"name": "time", "arguments": "{}"}},
    ]
    assert service.asked().tools == TOOLS


def test_requests_with_functions_are_answered_with_a_function_call(service: Service) -> None:
    service.plays(says(finish="tool_calls", calls=CALLS[:1]))
    function = {"parameters": {"type": "object"}, "name": "weather"}
    (choice,) = service.chat(functions=[function], function_call="auto").json()["choices"]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == {"name": "weather", "arguments": '{"city": "Rome"}'}
    assert "tool_calls" not in choice["message"]
    assert service.asked().tools == [{"type": "function", "function": function}]


def test_no_content_filter_is_claimed(service: Service) -> None:
    assert "filter" not in service.chat().text
    assert "filter" not in service.chat(stream=True).text
