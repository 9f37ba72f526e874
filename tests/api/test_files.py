"""Files and uploads through the wire: the real SDK, and raw requests as Node, curl and the guide send them."""

import hashlib
import io

import openai
import pytest
import requests

from tests.live import VERSION, LiveService, live_service
from tests.test_files import jsonl
from tests.waiting import PATIENCE


def test_the_sdk_uploads_waits_lists_reads_and_deletes(service: LiveService) -> None:
    client = service.azure()
    file = client.files.create(file=("train.jsonl", jsonl()), purpose="fine-tune")
    assert file.status == "pending"
    done = client.files.wait_for_processing(file.id, poll_interval=0.1)
    assert (done.status, done.bytes, done.filename) == ("processed", len(jsonl()), "train.jsonl")
    assert client.files.content(file.id).read() == jsonl()
    assert file.id in [listed.id for listed in client.files.list(purpose="fine-tune")]
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_classic_answers_201_with_location_and_v1_answers_200(service: LiveService) -> None:
    form = {"files": {"file": ("a.jsonl", jsonl())}, "data": {"purpose": "fine-tune"}}
    classic = service.http("POST", "/openai/files", **form)
    assert classic.status_code == 201
    assert classic.headers["location"].endswith("/openai/files/" + classic.json()["id"])
    assert "status_details" not in classic.json()
    v1 = service.http("POST", "/openai/v1/files", params={}, **form)
    assert v1.status_code == 200
    assert v1.json()["status_details"] is None


def test_the_order_of_parts_and_a_missing_length_don_t_matter(service: LiveService) -> None:
    body = (
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="node.jsonl"\r\n\r\n' + jsonl() + b"\r\n"
        b'--B\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--B--\r\n'
    )
    headers = {"api-key": service.key, "content-type": "multipart/form-data; boundary=B"}
    chunks = (body[start : start + 7] for start in range(0, len(body), 7))
    response = service.http("POST", "/openai/files", data=chunks, headers=headers)
    assert response.status_code == 201, response.text
    assert service.http("GET", f"/openai/files/{response.json()['id']}/content").content == jsonl()


def test_a_windows_path_as_the_guide_s_curl_sends_it_becomes_the_file_s_name(service: LiveService) -> None:
    form = {"files": {"file": ("C:\\fine-tuning\\training_set.jsonl", jsonl())}, "data": {"purpose": "fine-tune"}}
    assert service.http("POST", "/openai/files", **form).json()["filename"] == "training_set.jsonl"


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"files": {"file": ("a.jsonl", b"x")}, "data": {"purpose": "fun"}}, "purpose"),
        ({"files": {"file": ("a.jsonl", b"x")}}, "purpose"),
        ({"files": {"other": ("a.jsonl", b"x")}, "data": {"purpose": "fine-tune"}}, "file"),
        ({"files": {"file": ("folder/", b"x")}, "data": {"purpose": "fine-tune"}}, "file"),
        (
            {"files": {"file": ("a", b"x")}, "data": {"purpose": "fine-tune", "expires_after[seconds]": "5"}},
            "expires_after",
        ),
    ],
)
def test_a_form_that_can_t_be_kept_names_its_field(service: LiveService, form: dict, param: str) -> None:
    response = service.http("POST", "/openai/files", **form)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalidPayload"
    assert response.json()["error"]["target"] == param


def test_a_cut_off_body_and_one_that_is_no_form_are_refused(service: LiveService) -> None:
    cut = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc'
    for body, kind in (
        (cut, "multipart/form-data; boundary=B"),
        (b"{}", "application/json"),
        (b"x", "multipart/form-data"),
    ):
        headers = {"api-key": service.key, "content-type": kind}
        response = service.http("POST", "/openai/files", data=body, headers=headers)
        assert response.status_code == 400, response.text


def test_an_empty_file_ends_as_error_with_the_reason(service: LiveService) -> None:
    client = service.azure()
    file = client.files.create(file=("empty.jsonl", b""), purpose="fine-tune")
    done = client.files.wait_for_processing(file.id, poll_interval=0.1)
    assert done.status == "error"
    assert (done.status_details or "").startswith("Validation of jsonl file failed:")


def test_every_finding_can_be_paged_through(service: LiveService) -> None:
    client = service.azure()
    file = client.files.create(file=("bad.jsonl", jsonl() + b"{\n" * 30), purpose="fine-tune")
    client.files.wait_for_processing(file.id, poll_interval=0.1)
    found, after = [], 0
    while True:
        params = {"api-version": VERSION, "after": after, "limit": 10}
        page = service.http("GET", f"/openai/files/{file.id}/findings", params=params).json()
        found += page["data"]
        after += len(page["data"])
        if not page["has_more"]:
            break
    assert [finding["line"] for finding in found if finding["level"] == "error"] == list(range(13, 43))
    assert page["total"] == len(found)


def test_a_file_over_the_limit_is_refused_with_413_announced_or_not(tmp_path) -> None:
    with live_service(tmp_path, max_file_bytes=200_000) as small:
        form = {"files": {"file": ("big.jsonl", b"x" * 300_000)}, "data": {"purpose": "fine-tune"}}
        announced = small.http("POST", "/openai/files", **form)
        body = (
            b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            + b"x" * 300_000
            + b"\r\n--B--\r\n"
        )
        headers = {"api-key": small.key, "content-type": "multipart/form-data; boundary=B"}
        chunked = small.http("POST", "/openai/files", data=iter([body]), headers=headers)
        assert [announced.status_code, chunked.status_code] == [413, 413]
        assert small.http("GET", "/openai/files").json()["data"] == []
        assert not [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]


def test_the_sdk_s_chunked_upload_makes_one_file(service: LiveService, tmp_path) -> None:
    content = jsonl(2000)
    path = tmp_path / "big.jsonl"
    path.write_bytes(content)
    upload = service.azure().uploads.upload_file_chunked(
        file=path, mime_type="application/jsonl", purpose="fine-tune", part_size=50_000,
        md5=hashlib.md5(content).hexdigest(),
    )  # fmt: skip
    assert upload.status == "completed"
    assert upload.file is not None
    assert service.azure().files.content(upload.file.id).read() == content


def test_an_upload_that_was_cancelled_is_a_conflict_that_clients_don_t_retry(service: LiveService) -> None:
    client = service.azure()
    upload = client.uploads.create(bytes=3, filename="a", mime_type="text/plain", purpose="fine-tune")
    client.uploads.cancel(upload.id)
    with pytest.raises(openai.ConflictError) as refused:
        client.uploads.parts.create(upload.id, data=io.BytesIO(b"abc"))
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert refused.value.code == "unexpectedEntityState"


def test_a_page_that_follows_nothing_and_a_wrong_limit_are_refused(service: LiveService) -> None:
    for query in ({"after": "file-x"}, {"limit": "0"}, {"limit": "many"}, {"limit": "-1"}):
        response = service.http("GET", "/openai/files", params={"api-version": VERSION, **query})
        assert response.status_code == 400
        assert response.json()["error"]["target"] in query


def test_files_below_a_deployment_and_doubled_slashes_are_found(service: LiveService) -> None:
    for path in ("//openai/files", "/openai/deployments/d/files", "/openai//files"):
        assert service.http("GET", path).status_code == 200


@pytest.mark.parametrize("version", [None, "2021-01-01", "latest", "2024-13-01", "v1"])
def test_without_a_known_version_nothing_is_found(service: LiveService, version: str | None) -> None:
    response = service.http("GET", "/openai/files", params={"api-version": version} if version else {})
    assert response.status_code == 404
    assert response.json() == {"error": {"code": "404", "message": "Resource not found"}}


def test_v1_takes_its_own_versions_and_says_what_is_wrong_with_a_date(service: LiveService) -> None:
    for version in ("v1", "preview"):
        assert service.http("GET", "/openai/v1/files", params={"api-version": version}).status_code == 200
    response = service.http("GET", "/openai/v1/files", params={"api-version": VERSION})
    assert response.status_code == 400
    assert "API version not supported" in response.json()["error"]["message"]


def test_no_key_a_wrong_key_and_a_wrong_bearer_are_401(service: LiveService) -> None:
    for headers in ({}, {"api-key": "wrong"}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer a.b.c"}):
        response = service.http("GET", "/openai/files", headers=headers)
        assert response.status_code == 401
        assert response.json()["error"]["message"]


def test_the_api_key_wins_over_a_bearer_as_openai_1_sends_both(service: LiveService) -> None:
    headers = {"api-key": service.key, "authorization": "Bearer not.a.jwt"}
    assert service.http("GET", "/openai/files", headers=headers).status_code == 200
    headers = {"authorization": f"Bearer {service.key}"}
    assert service.http("GET", "/openai/v1/files", params={}, headers=headers).status_code == 200


def test_every_answer_carries_its_request_id_and_echoes_the_client_s(service: LiveService) -> None:
    headers = {"api-key": service.key, "x-ms-client-request-id": "mine"}
    for path in ("/openai/files", "/nowhere", "/openai/files/file-none"):
        response = service.http("GET", path, headers=headers)
        assert response.headers["apim-request-id"] == response.headers["x-request-id"]
        assert response.headers["x-ms-client-request-id"] == "mine"


def test_an_unknown_path_has_the_contract_s_404(service: LiveService) -> None:
    assert service.http("GET", "/openai/nothing").json() == {"error": {"code": "404", "message": "Resource not found"}}
    assert requests.get(service.base + "/", timeout=PATIENCE).status_code == 404
