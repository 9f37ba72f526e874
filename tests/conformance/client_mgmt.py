"""azure-mgmt-cognitiveservices with azure-identity, `requests` as in the guide, and openai with a token provider."""

import json
import os

import openai
import requests
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.identity import ClientSecretCredential, get_bearer_token_provider
from azure.mgmt.cognitiveservices import CognitiveServicesManagementClient
from checks import Checks, until

GROUP, ACCOUNT, SUBSCRIPTION = (
    os.environ[f"TUNERY_{name}"] for name in ("RESOURCE_GROUP", "ACCOUNT", "SUBSCRIPTION_ID")
)
ARM, CA = os.environ["TUNERY_ARM_ENDPOINT"], os.environ["REQUESTS_CA_BUNDLE"]
MODEL, SECOND_MODEL = os.environ["TUNED_MODEL"], os.environ["SECOND_TUNED_MODEL"]
credential = ClientSecretCredential(
    "adfs", os.environ["TUNERY_CLIENT_ID"], os.environ["TUNERY_CLIENT_SECRET"], authority=ARM
)
check = Checks()


def client(**more):
    return CognitiveServicesManagementClient(
        credential, SUBSCRIPTION, base_url=ARM, credential_scopes=[f"{ARM}/.default"], connection_verify=CA, **more
    )


management = client()


def wanted(model):
    return {
        "sku": {"name": "Standard", "capacity": 1},
        "properties": {"model": {"format": "OpenAI", "name": model, "version": "1"}},
    }


@check("accounts.get, list, list_by_resource_group with azure-identity's ClientSecretCredential")
def account():
    found = management.accounts.get(GROUP, ACCOUNT)
    assert found.name == ACCOUNT and found.properties.provisioning_state == "Succeeded"
    for listed in (management.accounts.list(), management.accounts.list_by_resource_group(GROUP)):
        assert ACCOUNT in [one.name for one in listed]
    return found


@check("accounts.list_keys, regenerate_key")
def keys():
    old = management.accounts.list_keys(GROUP, ACCOUNT)
    new = management.accounts.regenerate_key(GROUP, ACCOUNT, "Key2")
    assert old.key1 == new.key1 and old.key2 != new.key2


@check("accounts.list_models, list_usages, list_skus; models.list, usages.list, resource_skus.list")
def offers():
    assert MODEL in [one.name for one in management.accounts.list_models(GROUP, ACCOUNT)]
    assert management.accounts.list_usages(GROUP, ACCOUNT).value[0].limit
    assert management.accounts.list_skus(GROUP, ACCOUNT).value[0].sku.name == "S0"
    assert "gpt-4o-mini" in [one.model.name for one in management.models.list("local")]
    assert next(iter(management.usages.list("local"))).name.value
    assert {one.kind for one in management.resource_skus.list()} == {"OpenAI", "AIServices"}


@check("model_capacities.list")
def capacities():
    found = management.model_capacities.list(
        model_format="OpenAI", model_name="gpt-4o-mini", model_version="2024-07-18"
    )
    assert "local" in [one.location for one in found]


@check("deployments.begin_create_or_update polls to Succeeded and reads the resource back")
def deployment():
    poller = management.deployments.begin_create_or_update(GROUP, ACCOUNT, "mgmt", wanted(MODEL))
    done = poller.result(60)
    assert poller.status() == "Succeeded" and done.properties.provisioning_state == "Succeeded"
    assert management.deployments.get(GROUP, ACCOUNT, "mgmt").properties.model.name == MODEL
    assert "mgmt" in [one.name for one in management.deployments.list(GROUP, ACCOUNT)]


@check("deployments.begin_update changes sku and tags")
def update():
    changed = management.deployments.begin_update(GROUP, ACCOUNT, "mgmt", {"sku": {"capacity": 3}, "tags": {"a": "b"}})
    assert (changed.result(60).sku.capacity, changed.result().tags) == (3, {"a": "b"})


@check("deployments.list_skus")
def skus():
    assert "Standard" in [one.sku.name for one in management.deployments.list_skus(GROUP, ACCOUNT, "mgmt")]


@check("openai with azure_ad_token_provider: chat on the deployment")
def chat():
    provider = get_bearer_token_provider(credential, "https://cognitiveservices.azure.com/.default")
    endpoint = os.environ["AZURE_OPENAI_ENDPOINT"]
    data = openai.AzureOpenAI(azure_endpoint=endpoint, azure_ad_token_provider=provider, api_version="2024-10-21")
    assert data.chat.completions.create(model="mgmt", messages=[{"role": "user", "content": "Hello"}]).model == MODEL


@check("ARM errors: ResourceNotFoundError, ResourceExistsError and HttpResponseError with their codes")
def errors():
    for kind, code, name, model in (
        (ResourceExistsError, "DuplicatedDeploymentForSameModel", "again", MODEL),
        (HttpResponseError, "DeploymentModelNotSupported", "again", "missing"),
        (HttpResponseError, "CannotChangeDeploymentModel", "mgmt", "missing"),
    ):
        try:
            management.deployments.begin_create_or_update(GROUP, ACCOUNT, name, wanted(model)).result(60)
        except kind as error:
            assert error.error.code in (code, "DeploymentModelNotSupported"), error.error.code
        else:
            raise AssertionError(code)
    try:
        management.deployments.get(GROUP, ACCOUNT, "nope")
    except ResourceNotFoundError as error:
        assert error.error.code == "ResourceNotFound"
    else:
        raise AssertionError("no error")


@check("an api_version of 2023 does as well")
def older():
    assert client(api_version="2023-05-01").accounts.get(GROUP, ACCOUNT).name == ACCOUNT


@check("deployments.begin_delete, twice")
def deleted():
    for _ in range(2):
        management.deployments.begin_delete(GROUP, ACCOUNT, "mgmt").result(60)
    assert "mgmt" not in [one.name for one in management.deployments.list(GROUP, ACCOUNT)]


@check("accounts.begin_create, begin_update, begin_delete")
def second_account():
    body = {"location": "swedencentral", "kind": "OpenAI", "sku": {"name": "S0"}, "properties": {}}
    made = management.accounts.begin_create(GROUP, "mgmt-second", body).result(60)
    assert made.properties.provisioning_state == "Succeeded"
    changed = management.accounts.begin_update(GROUP, "mgmt-second", {"properties": {"disableLocalAuth": True}})
    assert changed.result(60).properties.disable_local_auth is True
    management.accounts.begin_delete(GROUP, "mgmt-second").result(60)
    assert "mgmt-second" not in [one.name for one in management.accounts.list()]


@check("the guide's requests.put, and its status")
def guide():
    token = credential.get_token(f"{ARM}/.default").token
    url = f"{ARM}/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.CognitiveServices/accounts/"
    url += f"{ACCOUNT}/deployments/guide"
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    data = json.dumps({**wanted(SECOND_MODEL), "sku": {"name": "standard", "capacity": 1}})
    given = {"params": {"api-version": "2023-05-01"}, "headers": headers, "timeout": 30}
    made = requests.put(url, data=data, **given)
    assert made.status_code == 201, made.text
    state = lambda: requests.get(url, **given).json()["properties"]["provisioningState"]  # noqa: E731
    assert until(state, lambda now: now != "Creating") == "Succeeded"
    assert requests.delete(url, **given).status_code == 200
