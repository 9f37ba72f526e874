"""Deployments through ARM, as the guide, az and SDK pollers send them, and what the data plane makes of them."""

import openai
import pytest
import requests

from tests.api.test_jobs import BASE, tune
from tests.live import LiveService
from tests.waiting import PATIENCE, until
from tunery.catalog import BUNDLED
from tunery.errors import EngineUnavailable
from tunery.weights import Weights


def body(model: str, **sku: object) -> dict:
    return {
        "sku": {"name": "standard", "capacity": 1, **sku},
        "properties": {"model": {"format": "OpenAI", "name": model, "version": "1"}},
    }


def settled(service: LiveService, name: str) -> dict:
    return settled_at(service, f"{service.account.arm_id}/deployments/{name}")


def settled_at(service: LiveService, path: str) -> dict:
    def look() -> dict:
        return service.management("GET", path).json()

    until(lambda: look()["properties"]["provisioningState"] != "Creating", said=look)
    return look()


def deploy(service: LiveService, name: str, model: str) -> dict:
    response = service.arm("PUT", f"/deployments/{name}", json=body(model))
    assert response.status_code == 201, response.text
    return settled(service, name)


@pytest.fixture
def model(service: LiveService) -> str:
    return tune(service).fine_tuned_model


def test_put_is_201_with_a_poll_url_then_200_and_reads_back(service: LiveService, model: str) -> None:
    first = service.arm("PUT", "/deployments/put", json=body(model))
    assert first.status_code == 201
    assert first.headers["Retry-After"] == "1"
    operation = first.headers["Azure-AsyncOperation"]
    done = settled(service, "put")
    assert done["properties"]["provisioningState"] == "Succeeded"
    assert done["sku"] == {"name": "Standard", "capacity": 1}
    assert done["properties"]["model"] == {"format": "OpenAI", "name": model, "version": "1"}
    headers = {"Authorization": f"Bearer {service.token}"}
    polled = requests.get(operation, headers=headers, verify=str(service.ca), timeout=PATIENCE)
    assert polled.json()["status"] == "Succeeded"
    assert service.arm("PUT", "/deployments/put", json=body(model)).status_code == 200
    assert "put" in [found["name"] for found in service.arm("GET", "/deployments").json()["value"]]


def test_post_is_answered_like_put_and_paths_match_in_any_case(service: LiveService, model: str) -> None:
    assert service.arm("POST", "/DEPLOYMENTS/Posted", json=body(model)).status_code == 201
    settled(service, "posted")
    path = service.account.arm_id.lower().replace("resourcegroups", "RESOURCEGROUPS") + "/deployments/POSTED"
    found = requests.get(
        service.rooms.settings.tls_endpoint + path,
        params={"api-version": "2026-05-15-preview"},
        headers={"Authorization": f"Bearer {service.token}"},
        verify=str(service.ca),
        timeout=PATIENCE,
    )
    assert found.json()["name"] == "Posted"


@pytest.mark.parametrize("capacity", ["1", 1, "20"])
def test_az_s_string_and_the_sdk_s_number_are_both_a_capacity(
    service: LiveService, model: str, capacity: object
) -> None:
    response = service.arm("PUT", "/deployments/capacity", json=body(model, capacity=capacity))
    assert response.status_code == 201
    assert response.json()["sku"]["capacity"] == int(str(capacity))
    service.arm("DELETE", "/deployments/capacity")


def test_without_a_capacity_there_is_no_rate_limit_and_with_one_arm_says_which(
    service: LiveService, model: str
) -> None:
    wanted = body(model)
    del wanted["sku"]["capacity"]
    free = service.arm("PUT", "/deployments/free", json=wanted).json()
    assert free["sku"] == {"name": "Standard"} and "rateLimits" not in free["properties"]
    limited = service.arm("PATCH", "/deployments/free", json={"sku": {"name": "Standard", "capacity": 2}}).json()
    assert limited["properties"]["rateLimits"] == [
        {"key": "request", "renewalPeriod": 60, "count": 12},
        {"key": "token", "renewalPeriod": 60, "count": 2000},
    ]
    provisioned = service.arm("PATCH", "/deployments/free", json={"sku": {"name": "ProvisionedManaged"}}).json()
    assert provisioned["sku"]["capacity"] == 2 and "rateLimits" not in provisioned["properties"]


def test_a_custom_model_has_one_deployment_and_the_error_names_it(service: LiveService, model: str) -> None:
    deploy(service, "only", model)
    second = service.arm("PUT", "/deployments/second", json=body(model))
    assert second.status_code == 409
    assert second.json()["error"]["code"] == "DuplicatedDeploymentForSameModel"
    assert "only" in second.json()["error"]["message"]
    other = service.arm("PUT", "/deployments/only", json=body(BASE))
    assert other.json()["error"]["code"] == "CannotChangeDeploymentModel"


def test_a_deployed_model_can_t_be_deleted_until_its_deployment_is(service: LiveService, model: str) -> None:
    deploy(service, "holds", model)
    client = service.azure(max_retries=2)
    with pytest.raises(openai.ConflictError) as refused:
        client.models.delete(model)
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert service.arm("DELETE", "/deployments/holds").status_code == 200
    assert service.arm("DELETE", "/deployments/holds").status_code == 204
    assert client.models.delete(model).deleted


def test_patch_changes_sku_and_tags_only(service: LiveService, model: str) -> None:
    deploy(service, "patched", model)
    patched = service.arm(
        "PATCH", "/deployments/patched", json={"sku": {"name": "GlobalStandard", "capacity": "7"}, "tags": {"a": "b"}}
    )
    assert patched.json()["sku"] == {"name": "GlobalStandard", "capacity": 7}
    assert patched.json()["tags"] == {"a": "b"}
    assert service.arm("PATCH", "/deployments/none", json={}).status_code == 404


def test_a_deployment_whose_engine_refuses_is_failed_with_the_reason_and_can_be_put_again(
    service: LiveService, model: str
) -> None:
    service.engines.broken = EngineUnavailable("trainer and server differ by 0.5")
    try:
        failed = deploy(service, "broken", model)
    finally:
        service.engines.broken = None
    assert failed["properties"]["provisioningState"] == "Failed"
    assert "differ by 0.5" in failed["properties"]["error"]["message"]
    with pytest.raises(openai.APIStatusError) as unavailable:
        service.azure().chat.completions.create(model="broken", messages=[{"role": "user", "content": "x"}])
    assert unavailable.value.status_code == 503
    assert service.arm("PUT", "/deployments/broken", json=body(model)).status_code == 200
    assert settled(service, "broken")["properties"]["provisioningState"] == "Succeeded"


CHANGE = {"places": 41, "sameToken": 40, "meanLogprobDifference": 0.125, "largestLogprobDifference": 0.5}


def quantised(model: str, quantization: object) -> dict:
    wanted = body(model)
    wanted["properties"]["quantization"] = quantization
    return wanted


def test_int8_weights_are_declared_and_what_they_change_is_told(service: LiveService, model: str) -> None:
    made = service.arm("PUT", "/deployments/int8", json=quantised(model, "int8")).json()
    assert made["properties"]["quantization"] == "int8"
    shown = settled(service, "int8")["properties"]
    assert (shown["provisioningState"], shown["quantization"], shown["quantizationChange"]) == (
        "Succeeded",
        "int8",
        CHANGE,
    )
    assert shown in [one["properties"] for one in service.arm("GET", "/deployments").json()["value"]]
    service.azure().chat.completions.create(model="int8", messages=[{"role": "user", "content": "x"}])
    assert service.engines.weights[-1] == Weights(BUNDLED, "int8")


def test_other_weights_are_brought_up_anew_and_the_same_ones_are_not(service: LiveService, model: str) -> None:
    service.arm("PUT", "/deployments/turned", json=quantised(model, "int8"))
    settled(service, "turned")
    same = service.arm("PUT", "/deployments/turned", json=quantised(model, "int8")).json()["properties"]
    assert (same["provisioningState"], same["quantizationChange"]) == ("Succeeded", CHANGE)
    unknowing = service.arm("PUT", "/deployments/turned", json=body(model)).json()["properties"]
    assert (unknowing["provisioningState"], unknowing["quantization"]) == ("Succeeded", "int8")
    other = service.arm("PUT", "/deployments/turned", json=quantised(model, None)).json()["properties"]
    assert (other["provisioningState"], "quantization" in other) == ("Creating", False)
    assert "quantizationChange" not in settled(service, "turned")["properties"]
    service.azure().chat.completions.create(model="turned", messages=[{"role": "user", "content": "x"}])
    assert service.engines.weights[-1] == Weights(BUNDLED)


@pytest.mark.parametrize("quantization", ["int4", "INT8", "", "fp8", 8, True, ["int8"], {"bits": 8}])
def test_an_unknown_quantization_is_refused_where_it_stands(service: LiveService, quantization: object) -> None:
    response = service.arm("PUT", "/deployments/unknown", json=quantised(BASE, quantization))
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "BadRequest")
    assert "properties.quantization" in str(error["target"]) + error["message"]
    assert service.arm("GET", "/deployments/unknown").status_code == 404


def test_a_deployment_answers_and_its_use_is_noted(service: LiveService, model: str) -> None:
    deploy(service, "chat", model)
    answer = service.azure().chat.completions.create(model="chat", messages=[{"role": "user", "content": "x"}])
    assert answer.model == model
    assert service.rooms.deployments.get(service.account.id, "chat").last_used_at is not None
    with pytest.raises(openai.NotFoundError) as missing:
        service.azure().chat.completions.create(model="nothing", messages=[{"role": "user", "content": "x"}])
    assert missing.value.code == "DeploymentNotFound"


def test_what_a_deployment_took_is_told_in_arm_s_shape(service: LiveService, model: str) -> None:
    deploy(service, "metered", model)
    client = service.azure()
    client.chat.completions.create(model="metered", messages=[{"role": "user", "content": "x"}])
    for _ in client.chat.completions.create(model="metered", messages=[{"role": "user", "content": "x"}], stream=True):
        pass
    found = service.arm("GET", "/deployments/metered/usages").json()["value"]
    values = {usage["name"]["value"]: usage["currentValue"] for usage in found}
    assert {usage["unit"] for usage in found} == {"Count", "Seconds"}
    assert (values["Requests"], values["PromptTokens"], values["CachedTokens"]) == (2, 6, 0)
    assert values["CompletionTokens"] == 2
    assert service.arm("GET", "/deployments/nothing/usages").status_code == 404


def test_the_guide_s_forgotten_question_mark_is_named(service: LiveService, model: str) -> None:
    path = f"/deployments/{'name'}api-version=2023-05-01"
    response = service.arm("POST", path, params={}, json=body(model))
    assert response.status_code == 400
    assert "'?'" in response.json()["error"]["message"]
    assert "name?api-version=2023-05-01" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "params", "headers", "status", "code"),
    [
        ("/deployments", {}, None, 400, "MissingApiVersionParameter"),
        ("/deployments", {"api-version": "soon"}, None, 400, "InvalidApiVersionParameter"),
        ("/deployments", None, {}, 401, "AuthenticationFailed"),
        ("/deployments", None, {"Authorization": "Bearer nonsense"}, 401, "AuthenticationFailed"),
        ("/deployments/none", None, None, 404, "ResourceNotFound"),
        ("x/deployments", None, None, 404, "ResourceNotFound"),
    ],
)
def test_arm_errors_have_arm_s_shape(
    service: LiveService, path: str, params: dict | None, headers: dict | None, status: int, code: str
) -> None:
    more = {key: value for key, value in (("params", params), ("headers", headers)) if value is not None}
    response = service.arm("GET", path, **more)
    assert response.status_code == status
    assert response.json()["error"]["code"] == code


def test_a_key_of_the_data_plane_opens_no_arm_route(service: LiveService) -> None:
    for headers in ({"api-key": service.key}, {"Authorization": f"Bearer {service.key}"}):
        assert service.arm("GET", "/deployments", headers=headers).status_code == 401


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (
            {"properties": {"model": {"name": "unknown", "format": "OpenAI", "version": "1"}}},
            "DeploymentModelNotSupported",
        ),
        ({"properties": {}}, "BadRequest"),
        ({"sku": {"name": "Gold", "capacity": 1}}, "BadRequest"),
        ({"sku": {"name": "Standard", "capacity": "0"}}, "BadRequest"),
        ({"sku": {"name": "Standard", "capacity": "lots"}}, "BadRequest"),
        ({"sku": {"name": "Standard", "capacity": 10**18 * 1000}}, "BadRequest"),
        ({"sku": {"name": "Standard", "capacity": "9" * 40}}, "BadRequest"),
    ],
)
def test_a_put_that_can_t_be_says_why(service: LiveService, change: dict, code: str) -> None:
    response = service.arm("PUT", "/deployments/bad", json={**body(BASE), **change})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == code


def test_a_tuned_model_has_version_1_and_a_source_has_to_be_known(service: LiveService, model: str) -> None:
    for change in ({"version": "2"}, {"source": "/subscriptions/x/resourceGroups/y/providers/z/accounts/w"}):
        wanted = body(model)
        wanted["properties"]["model"] |= change
        response = service.arm("PUT", "/deployments/bad", json=wanted)
        assert response.json()["error"]["code"] == "DeploymentModelNotSupported"
    same = body(model)
    same["properties"]["model"]["source"] = service.account.arm_id
    assert service.arm("PUT", "/deployments/sourced", json=same).status_code == 201


@pytest.mark.parametrize("name", ["a b", "-x", "x" * 65, "ä"])
def test_a_deployment_s_name_has_azure_s_alphabet(service: LiveService, name: str) -> None:
    response = service.arm("PUT", f"/deployments/{name}", json=body(BASE))
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "InvalidResourceName"


def test_chat_on_a_completion_model_is_not_supported(service: LiveService) -> None:
    deploy(service, "davinci", "davinci-002")
    with pytest.raises(openai.BadRequestError) as refused:
        service.azure().chat.completions.create(model="davinci", messages=[{"role": "user", "content": "x"}])
    assert refused.value.code == "OperationNotSupported"
