"""A model of one account in another: deployed by `source`, or copied as a checkpoint. And deployments that pause."""

from typing import Any

import openai
import pytest
import requests

from tests import identities
from tests.api.conftest import SECOND
from tests.api.test_arm_accounts import client_of, make, path_of
from tests.api.test_control import body, deploy, settled, settled_at
from tests.api.test_jobs import BASE, finished, tune
from tests.live import LiveService
from tests.test_files import jsonl

PREVIEW = {"aoai-copy-ft-checkpoints": "preview"}
DATA_PLANE = "https://cognitiveservices.azure.com"


def tuned_in(service: LiveService, account: dict[str, Any]) -> Any:
    client = client_of(service, account)
    file = client.files.create(file=("train.jsonl", jsonl()), purpose="fine-tune")
    return finished(client, client.fine_tuning.jobs.create(model=BASE, training_file=file.id).id)


def sourced(model: str, source: str) -> dict[str, Any]:
    wanted = body(model)
    wanted["properties"]["model"]["source"] = source
    return wanted


def answers(service: LiveService, account: dict[str, Any], deployment: str) -> str:
    client = client_of(service, account)
    return client.chat.completions.create(model=deployment, messages=[{"role": "user", "content": "x"}]).model


def settled_in(service: LiveService, account: dict[str, Any], name: str) -> str:
    return str(settled_at(service, f"{account['id']}/deployments/{name}")["properties"]["provisioningState"])


def in_second_subscription(service: LiveService, name: str) -> dict[str, Any]:
    group = f"/subscriptions/{SECOND}/resourceGroups/far"
    service.management("PUT", group, json={"location": "swedencentral"})
    path = f"{group}/providers/Microsoft.CognitiveServices/accounts/{name}"
    return dict(service.management("PUT", path, json={"location": "swedencentral"}).json())


@pytest.mark.parametrize("where", ["other region", "other subscription"])
def test_a_model_deploys_in_another_account_by_its_source_and_outlives_it(service: LiveService, where: str) -> None:
    source = make(service, f"trained-{where[6]}")
    job = tuned_in(service, source)
    model = job.fine_tuned_model
    name = f"serves-{where[6]}"
    target = (
        make(service, name, location="swedencentral") if "region" in where else in_second_subscription(service, name)
    )
    put = service.management("PUT", target["id"] + "/deployments/far", json=sourced(model, source["id"]))
    assert put.status_code == 201, put.text
    assert put.json()["properties"]["model"]["source"] == source["id"]
    assert settled_in(service, target, "far") == "Succeeded"
    client_of(service, source).models.delete(model)
    assert service.management("DELETE", source["id"]).status_code == 200
    assert answers(service, target, "far") == model
    digest = service.rooms.deployments.get(service.rooms.accounts.by_name(name).id, "far").adapter
    folder = service.rooms.store.blobs.path(f"adapters/{digest}")
    assert folder.is_dir()
    service.management("DELETE", target["id"] + "/deployments/far")
    assert not folder.exists()


def test_without_source_a_model_is_looked_up_in_the_target_alone(service: LiveService) -> None:
    model = tune(service).fine_tuned_model
    target = make(service, "target")
    refused = service.management("PUT", target["id"] + "/deployments/x", json=body(model))
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "DeploymentModelNotSupported")
    wrong = service.management("PUT", target["id"] + "/deployments/x", json=sourced("no-such", service.account.arm_id))
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "DeploymentModelNotSupported")
    nowhere = sourced(model, path_of(service, "nowhere"))
    unknown = service.management("PUT", target["id"] + "/deployments/x", json=nowhere)
    assert unknown.json()["error"]["target"] == "properties.model.source"
    there = service.management("PUT", target["id"] + "/deployments/x", json=sourced(model, service.account.arm_id))
    again = service.management(
        "PUT", target["id"] + "/deployments/x", json=sourced(model, service.account.arm_id.upper())
    )
    assert (there.status_code, again.status_code) == (201, 200)


def test_a_region_without_tuning_takes_neither_jobs_nor_tuned_models_of_others(service: LiveService) -> None:
    account = make(service, "still", location="East US 2")
    model = tune(service).fine_tuned_model
    wanted = sourced(model, service.account.arm_id)
    refused = service.management("PUT", account["id"] + "/deployments/x", json=wanted)
    assert refused.status_code == 400 and "doesn't allow tuning" in refused.json()["error"]["message"]
    client = client_of(service, account)
    file = client.files.create(file=("train.jsonl", jsonl()), purpose="fine-tune")
    with pytest.raises(openai.BadRequestError, match="doesn't allow tuning"):
        client.fine_tuning.jobs.create(model=BASE, training_file=file.id)
    assert service.management("PUT", account["id"] + "/deployments/base", json=body(BASE)).status_code == 201


def copy(service: LiveService, method: str, job: Any, checkpoint: str, **more: Any) -> requests.Response:
    token = service.rooms.access.issue_token(name="tests", audience=DATA_PLANE)
    headers = {"Authorization": f"Bearer {token}", **PREVIEW}
    path = f"/openai/v1/fine_tuning/jobs/{job.id}/checkpoints/{checkpoint}/copy"
    return service.http(method, path, **{"params": {}, "headers": headers, **more})


def test_a_copied_checkpoint_deploys_and_tunes_on_after_its_source_is_gone(service: LiveService) -> None:
    job, target = tune(service), make(service, "copies", location="swedencentral")
    checkpoint = service.azure().fine_tuning.jobs.checkpoints.list(job.id).data[0]
    wanted = {"destinationResourceId": target["id"], "region": "Sweden Central"}
    made = copy(service, "POST", job, checkpoint.id, json=wanted)
    assert made.json() == {
        "checkpointedModelName": checkpoint.fine_tuned_model_checkpoint,
        "fineTuningJobId": job.id,
        "copiedAccountDetails": [
            {"destinationResourceId": target["id"], "region": "swedencentral", "status": "Completed"}
        ],
    }
    assert copy(service, "POST", job, checkpoint.id, json=wanted).json() == made.json()
    assert copy(service, "GET", job, checkpoint.fine_tuned_model_checkpoint).json() == made.json()
    service.azure().models.delete(job.fine_tuned_model)
    client, name = client_of(service, target), checkpoint.fine_tuned_model_checkpoint
    assert name not in [model.id for model in client.models.list()]
    assert service.management("PUT", target["id"] + "/deployments/copy", json=body(name)).status_code == 201
    assert settled_in(service, target, "copy") == "Succeeded"
    assert answers(service, target, "copy") == name
    with pytest.raises(openai.ConflictError):
        client.models.delete(name)
    service.management("DELETE", target["id"] + "/deployments/copy")
    assert client.models.delete(name).deleted
    with pytest.raises(openai.NotFoundError):
        client.models.delete(name)


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"headers": {}}, 401, "no key"),
        ({"region": "local"}, 400, "not in 'local'"),
        ({"destinationResourceId": "/subscriptions/x"}, 400, "no account"),
        ({"destinationResourceId": "own"}, 400, "it trained it"),
        ({"preview": False}, 400, "aoai-copy-ft-checkpoints: preview"),
        ({"key": True}, 403, "a key opens one account"),
        ({"checkpoint": "ftchkpt-none"}, 404, "does not exist"),
        ({"location": "eastus2"}, 400, "doesn't allow tuning"),
    ],
)
def test_a_copy_that_can_t_be_says_why(service: LiveService, change: dict[str, Any], status: int, said: str) -> None:
    job = tune(service)
    checkpoint = service.azure().fine_tuning.jobs.checkpoints.list(job.id).data[0].id
    location = change.get("location", "swedencentral")
    target = make(service, f"refuses-{location}", location=location)
    destination = change.get("destinationResourceId", target["id"])
    destination = service.account.arm_id if destination == "own" else destination
    wanted = {"destinationResourceId": destination, "region": change.get("region", location)}
    more: dict[str, Any] = {"headers": change["headers"]} if "headers" in change else {}
    if not change.get("preview", True) or change.get("key"):
        more["headers"] = {"api-key": service.key} | (PREVIEW if change.get("key") else {})
    response = copy(service, "POST", job, change.get("checkpoint", checkpoint), json=wanted, **more)
    assert response.status_code == status, response.text
    assert said in response.json()["error"]["message"]


def test_a_paused_deployment_refuses_until_it_is_resumed(service: LiveService) -> None:
    deploy(service, "sleeps", tune(service).fine_tuned_model)
    paused = service.arm("POST", "/deployments/sleeps/pause").json()
    assert paused["properties"]["deploymentState"] == "Paused"
    ask = {"model": "sleeps", "messages": [{"role": "user", "content": "x"}]}
    with pytest.raises(openai.ConflictError) as refused:
        service.azure().chat.completions.create(**ask)
    assert refused.value.code == "DeploymentPaused"
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert service.arm("POST", "/deployments/sleeps/resume").json()["properties"]["deploymentState"] == "Running"
    assert service.azure().chat.completions.create(**ask).choices
    assert service.arm("POST", "/deployments/none/pause").status_code == 404


def test_a_base_is_deployed_by_name_and_version_as_arm_lists_it(service: LiveService) -> None:
    wanted = {"sku": {"name": "Standard"}, "properties": {"model": {"name": "gpt-4o-mini", "version": "2024-07-18"}}}
    assert service.arm("PUT", "/deployments/mini", json=wanted).status_code == 201
    assert settled(service, "mini")["properties"]["model"]["version"] == "2024-07-18"
    assert service.rooms.deployments.get(service.account.id, "mini").base == "gpt-4o-mini-2024-07-18"
    other = {**wanted, "properties": {"model": {"name": "gpt-4o-mini", "version": "1"}}}
    assert service.arm("PUT", "/deployments/mini2", json=other).json()["error"]["code"] == "DeploymentModelNotSupported"


CONTRIBUTOR = "Cognitive Services OpenAI Contributor"


@pytest.mark.parametrize("source", ["foreign", "unknown"])
def test_who_may_not_deploy_from_the_source_learns_nothing_of_it(service: LiveService, source: str) -> None:
    model, target = tune(service).fine_tuned_model, make(service, "one-sided")
    known = identities.make(service, CONTRIBUTOR, scope=target["id"])
    bearer = identities.bearer(identities.token(service, known))
    given = service.account.arm_id if source == "foreign" else path_of(service, "nowhere")
    refused = service.management("PUT", target["id"] + "/deployments/x", json=sourced(model, given), **bearer)
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "LinkedAuthorizationFailed"
    assert refused.json()["error"]["message"].replace(given, "") == (
        f"The client '{known.name}' may deploy to 'one-sided', but has no authorization to perform "
        "'Microsoft.CognitiveServices/accounts/deployments/write' on the linked scope '', which is to give the model."
    )


def test_who_may_deploy_on_both_sides_does(service: LiveService) -> None:
    model, target = tune(service).fine_tuned_model, make(service, "two-sided")
    known = identities.make(service, CONTRIBUTOR, scope=target["id"])
    principal = service.rooms.access.principals.find(known.id)
    service.rooms.access.principals.assign(principal, CONTRIBUTOR, service.account.arm_id, by="tests")
    bearer = identities.bearer(identities.token(service, known))
    wanted = sourced(model, service.account.arm_id)
    assert service.management("PUT", target["id"] + "/deployments/x", json=wanted, **bearer).status_code == 201


def test_roles_on_an_account_go_with_it(service: LiveService) -> None:
    account = make(service, "reborn")
    known = identities.make(service, CONTRIBUTOR, scope=account["id"])
    bearer = identities.bearer(identities.token(service, known))
    assert service.management("GET", account["id"], **bearer).status_code == 200
    service.management("DELETE", account["id"])
    assert service.management("GET", make(service, "reborn")["id"], **bearer).status_code == 404


def test_a_copy_needs_the_right_to_tune_on_both_sides(service: LiveService) -> None:
    job, target = tune(service), make(service, "not-mine")
    checkpoint = service.azure().fine_tuning.jobs.checkpoints.list(job.id).data[0].id
    token = identities.token(service, identities.make(service, CONTRIBUTOR), identities.DATA_SCOPE)
    headers = {"Authorization": f"Bearer {token}", **PREVIEW}
    for destination in (target["id"], path_of(service, "nowhere")):
        wanted = {"destinationResourceId": destination, "region": "local"}
        assert copy(service, "POST", job, checkpoint, json=wanted, headers=headers).status_code == 403
    assert copy(service, "GET", job, checkpoint, headers=headers).json()["copiedAccountDetails"] == []
