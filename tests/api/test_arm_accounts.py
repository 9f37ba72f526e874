"""Accounts, groups and what is on offer through ARM, and the data plane of more than one account."""

from typing import Any

import openai
import pytest
import requests

from tests.api.test_control import body, settled
from tests.api.test_jobs import BASE, tune
from tests.live import LiveService
from tests.test_files import jsonl
from tests.waiting import PATIENCE

PROVIDER = "providers/Microsoft.CognitiveServices"


def subscription(service: LiveService) -> str:
    return f"/subscriptions/{service.account.subscription_id}"


def path_of(service: LiveService, name: str, group: str | None = None) -> str:
    group = group or service.account.resource_group
    return f"{subscription(service)}/resourceGroups/{group}/{PROVIDER}/accounts/{name}"


def make(service: LiveService, name: str, **more: Any) -> dict[str, Any]:
    wanted = {"location": "local", "kind": "OpenAI", "sku": {"name": "S0"}, **more}
    response = service.management("PUT", path_of(service, name), json=wanted)
    assert response.status_code in (200, 201), response.text
    return dict(response.json())


def client_of(service: LiveService, account: dict[str, Any], **more: Any) -> openai.AzureOpenAI:
    """The SDK on the endpoint that ARM shows, on the plain port, which asks for no CA."""
    endpoint = account["properties"]["endpoint"].replace(service.rooms.settings.tls_endpoint, service.base)
    keys = service.management("POST", account["id"] + "/listKeys").json()
    return service.azure(**{"azure_endpoint": endpoint, "api_key": keys["key1"], **more})


def test_an_account_is_made_read_changed_listed_and_deleted(service: LiveService) -> None:
    made = service.management("PUT", path_of(service, "Life"), json={"location": "Sweden Central", "tags": {"a": "b"}})
    assert made.status_code == 201
    shown = made.json()
    assert (shown["location"], shown["kind"], shown["sku"]["name"]) == ("swedencentral", "OpenAI", "S0")
    assert shown["properties"]["endpoint"].endswith("/accounts/life/")
    assert service.management("GET", shown["id"].lower()).json() == shown
    patched = service.management("PATCH", shown["id"], json={"tags": {"c": "d"}}).json()
    assert patched["tags"] == {"c": "d"} and patched["etag"] != shown["etag"]
    for above in (subscription(service), f"{subscription(service)}/resourcegroups/{service.account.resource_group}"):
        listed = service.management("GET", f"{above}/{PROVIDER}/accounts").json()["value"]
        assert "Life" in [account["name"] for account in listed]
    assert service.management("PUT", shown["id"], json={"location": "swedencentral"}).json()["tags"] == {}
    assert service.management("DELETE", shown["id"]).status_code == 200
    assert service.management("DELETE", shown["id"]).status_code == 204
    assert service.management("GET", shown["id"]).json()["error"]["code"] == "ResourceNotFound"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"location": None}, "LocationRequired"),
        ({"location": "atlantis"}, "LocationNotAvailableForResourceType"),
        ({"kind": "Face"}, "InvalidKind"),
        ({"sku": {"name": "F0"}}, "InvalidSku"),
        ({"properties": {"customSubDomainName": "tunery"}}, "CustomDomainInUse"),
        ({"properties": {"publicNetworkAccess": "Disabled"}}, "BadRequest"),
        ({"properties": {"networkAcls": {"defaultAction": "Deny"}}}, "BadRequest"),
        ({"properties": {"encryption": {"keySource": "Microsoft.KeyVault"}}}, "BadRequest"),
        ({"properties": {"disableLocalAuth": "yes"}}, "BadRequest"),
    ],
)
def test_an_account_that_can_t_be_is_refused_by_name(service: LiveService, change: dict[str, Any], code: str) -> None:
    response = service.management("PUT", path_of(service, "refused"), json={"location": "local", **change})
    assert response.status_code in (400, 409)
    assert response.json()["error"]["code"] == code
    assert service.management("GET", path_of(service, "refused")).status_code == 404


def test_a_regenerated_key_is_refused_and_the_other_goes_on(service: LiveService) -> None:
    account = make(service, "keys")
    old = service.management("POST", account["id"] + "/listKeys").json()
    new = service.management("POST", account["id"] + "/regenerateKey", json={"keyName": "Key1"}).json()
    assert new["key1"] != old["key1"] and new["key2"] == old["key2"]
    with pytest.raises(openai.AuthenticationError):
        service.azure(api_key=old["key1"]).models.list()
    assert service.azure(api_key=old["key2"]).models.list().data
    wrong = service.management("POST", account["id"] + "/regenerateKey", json={"keyName": "Key3"})
    assert wrong.json()["error"]["message"] == "keyName is 'Key3'; it may be Key1 or Key2."


def test_local_auth_that_is_disabled_is_azure_s_403_and_no_keys_are_listed(service: LiveService) -> None:
    account = make(service, "keyless")
    client = client_of(service, account)
    service.management("PATCH", account["id"], json={"properties": {"disableLocalAuth": True}})
    with pytest.raises(openai.PermissionDeniedError) as refused:
        client.models.list()
    assert refused.value.code == "AuthenticationTypeDisabled"
    assert service.management("POST", account["id"] + "/listKeys").status_code == 400


def test_a_second_account_has_data_of_its_own_under_its_own_path(service: LiveService) -> None:
    first, second = (
        service.azure(),
        client_of(service, make(service, "second", properties={"customSubDomainName": "2nd"})),
    )
    file = second.files.create(file=("t.jsonl", jsonl()), purpose="fine-tune")
    assert second.files.retrieve(file.id).id == file.id
    for elsewhere in (first, client_of(service, make(service, "third"))):
        with pytest.raises(openai.NotFoundError):
            elsewhere.files.retrieve(file.id)
    with pytest.raises(openai.AuthenticationError):
        service.azure(azure_endpoint=f"{service.base}/accounts/2nd").files.list()


def test_a_token_reaches_the_account_whose_path_it_is_sent_to(service: LiveService) -> None:
    make(service, "by-token")
    token = service.rooms.access.issue_token(name="tests", audience="https://cognitiveservices.azure.com")
    headers = {"Authorization": f"Bearer {token}"}
    sent = {"files": {"file": ("t.jsonl", jsonl())}, "data": {"purpose": "fine-tune"}}
    made = service.http("POST", "/accounts/BY-TOKEN/openai/files", headers=headers, **sent)
    assert made.headers["location"] == f"{service.base}/accounts/BY-TOKEN/openai/files/{made.json()['id']}"
    path = f"openai/files/{made.json()['id']}"
    assert service.http("GET", f"//accounts/by-token//{path}", headers=headers).status_code == 200
    assert service.http("GET", f"/{path}", headers=headers).status_code == 404
    assert service.http("GET", "/accounts/nobody/openai/models", headers=headers).json()["error"]["code"] == "404"


def test_an_account_with_a_deployment_or_a_paused_job_isn_t_deleted(service: LiveService) -> None:
    account = make(service, "serving")
    service.management("PUT", account["id"] + "/deployments/base", json=body(BASE))
    refused = service.management("DELETE", account["id"])
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "CannotDeleteResource")
    assert "'base'" in refused.json()["error"]["message"]
    service.management("DELETE", account["id"] + "/deployments/base")
    assert service.management("DELETE", account["id"]).status_code == 200


def test_groups_are_made_shown_checked_and_deleted(service: LiveService) -> None:
    path = f"{subscription(service)}/resourcegroups/Extra"
    assert service.management("HEAD", path).status_code == 404
    assert service.management("PUT", path, json={"location": "eastus2"}).status_code == 201
    assert service.management("PUT", path, json={"location": "East US 2", "tags": {"a": "b"}}).status_code == 200
    assert service.management("HEAD", path).status_code == 204
    assert service.management("GET", path.lower()).json()["tags"] == {"a": "b"}
    assert service.management("GET", f"{path}/{PROVIDER}/accounts").json() == {"value": []}
    groups = service.management("GET", f"{subscription(service)}/resourceGroups").json()["value"]
    assert {"Extra", service.account.resource_group} <= {group["name"] for group in groups}
    assert service.management("DELETE", path).status_code == 200
    for lost in (path, f"{path}/{PROVIDER}/accounts"):
        assert service.management("GET", lost).json()["error"]["code"] == "ResourceGroupNotFound"


def test_the_provider_knows_the_versions_of_a_type_and_no_other_provider_is_known(service: LiveService) -> None:
    found = service.management("GET", f"{subscription(service)}/{PROVIDER}").json()
    assert "2023-05-01" in {kind["resourceType"]: kind["apiVersions"] for kind in found["resourceTypes"]}["accounts"]
    assert service.management("POST", f"{subscription(service)}/{PROVIDER}/register").status_code == 200
    other = service.management("GET", f"{subscription(service)}/providers/Microsoft.Compute")
    assert other.json()["error"]["code"] == "InvalidResourceNamespace"
    missing = service.management("GET", f"/subscriptions/none/{PROVIDER}")
    assert missing.json()["error"]["code"] == "SubscriptionNotFound"


def test_models_of_an_account_are_its_tuned_ones_and_the_bases(service: LiveService) -> None:
    tuned = tune(service).fine_tuned_model
    found = {model["name"]: model for model in service.arm("GET", "/models").json()["value"]}
    assert found[tuned]["source"] == service.account.arm_id
    assert found[tuned]["baseModel"] == {"format": "OpenAI", "name": "gpt-35-turbo", "version": "0613"}
    assert found["gpt-4o-mini"]["version"] == "2024-07-18"
    assert found["gpt-4o-mini"]["capabilities"] == {"fineTune": "true", "inference": "true", "chatCompletion": "true"}
    where = f"{subscription(service)}/{PROVIDER}/locations"
    offers = service.management("GET", f"{where}/local/models").json()["value"]
    assert tuned not in [offer["model"]["name"] for offer in offers]
    elsewhere = service.management("GET", f"{where}/eastus2/models").json()["value"]
    assert not any("fineTune" in offer["model"]["capabilities"] for offer in elsewhere)


def test_skus_capacities_and_usages_have_arm_s_shape(service: LiveService) -> None:
    service.arm("PUT", "/deployments/counted", json=body(BASE))
    settled(service, "counted")
    skus = service.arm("GET", "/deployments/counted/skus").json()["value"]
    assert {"Standard", "GlobalStandard"} <= {sku["sku"]["name"] for sku in skus}
    assert service.arm("GET", "/skus").json()["value"][0]["sku"]["name"] == "S0"
    usages = {usage["name"]["value"]: usage for usage in service.arm("GET", "/usages").json()["value"]}
    assert len(usages) == 7 and usages["OpenAI.FileBytes"]["unit"] == "Bytes"
    usage = usages["OpenAI.Deployments"]
    assert usage["unit"] == "Count" and 1 <= usage["currentValue"] <= usage["limit"]
    above = f"{subscription(service)}/{PROVIDER}"
    count = service.management("GET", f"{above}/locations/local/usages").json()["value"][0]
    assert count["name"]["value"] == "OpenAI.S0.AccountCount" and count["currentValue"] >= 1
    params = {"api-version": "2025-06-01", "modelFormat": "OpenAI", "modelName": BASE, "modelVersion": "1"}
    found = service.management("GET", f"{above}/modelCapacities", params=params).json()["value"]
    assert {one["location"] for one in found} >= {"local", "swedencentral"}
    assert service.management("GET", f"{above}/modelCapacities").status_code == 400


def test_locations_are_those_of_the_settings(service: LiveService) -> None:
    found = service.management("GET", f"{subscription(service)}/locations").json()["value"]
    assert [location["name"] for location in found] == service.rooms.settings.all_locations
    unknown = service.management("GET", f"{subscription(service)}/{PROVIDER}/locations/atlantis/models")
    assert unknown.json()["error"]["code"] == "LocationNotAvailableForResourceType"


@pytest.mark.parametrize("path", ["", "/models", "/usages", "/skus", "/deployments"])
def test_every_read_wants_a_token_and_a_known_account(service: LiveService, path: str) -> None:
    url = service.rooms.settings.tls_endpoint + service.account.arm_id + path
    without = requests.get(url, params={"api-version": "2023-05-01"}, verify=str(service.ca), timeout=PATIENCE)
    assert without.status_code == 401
    assert service.management("GET", path_of(service, "nobody") + path).status_code == 404
