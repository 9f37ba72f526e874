"""The audit log: a row for every change, none for what was refused or only read, and nothing secret in it."""

import secrets
from typing import Any

import pytest
import sqlalchemy as sa

from tests.api.test_control import BASE, body
from tests.identities import DATA_SCOPE, bearer, make, token
from tests.live import LiveService
from tests.test_files import jsonl
from tunery.store.tables import audit_log

READER = "Cognitive Services Contributor"


def changes(service: LiveService, **params: Any) -> list[dict[str, Any]]:
    """What the account's log says, newest first."""
    answer = service.arm("GET", "/auditLogs", params={"api-version": "2023-05-01", "$top": 1000, **params})
    assert answer.status_code == 200, answer.text
    return [row["properties"] for row in answer.json()["value"]]


def test_a_change_is_a_row_that_says_who_what_when_and_from_where(service: LiveService) -> None:
    known = make(service, "Owner")
    name = f"audited-{secrets.token_hex(4)}"
    answer = service.arm("PUT", f"/deployments/{name}", json=body(BASE), **bearer(token(service, known)))
    row = changes(service)[0]
    assert (row["caller"], row["callerObjectId"], row["callerType"]) == (known.name, known.id, "Application")
    assert row["action"] == "Microsoft.CognitiveServices/accounts/deployments/write"
    assert row["resource"].endswith(f"/accounts/{service.account.name}/deployments/{name}")
    assert (row["status"], row["clientAddress"]) == (201, "127.0.0.1")
    assert row["requestId"] == answer.headers["x-request-id"]
    assert row["eventTimestamp"].endswith("Z")


def test_the_data_plane_s_changes_are_in_it_with_the_key_s_holder(service: LiveService) -> None:
    file = service.http("POST", "/openai/files", files={"file": ("t.jsonl", jsonl())}, data={"purpose": "fine-tune"})
    assert service.http("DELETE", f"/openai/files/{file.json()['id']}").status_code == 200
    deleted, uploaded = changes(service)[:2]
    assert (deleted["operation"], uploaded["operation"]) == ("DELETE /files/{file_id}", "POST /files")
    assert deleted["resource"] == f"/openai/files/{file.json()['id']}"
    assert (deleted["caller"], deleted["callerType"], deleted["callerObjectId"]) == ("key", "Key", None)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/openai/files"), ("DELETE", "/openai/files/file-none"), ("POST", "/openai/fine_tuning/jobs")],
)
def test_reading_and_failing_leave_no_row(service: LiveService, method: str, path: str) -> None:
    before = changes(service)
    service.http(method, path, json={})
    assert changes(service) == before


def test_a_refused_change_leaves_no_row(service: LiveService) -> None:
    before = changes(service)
    known = make(service, "Cognitive Services OpenAI User")
    assert service.arm("DELETE", "/deployments/x", **bearer(token(service, known))).status_code == 403
    assert changes(service) == before


def test_reading_keys_is_written_down(service: LiveService) -> None:
    assert service.arm("POST", "/listKeys").status_code == 200
    assert changes(service)[0]["action"].endswith("/listKeys/action")


def test_pages_follow_next_link_without_gap_or_repeat(service: LiveService) -> None:
    for _ in range(5):
        service.arm("POST", "/listKeys")
    whole = changes(service)
    answer = service.arm("GET", "/auditLogs", params={"api-version": "2023-05-01", "$top": "2"}).json()
    paged = answer["value"]
    while "nextLink" in answer and len(paged) < 5:
        path = answer["nextLink"].partition(service.rooms.settings.tls_endpoint)[2]
        answer = service.management("GET", path, params=None).json()
        paged += answer["value"]
    assert [row["properties"] for row in paged] == whole[: len(paged)]
    for params in ({"$top": "0"}, {"$top": "x"}, {"$skipToken": "-1"}, {"$skipToken": "9" * 30}):
        assert service.arm("GET", "/auditLogs", params={"api-version": "2023-05-01", **params}).status_code == 400


def test_the_log_is_read_with_the_right_role_only(service: LiveService) -> None:
    statuses = {
        role: service.arm("GET", "/auditLogs", **bearer(token(service, make(service, role)))).status_code
        for role in (READER, "Cognitive Services OpenAI Contributor", "Cognitive Services OpenAI User")
    }
    assert list(statuses.values()) == [200, 403, 403]


def test_no_row_holds_a_key_a_secret_or_a_token(service: LiveService) -> None:
    known = make(service, "Owner")
    held = [token(service, known), token(service, known, DATA_SCOPE), known.secret]
    service.arm("POST", "/listKeys", **bearer(held[0]))
    renewed = service.arm("POST", "/regenerateKey", json={"keyName": "Key2"}, **bearer(held[0])).json()
    service.http("DELETE", "/openai/files/file-none", **bearer(held[1]))
    with service.rooms.store.database.read() as connection:
        rows = str(connection.execute(sa.select(audit_log)).all())
    assert not any(value in rows for value in (*held, *renewed.values(), service.key))
