"""The guide from its first page to its last, with the clients it names, against a live service and the real model.

Upload, create, poll, events, results, deploy with `requests`, ask, tune again from the tuned model, clean up: once with
chat data and once with completion data.
"""

import csv
import io
import json
import time
from typing import Any

import openai
import pytest
import requests

from tests.journeys.conftest import Service, wait_for
from tests.waiting import PATIENCE
from tunery.sample import SYSTEM, Example, generate, jsonl

CHAT_BASE, COMPLETION_BASE = "gpt-35-turbo-0613", "babbage-002"
DATA = generate()


def chat_file() -> bytes:
    return jsonl(DATA.training[:64])


def completion_file(examples: list[Example]) -> bytes:
    lines = [json.dumps({"prompt": f"{e.question}\nTicket:", "completion": f" {e.answer}\n"}) for e in examples]
    return ("\n".join(lines) + "\n").encode()


def upload(client: openai.AzureOpenAI, name: str, content: bytes) -> str:
    file = client.files.create(file=(name, content), purpose="fine-tune")
    checked = client.files.wait_for_processing(file.id, poll_interval=0.2)
    assert checked.status == "processed", checked.status_details
    return file.id


class Arm:
    """The guide's deployment snippet."""

    def __init__(self, env: dict[str, str]) -> None:
        self._env = env

    def request(self, method: str, deployment: str, **more: Any) -> requests.Response:
        env = self._env
        url = (
            f"{env['TUNERY_ARM_ENDPOINT']}/subscriptions/{env['TUNERY_SUBSCRIPTION_ID']}/resourceGroups/"
            f"{env['TUNERY_RESOURCE_GROUP']}/providers/Microsoft.CognitiveServices/accounts/{env['TUNERY_ACCOUNT']}"
            f"/deployments/{deployment}"
        )
        headers = {"Authorization": f"Bearer {env['TUNERY_ARM_TOKEN']}", "Content-Type": "application/json"}
        return requests.request(
            method, url, params={"api-version": "2023-05-01"}, headers=headers,
            verify=env["REQUESTS_CA_BUNDLE"], timeout=PATIENCE, **more,
        )  # fmt: skip

    def deploy(self, name: str, model: str, *, quantization: str | None = None) -> dict[str, Any]:
        """New or known; as it is shown once it is settled."""
        data = json.dumps(
            {
                "sku": {"name": "standard"},
                "properties": {
                    "model": {"format": "OpenAI", "name": model, "version": "1"},
                    "quantization": quantization,
                },
            }
        )
        response = self.request("PUT", name, data=data)
        assert response.ok, response.text
        shown: dict[str, Any] = response.json()
        while shown["properties"]["provisioningState"] == "Creating":
            time.sleep(0.2)
            shown = self.request("GET", name).json()
        return shown


def results(client: openai.AzureOpenAI, job: Any) -> list[dict[str, str]]:
    file = client.files.retrieve(job.result_files[0])
    assert file.filename == "results.csv"
    return list(csv.DictReader(io.StringIO(client.files.content(file.id).read().decode())))


@pytest.fixture(scope="module")
def tuned(service: Service) -> Any:
    """A chat model tuned on the demo's task."""
    client = service.azure()
    job = client.fine_tuning.jobs.create(
        model=CHAT_BASE,
        training_file=upload(client, "training_set.jsonl", chat_file()),
        validation_file=upload(client, "validation_set.jsonl", jsonl(DATA.validation[:12])),
        hyperparameters={"n_epochs": 2, "batch_size": 8},
        suffix="tickets",
        seed=7,
    )
    done = wait_for(job.id, client)
    assert done.status == "succeeded", (done.error, service.log())
    return done


def test_loss_falls_and_the_job_tells_what_it_did(service: Service, tuned: Any) -> None:
    client = service.azure()
    rows = results(client, tuned)
    assert [row["step"] for row in rows] == [str(step) for step in range(1, 17)]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"]) / 3
    ends = [row for row in rows if row["full_valid_loss"]]
    assert [row["step"] for row in ends] == ["8", "16"]
    assert float(ends[1]["full_valid_loss"]) < float(ends[0]["full_valid_loss"])
    assert all(row["valid_loss"] and row["valid_mean_token_accuracy"] for row in rows)
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(tuned.id))
    assert [checkpoint.step_number for checkpoint in checkpoints] == [16, 8]
    assert checkpoints[1].fine_tuned_model_checkpoint == f"{tuned.fine_tuned_model}:ckpt-step-8"
    assert tuned.trained_tokens > 64 * 2 * 5
    messages = [event.message for event in client.fine_tuning.jobs.list_events(tuned.id, limit=100)]
    assert any(message.startswith("Step 10: training loss=") for message in messages)


def test_the_deployed_model_answers_in_the_form_it_was_taught_and_the_base_does_not(
    service: Service, tuned: Any
) -> None:
    arm, client = Arm(service.environment()), service.azure()
    assert arm.deploy("tickets", tuned.fine_tuned_model)["properties"]["provisioningState"] == "Succeeded"
    assert arm.deploy("plain", CHAT_BASE)["properties"]["provisioningState"] == "Succeeded"

    def ask(deployment: str) -> list[str]:
        return [
            client.chat.completions.create(model=deployment, messages=example.messages(), temperature=0, max_tokens=16)
            .choices[0].message.content.strip()
            for example in DATA.held_out[:6]
        ]  # fmt: skip

    wanted = [example.answer for example in DATA.held_out[:6]]
    before, after = ask("plain"), ask("tickets")
    assert not any(answer == want for answer, want in zip(before, wanted, strict=True))
    # 16 steps teach the form; the demo's 60 teach the task.
    assert sum(answer.split(" ")[-1] == want.split(" ")[-1] for answer, want in zip(after, wanted, strict=True)) >= 4


def test_streamed_pieces_joined_are_the_unstreamed_answer(service: Service, tuned: Any) -> None:
    client = service.azure()
    question: dict[str, Any] = {
        "model": "tickets", "messages": DATA.held_out[0].messages(), "temperature": 0, "max_tokens": 16,
    }  # fmt: skip
    whole = client.chat.completions.create(**question)
    stream = client.chat.completions.create(**question, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    joined = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert joined == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert whole.choices[0].finish_reason == "stop"
    assert whole.model == tuned.fine_tuned_model


def test_int8_weights_answer_from_a_process_of_their_own_and_change_nothing_of_a_base_that_has_no_more_bits(
    service: Service, tuned: Any
) -> None:
    arm, client = Arm(service.environment()), service.azure()
    question: Any = {"messages": DATA.held_out[0].messages(), "temperature": 0, "max_tokens": 16}
    assert not service.children("tunery.serving", "--quantization")
    exact = client.chat.completions.create(model="plain", **question)
    made = arm.deploy("plain-int8", CHAT_BASE, quantization="int8")["properties"]
    assert made["provisioningState"] == "Succeeded", made
    [quantised] = service.children("tunery.serving", "--quantization int8")
    assert set(service.children("tunery.serving")) > {quantised}
    change = made["quantizationChange"]  # none: the bundled base's weights lie in 8 bits or fewer as they are
    assert change["sameToken"] == change["places"] > 0
    assert change["meanLogprobDifference"] <= change["largestLogprobDifference"] < 0.01
    rounded = client.chat.completions.create(model="plain-int8", **question)
    assert rounded.choices[0].message.content
    assert rounded.system_fingerprint != exact.system_fingerprint
    assert client.chat.completions.create(model="plain", **question).choices == exact.choices

    shown = arm.deploy("tickets", tuned.fine_tuned_model, quantization="int8")["properties"]
    assert (shown["provisioningState"], shown["quantization"]) == ("Succeeded", "int8")
    assert shown["quantizationChange"]["largestLogprobDifference"] < 0.01
    answer = client.chat.completions.create(model="tickets", **question).choices[0].message.content
    assert (answer or "").split(" ")[-1] == DATA.held_out[0].answer.split(" ")[-1]
    assert service.children("tunery.serving", "--quantization int8") == [quantised]
    arm.request("DELETE", "plain-int8")


def test_a_second_deployment_of_the_model_and_its_deletion_are_refused_while_it_is_deployed(
    service: Service, tuned: Any
) -> None:
    arm, client = Arm(service.environment()), service.azure()
    data = {"properties": {"model": {"name": tuned.fine_tuned_model, "format": "OpenAI", "version": "1"}}}
    assert arm.request("PUT", "another", json=data).json()["error"]["code"] == "DuplicatedDeploymentForSameModel"
    with pytest.raises(openai.ConflictError):
        client.models.delete(tuned.fine_tuned_model)


def test_tuning_goes_on_from_the_tuned_model(service: Service, tuned: Any) -> None:
    client = service.azure()
    job = client.fine_tuning.jobs.create(
        model=tuned.fine_tuned_model,
        training_file=upload(client, "more.jsonl", jsonl(DATA.training[64:96])),
        hyperparameters={"n_epochs": 1, "batch_size": 8},
        suffix="second",
    )
    done = wait_for(job.id, client)
    assert done.status == "succeeded", done.error
    first, again = results(client, tuned), results(client, done)
    assert float(again[0]["train_loss"]) < float(first[0]["train_loss"]) / 3
    extra = client.models.retrieve(done.fine_tuned_model).model_extra or {}
    assert extra["parent"] == tuned.fine_tuned_model


def test_clean_up_in_the_guide_s_order(service: Service, tuned: Any) -> None:
    arm, client = Arm(service.environment()), service.azure()
    for name in ("tickets", "plain"):
        assert arm.request("DELETE", name).status_code == 200
        assert arm.request("GET", name).status_code == 404
    assert client.models.delete(tuned.fine_tuned_model).deleted
    for file in client.files.list():
        if file.filename in ("training_set.jsonl", "validation_set.jsonl", "results.csv"):
            assert client.files.delete(file.id).deleted
    assert not {"training_set.jsonl", "validation_set.jsonl"} & {file.filename for file in client.files.list()}


def test_the_same_with_completion_data(service: Service) -> None:
    arm, client = Arm(service.environment()), service.azure()
    job = client.fine_tuning.jobs.create(
        model=COMPLETION_BASE,
        training_file=upload(client, "completion.jsonl", completion_file(DATA.training[:64])),
        validation_file=upload(client, "completion_valid.jsonl", completion_file(DATA.validation[:10])),
        hyperparameters={"n_epochs": 2, "batch_size": 8},
    )
    done = wait_for(job.id, client)
    assert done.status == "succeeded", done.error
    rows = results(client, done)
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"]) / 2
    assert arm.deploy("completer", done.fine_tuned_model)["properties"]["provisioningState"] == "Succeeded"
    example = DATA.held_out[0]
    prompt = f"{example.question}\nTicket:"
    answer = client.completions.create(model="completer", prompt=prompt, temperature=0, max_tokens=20, stop="\n")
    assert answer.choices[0].text.strip().split(" ")[-1] == example.answer.split(" ")[-1]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens > 5
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="completer", messages=[{"role": "user", "content": "x"}])
    assert refused.value.code == "OperationNotSupported"
    arm.request("DELETE", "completer")


def test_chat_works_through_plain_openai_and_the_v1_path(service: Service) -> None:
    env = service.environment()
    Arm(env).deploy("base", CHAT_BASE)
    client = openai.OpenAI(base_url=f"{env['AZURE_OPENAI_ENDPOINT']}/openai/v1/", api_key=env["AZURE_OPENAI_API_KEY"])
    answer = client.chat.completions.create(
        model="base",
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        temperature=0,
        max_tokens=12,
    )
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert SYSTEM not in (answer.choices[0].message.content or "")
