"""Estimates through the wire, with a real process over a tiny base; no mock stands between request and plan."""

from collections.abc import Iterator

import pytest

from tests.live import LiveService, live_service
from tests.models.tiny import write_base
from tests.test_files import jsonl
from tunery.catalog import BUNDLED

BASE = "gpt-35-turbo-0613"
CLASSIC, V1 = "/openai/fine_tuning/estimate", "/openai/v1/fine_tuning/estimate"
FIELDS = {
    "object", "model", "base", "training_examples", "validation_examples", "epochs", "batch_size", "steps",
    "trained_tokens", "total_tokens", "shared_tokens", "computed_tokens", "seconds", "memory_bytes",
    "memory_available_bytes", "fits", "notes",
}  # fmt: skip
MARGIN = {"seconds_low", "seconds_high"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    home = tmp_path_factory.mktemp("home")
    write_base(home / "models" / BUNDLED)
    with live_service(home) as running:
        yield running


def upload(service: LiveService, content: bytes) -> str:
    client = service.azure()
    file = client.files.create(file=("train.jsonl", content), purpose="fine-tune")
    client.files.wait_for_processing(file.id, poll_interval=0.1)
    return file.id


def test_both_families_answer_alike_but_for_their_nulls(service: LiveService) -> None:
    file = upload(service, jsonl(30))
    body = {"model": BASE, "training_file": file, "validation_file": file, "seed": 1}
    body["hyperparameters"] = {"n_epochs": 2, "batch_size": 4}
    classic = service.http("POST", CLASSIC, json=body)
    v1 = service.http("POST", V1, json=body, params={})
    assert [classic.status_code, v1.status_code] == [200, 200], (classic.text, v1.text)
    assert set(classic.json()) == FIELDS
    assert set(v1.json()) == FIELDS | MARGIN
    found = v1.json()
    assert (found["object"], found["model"], found["base"]) == ("fine_tuning.estimate", BASE, BUNDLED)
    assert (found["training_examples"], found["validation_examples"]) == (30, 30)
    assert (found["epochs"], found["batch_size"], found["steps"]) == (2, 4, 16)
    assert found["total_tokens"] == found["shared_tokens"] + found["computed_tokens"]
    assert found["shared_tokens"] > 0 < found["trained_tokens"]
    assert found["fits"] is True
    assert found["seconds"] > 0
    assert "first guess" in found["notes"][0]
    for name in FIELDS - {"seconds", "memory_available_bytes"}:
        assert classic.json()[name] == found[name], name


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": "no-such-model"}, "model"),
        ({"training_file": "file-missing"}, "training_file"),
        ({"training_file": 5}, "training_file"),
        ({"hyperparameters": {"n_epochs": "many"}}, "hyperparameters.n_epochs"),
        ({"method": {"type": "magic"}}, "method.type"),
        ({"seed": "x"}, "seed"),
    ],
)
def test_a_bad_request_gets_the_errors_of_a_create(service: LiveService, change: dict, param: str) -> None:
    body = {"model": BASE, "training_file": upload(service, jsonl()), **change}
    for path, query in (("", {"params": {"api-version": "2024-10-21"}}), ("/v1", {"params": {}})):
        asked = service.http("POST", f"/openai{path}/fine_tuning/estimate", json=body, **query)
        created = service.http("POST", f"/openai{path}/fine_tuning/jobs", json=body, **query)
        assert asked.status_code == created.status_code == 400
        assert asked.json() == created.json()
        assert asked.json()["error"]["param"] == param


def test_without_a_key_nothing_is_estimated(service: LiveService) -> None:
    assert service.http("POST", CLASSIC, json={}, headers={}).status_code == 401


def test_an_example_that_can_t_be_trained_is_named(service: LiveService) -> None:
    long = b'{"messages": [{"role": "user", "content": "%s"}, {"role": "assistant", "content": "x"}]}\n' % (
        b"q z " * 4000
    )
    refused = service.http(
        "POST", V1, json={"model": BASE, "training_file": upload(service, jsonl() + long)}, params={}
    )
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "training_file"
    assert "Line 13" in refused.json()["error"]["message"]
