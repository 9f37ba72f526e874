"""Deployments on the data plane: what a key's holder may do as ARM's callers do, and what both are told of an end."""

import datetime

import pytest

from tests.api.test_control import settled
from tests.api.test_jobs import BASE, tune
from tests.live import VERSION, LiveService
from tunery.uptime import LONGEST_TICK


def put(service: LiveService, name: str, model: str, sku: dict | None = None) -> tuple[int, dict]:
    wanted = {"model": model, "sku": sku or {}}
    response = service.http("PUT", f"/openai/deployments/{name}", json=wanted)
    return response.status_code, response.json()


def test_a_key_deploys_under_a_name_of_its_holder_s(service: LiveService) -> None:
    status, made = put(service, "by-key", BASE, {"name": "globalstandard", "capacity": 3})
    assert (status, made["id"], made["sku"]) == (201, "by-key", {"name": "GlobalStandard", "capacity": 3})
    settled(service, "by-key")
    status, again = put(service, "by-key", BASE, {"name": "Standard"})
    assert (status, again["sku"]["name"], again["status"]) == (200, "Standard", "succeeded")


@pytest.mark.parametrize(
    ("wanted", "target"),
    [
        ({"model": "unknown"}, "model"),
        ({"model": BASE, "sku": {"name": "Gold"}}, "sku.name"),
        ({"model": BASE, "sku": {"capacity": 10**7}}, "sku.capacity"),
        ({"model": BASE, "quantization": "int4"}, "quantization"),
        ({"sku": {}}, "model"),
    ],
)
def test_a_put_that_can_t_be_names_the_parameter_of_its_own_body(
    service: LiveService, wanted: dict, target: str
) -> None:
    response = service.http("PUT", "/openai/deployments/refused", json=wanted)
    assert (response.status_code, response.json()["error"]["target"]) == (400, target)


def test_a_key_declares_int8_weights_and_is_told_what_they_change(service: LiveService) -> None:
    made = service.http("PUT", "/openai/deployments/key-int8", json={"model": BASE, "quantization": "int8"})
    assert (made.status_code, made.json()["quantization"]) == (201, "int8")
    settled(service, "key-int8")
    assert service.http("GET", "/openai/deployments/key-int8").json()["quantization_change"] == {
        "places": 41,
        "same_token": 40,
        "mean_logprob_difference": 0.125,
        "largest_logprob_difference": 0.5,
    }


def test_a_second_deployment_of_a_custom_model_is_refused_by_name(service: LiveService) -> None:
    model = tune(service).fine_tuned_model
    assert put(service, "first", model)[0] == 201
    status, refused = put(service, "second", model)
    assert (status, refused["error"]["code"]) == (409, "DuplicatedDeploymentForSameModel")
    assert "'first'" in refused["error"]["message"]


def test_a_key_pauses_and_resumes(service: LiveService) -> None:
    put(service, "breaks", BASE)
    settled(service, "breaks")
    assert service.http("POST", "/openai/deployments/breaks/pause").json()["paused"] is True
    assert service.arm("GET", "/deployments/breaks").json()["properties"]["deploymentState"] == "Paused"
    assert service.http("POST", "/openai/deployments/breaks/resume").json()["paused"] is False
    assert service.http("POST", "/openai/deployments/nothing/pause").status_code == 404


def test_both_planes_tell_last_use_and_the_expected_end(service: LiveService) -> None:
    put(service, "ends", tune(service).fine_tuned_model)
    settled(service, "ends")
    client = service.azure()
    client.chat.completions.create(model="ends", messages=[{"role": "user", "content": "x"}])
    shown = service.http("GET", "/openai/deployments/ends").json()
    properties = service.arm("GET", "/deployments/ends").json()["properties"]
    end = shown["expected_deletion"]
    assert end["reason"] == properties["expectedDeletion"]["reason"] == "idle"
    assert 14 * 86_400 < end["running_seconds"] <= 15 * 86_400 + 300
    told = datetime.datetime.fromisoformat(properties["expectedDeletion"]["at"]).timestamp()
    assert abs(told - end["at"]) <= LONGEST_TICK  # a tick of the service's clock may lie between the two
    assert datetime.datetime.fromisoformat(properties["lastUsedAt"]).timestamp() == shown["last_used_at"]


def test_both_planes_tell_the_use_of_each_day(service: LiveService) -> None:
    put(service, "daily", BASE)
    settled(service, "daily")
    client = service.azure()
    client.chat.completions.create(model="daily", messages=[{"role": "user", "content": "x"}])
    days = service.http("GET", "/openai/deployments/daily/usages").json()["data"]
    [day] = [one for one in days if one["requests"]]  # at midnight there are two, one of them idle
    assert (day["requests"], day["prompt_tokens"], day["completion_tokens"]) == (1, 3, 1)
    told_by_arm = service.arm("GET", "/deployments/daily/dailyUsages").json()["value"]
    [arm] = [one for one in told_by_arm if one["day"] == day["day"]]
    told = {usage["name"]["value"]: usage["currentValue"] for usage in arm["usages"]}
    assert (arm["day"], told["Requests"], told["PromptTokens"]) == (day["day"], 1, 3)
    none = {"api-version": VERSION, "days": "0"}
    refused = service.http("GET", "/openai/deployments/daily/usages", params=none)
    assert (refused.status_code, refused.json()["error"]["target"]) == (400, "days")


def test_an_account_s_limits_are_told_on_the_data_plane(service: LiveService) -> None:
    told = {usage["name"]: usage for usage in service.http("GET", "/openai/usages").json()["data"]}
    assert told["max_deployments"]["limit"] == service.rooms.settings.max_deployments
    before = told["max_deployments"]["used"]
    put(service, "one-more", BASE)
    told = {usage["name"]: usage for usage in service.http("GET", "/openai/usages").json()["data"]}
    assert told["max_deployments"]["used"] == before + 1
