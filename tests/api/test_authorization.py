"""Every operation of the table with every role, and with ids that belong to another account.

What each role may do is written down here a second time, in the words of contract.md 4.9, and compared with answers.
"""

import secrets
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import requests

from tests.api.test_arm_accounts import client_of
from tests.api.test_arm_accounts import make as make_account
from tests.api.test_control import body
from tests.api.test_jobs import BASE, finished
from tests.identities import DATA_SCOPE, bearer, make, token
from tests.live import VERSION, LiveService
from tests.test_files import jsonl
from tunery.roles import ACTIONS, OWNER

V1_ONLY = {"/chat/completions", "/completions"}
USER, CONTRIBUTOR = "Cognitive Services OpenAI User", "Cognitive Services OpenAI Contributor"
ADMINISTRATOR, READER = "Cognitive Services Contributor", "Cognitive Services Usages Reader"
MAY = {
    OWNER: {"read", "infer", "tune", "look", "sign in", "deploy", "account", "group", "audit", "quota"},
    USER: {"read", "infer", "look", "sign in"},
    CONTRIBUTOR: {"read", "infer", "tune", "look", "sign in", "deploy"},
    ADMINISTRATOR: {"read", "tune", "look", "sign in", "deploy", "account", "audit"},
    READER: {"sign in", "quota"},
}


def needs(operation: str) -> str:
    """What one has to be allowed for it."""
    method, path = operation.split()
    if not is_arm(path):
        if path.endswith("/completions"):
            return "infer"
        return "read" if method == "GET" or path.endswith(("/events", "/recipe")) else "tune"
    if path in ("/tenants", "/subscriptions"):
        return "sign in"
    for end, what in (("/auditLogs", "audit"), ("accounts/{account}/usages", "quota"), ("{location}/usages", "quota")):
        if path.endswith(end):
            return what
    if method in ("GET", "HEAD"):
        return "look"
    if "/deployments" in path:
        return "deploy"
    return "group" if path.endswith("{group}") else "account"


def is_arm(path: str) -> bool:
    return path.startswith(("/subscriptions", "/tenants"))


def send(service: LiveService, operation: str, ids: dict[str, str], **more: Any) -> requests.Response:
    """The operation with these ids in its path and an empty JSON body."""
    method, path = operation.split()
    url = path.format_map(ids)
    if is_arm(path):
        return service.management(method, url, json={}, **more)
    if path in V1_ONLY:
        return service.http(method, f"/openai/v1{url}", params={}, json={"model": ids["deployment"]}, **more)
    return service.http(method, f"/openai{url}", params={"api-version": VERSION}, json={}, **more)


class Tokens(NamedTuple):
    data: str
    arm: str


@pytest.fixture(scope="module")
def tokens(service: LiveService) -> dict[str, Tokens]:
    """One principal for each role, held on the whole subscription."""
    scope = f"/subscriptions/{service.account.subscription_id}"
    known = {role: make(service, role, scope=scope) for role in MAY}
    return {role: Tokens(token(service, one, DATA_SCOPE), token(service, one)) for role, one in known.items()}


@pytest.fixture(scope="module")
def unknown(service: LiveService) -> dict[str, str]:
    """Ids of the right shape that nothing has, in the service's own subscription and group."""
    number = secrets.token_hex(16)
    return {
        "file_id": f"file-{number}",
        "upload_id": f"upload_{number}",
        "job_id": f"ftjob-{number}",
        "fine_tune": f"ft-{number}",
        "name": f"{BASE}.ft-{number}",
        "deployment": "nothing",
        "checkpoint": f"ftchkpt-{number}",
        "subscription": service.account.subscription_id,
        "group": service.account.resource_group,
        "account": "nobodys",
        "location": "local",
        "provider": "Microsoft.CognitiveServices",
        "operation": "nobodys~nothing",
    }


@pytest.mark.parametrize("operation", sorted(ACTIONS))
@pytest.mark.parametrize("role", MAY)
def test_a_role_may_exactly_what_the_contract_says(
    service: LiveService, tokens: dict[str, Tokens], unknown: dict[str, str], role: str, operation: str
) -> None:
    arm = is_arm(operation.split()[1])
    ids = {**unknown, "group": "no-group"} if needs(operation) == "group" else unknown
    answer = send(service, operation, ids, **bearer(tokens[role].arm if arm else tokens[role].data))
    if needs(operation) in MAY[role]:
        assert answer.status_code not in (401, 403), answer.text
        assert answer.status_code < 500
        return
    assert answer.status_code == (403 if arm else 401)
    if not operation.startswith("HEAD"):
        assert answer.json()["error"]["code"] == ("AuthorizationFailed" if arm else "PermissionDenied")


@pytest.mark.parametrize("operation", sorted(operation for operation in ACTIONS))
def test_without_a_role_there_is_nothing(service: LiveService, unknown: dict[str, str], operation: str) -> None:
    nobody = make(service)
    arm = is_arm(operation.split()[1])
    own = {**unknown, "account": service.account.name}
    answer = send(service, operation, own, **bearer(token(service, nobody, None if arm else DATA_SCOPE)))
    if needs(operation) == "sign in":
        assert answer.status_code == 200
        return
    assert answer.status_code == (404 if arm else 401)


class Elsewhere(NamedTuple):
    """A second account with one of everything, and callers who may do all on the first one alone."""

    ids: dict[str, str]
    data: dict[str, Any]
    arm: dict[str, Any]


@pytest.fixture(scope="module")
def elsewhere(service: LiveService, unknown: dict[str, str]) -> Iterator[Elsewhere]:
    account = make_account(service, "elsewhere")
    client = client_of(service, account)
    file = client.files.create(file=("t.jsonl", jsonl()), purpose="fine-tune").id
    job = finished(client, client.fine_tuning.jobs.create(model=BASE, training_file=file).id)
    upload = client.uploads.create(bytes=1, filename="f", mime_type="text/plain", purpose="fine-tune").id
    checkpoint = client.fine_tuning.jobs.checkpoints.list(job.id).data[0].id
    deployed = service.management("PUT", account["id"] + "/deployments/theirs", json=body(job.fine_tuned_model))
    assert deployed.status_code == 201, deployed.text
    number = job.id.removeprefix("ftjob-")
    ids = {"file_id": file, "upload_id": upload, "job_id": job.id, "fine_tune": f"ft-{number}"}
    ids |= {"name": job.fine_tuned_model, "deployment": "theirs", "checkpoint": checkpoint}
    ids |= {"account": "elsewhere", "operation": "elsewhere~theirs"}
    mine = make(service, OWNER)
    yield Elsewhere({**unknown, **ids}, bearer(token(service, mine, DATA_SCOPE)), bearer(token(service, mine)))
    service.management("DELETE", account["id"] + "/deployments/theirs")


def said(answer: requests.Response, ids: dict[str, str]) -> tuple[int, str]:
    text = answer.text
    for value in sorted(ids.values(), key=len, reverse=True):
        text = text.replace(value, "ID")
    return answer.status_code, text


NAMING = [operation for operation in sorted(ACTIONS) if "{" in operation or operation.endswith("/completions")]


@pytest.mark.parametrize("operation", NAMING)
def test_an_id_of_another_account_is_answered_like_one_that_nothing_has(
    service: LiveService, elsewhere: Elsewhere, unknown: dict[str, str], operation: str
) -> None:
    headers = elsewhere.arm if is_arm(operation.split()[1]) else elsewhere.data
    theirs = send(service, operation, elsewhere.ids, **headers)
    nothing = send(service, operation, unknown, **headers)
    assert said(theirs, elsewhere.ids) == said(nothing, unknown)
    assert theirs.status_code < 500


@pytest.mark.parametrize("operation", [operation for operation in NAMING if not is_arm(operation.split()[1])])
def test_a_key_opens_no_other_account_s_ids(
    service: LiveService, elsewhere: Elsewhere, unknown: dict[str, str], operation: str
) -> None:
    theirs, nothing = (send(service, operation, ids) for ids in (elsewhere.ids, unknown))
    assert said(theirs, elsewhere.ids) == said(nothing, unknown)


@pytest.mark.parametrize("field", ["training_file", "validation_file", "model"])
def test_another_account_s_ids_in_a_body_are_unknown_too(
    service: LiveService, elsewhere: Elsewhere, unknown: dict[str, str], field: str
) -> None:
    own = service.azure().files.create(file=("t.jsonl", jsonl()), purpose="fine-tune").id
    answers = []
    for ids in (elsewhere.ids, unknown):
        wanted = {"model": BASE, "training_file": own, field: ids["name" if field == "model" else "file_id"]}
        answers.append(said(service.http("POST", "/openai/fine_tuning/jobs", json=wanted), ids))
    assert answers[0] == answers[1]
    assert answers[0][0] == 400


def test_the_other_account_was_left_as_it_was(service: LiveService, elsewhere: Elsewhere) -> None:
    place = f"/subscriptions/{elsewhere.ids['subscription']}/resourceGroups/{elsewhere.ids['group']}"
    account = f"{place}/providers/Microsoft.CognitiveServices/accounts/elsewhere"
    client = client_of(service, service.management("GET", account).json())
    assert client.files.retrieve(elsewhere.ids["file_id"]).status == "processed"
    assert client.models.retrieve(elsewhere.ids["name"]).id == elsewhere.ids["name"]
    assert service.management("GET", f"{account}/deployments/theirs").status_code == 200


def test_a_path_into_another_account_is_unknown(service: LiveService, elsewhere: Elsewhere) -> None:
    for name in ("elsewhere", "nobodys"):
        answer = service.http("GET", f"/accounts/{name}/openai/files", **elsewhere.data)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "404")


@pytest.mark.parametrize("above", [{"subscription": "other-sub"}, {"subscription": "other-sub", "group": "other"}])
@pytest.mark.parametrize("operation", [operation for operation in NAMING if is_arm(operation.split()[1])])
def test_another_subscription_is_answered_like_one_that_isn_t_there(
    service: LiveService, elsewhere: Elsewhere, above: dict[str, str], operation: str
) -> None:
    service.rooms.groups.put("other-sub", "other", location="local", tags=None)
    theirs = {**elsewhere.ids, **above}
    nothing = {**elsewhere.ids, **dict.fromkeys(above, "not-there")}
    answers = [said(send(service, operation, ids, **elsewhere.arm), ids) for ids in (theirs, nothing)]
    assert answers[0] == answers[1]
    assert answers[0][0] == 404


def test_roles_held_on_an_account_end_with_it(service: LiveService) -> None:
    account = make_account(service, "short-lived")
    known = make(service, OWNER, scope=account["id"])
    held = bearer(token(service, known))
    assert service.management("GET", account["id"], **held).status_code == 200
    service.management("DELETE", account["id"])
    make_account(service, "short-lived")
    assert service.management("GET", account["id"], **held).status_code == 404


def test_an_operation_that_lost_its_row_is_refused_to_keys_and_owners(
    service: LiveService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(ACTIONS, "GET /files")
    assert service.http("GET", "/openai/files").status_code == 403
    monkeypatch.delitem(ACTIONS, "GET /subscriptions")
    assert service.management("GET", "/subscriptions").json()["error"]["code"] == "AuthorizationFailed"
