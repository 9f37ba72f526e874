"""The import route on a live service: what it answers, and that a slow server holds up nobody else."""

import threading
from collections.abc import Iterator

import pytest

from tests.imports.given import Origin, serving
from tests.live import LiveService, live_service
from tests.test_files import jsonl
from tests.waiting import until

NOWHERE = "https://nowhere.invalid/data.jsonl?sig=s3cret"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    home = tmp_path_factory.mktemp("home")
    with live_service(home, max_files=500, import_allow="127.0.0.1", max_running_imports=1) as running:
        yield running


def body(url: str = NOWHERE, **more: object) -> dict[str, object]:
    return {"purpose": "fine-tune", "filename": "training.jsonl", "content_url": url, **more}


def ask(service: LiveService, url: str = NOWHERE, headers: dict[str, str] | None = None, **more: object) -> dict:
    headers = {"api-key": service.key, **(headers or {})}
    response = service.http("POST", "/openai/files/import", json=body(url, **more), headers=headers)
    assert response.status_code == 201, response.text
    return response.json()


def ended(service: LiveService, file_id: str) -> dict:
    def look() -> dict:
        return service.http("GET", f"/openai/files/{file_id}").json()

    until(lambda: look()["status"] in ("processed", "error"), said=look)
    return look()


def test_classic_answers_201_with_location_and_v1_answers_200(service: LiveService) -> None:
    with serving(Origin(jsonl())) as port:
        url = f"http://127.0.0.1:{port}/data.jsonl"
        classic = service.http("POST", "/openai/files/import", json=body(url))
        v1 = service.http("POST", "/openai/v1/files/import", params={}, json=body(url))
        assert (classic.status_code, v1.status_code) == (201, 200)
        assert classic.headers["location"] == f"{service.base}/openai/files/{classic.json()['id']}"
        assert (classic.json()["status"], v1.json()["status"]) == ("pending", "pending")
        for made in (classic, v1):
            done = ended(service, made.json()["id"])
            assert (done["status"], done["filename"], done["bytes"]) == ("processed", "training.jsonl", len(jsonl()))


def test_a_job_on_a_file_that_is_still_fetched_trains_once_it_is_there(service: LiveService) -> None:
    slow = Origin(jsonl(200), cuts=[100], hold=threading.Event())
    with serving(slow) as port:
        file = ask(service, f"http://127.0.0.1:{port}/")["id"]
        client = service.azure()
        job = client.fine_tuning.jobs.create(model="gpt-35-turbo-0613", training_file=file)
        other = client.files.create(file=("b.jsonl", jsonl()), purpose="fine-tune")
        next_job = client.fine_tuning.jobs.create(model="gpt-35-turbo-0613", training_file=other.id)
        assert client.files.wait_for_processing(other.id, poll_interval=0.1).status == "processed"
        until(lambda: client.fine_tuning.jobs.retrieve(next_job.id).status == "succeeded")
        assert client.fine_tuning.jobs.retrieve(job.id).status == "pending"
        slow.hold.set()
        until(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "succeeded")


def test_a_failed_fetch_is_an_error_that_shows_host_and_advice_and_no_signature(service: LiveService) -> None:
    with serving(Origin(b"", statuses=[403])) as port:
        done = ended(service, ask(service, f"http://127.0.0.1:{port}/c/b?sig=s3cret")["id"])
    assert done["status"] == "error"
    assert done["status_details"].startswith("fileImportFailed: 127.0.0.1 refuses access (403).")
    assert "s3cret" not in str(done)
    content = service.http("GET", f"/openai/files/{done['id']}/content")
    assert (content.status_code, content.json()["error"]["code"]) == (409, "unexpectedEntityState")


def test_a_file_that_arrives_faulty_ends_as_an_upload_would(service: LiveService) -> None:
    with serving(Origin(b"{broken\n")) as port:
        done = ended(service, ask(service, f"http://127.0.0.1:{port}/")["id"])
    assert done["status_details"].startswith("Validation of jsonl file failed:")


def test_deleting_the_file_cancels_its_fetch(service: LiveService) -> None:
    with serving(Origin(jsonl(200), cuts=[100], hold=threading.Event())) as port:
        file = ask(service, f"http://127.0.0.1:{port}/")["id"]
        assert service.http("DELETE", f"/openai/files/{file}").json()["deleted"]
        assert service.http("GET", f"/openai/files/{file}").status_code == 404


@pytest.mark.parametrize(
    ("wrong", "target"),
    [
        ({"purpose": "fun"}, "purpose"),
        ({"filename": "folder/"}, "filename"),
        ({"filename": 5}, "filename"),
        ({"content_url": "file:///etc/passwd"}, "content_url"),
        ({"content_url": "https://h/" + "x" * 5000}, "content_url"),
        ({"expires_after": {"seconds": 1, "anchor": "created_at"}}, "expires_after"),
    ],
)
def test_a_body_that_can_t_be_imported_names_its_field(service: LiveService, wrong: dict, target: str) -> None:
    response = service.http("POST", "/openai/files/import", json=body(**wrong))
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["target"]) == ("invalidPayload", target)


@pytest.mark.parametrize("field", ["purpose", "filename", "content_url"])
def test_a_body_without_one_of_its_fields_is_refused_by_name(service: LiveService, field: str) -> None:
    given = {name: value for name, value in body().items() if name != field}
    response = service.http("POST", "/openai/files/import", json=given)
    assert (response.status_code, response.json()["error"]["target"]) == (400, field)


def test_the_same_request_twice_with_one_key_makes_one_file(service: LiveService) -> None:
    headers = {"idempotency-key": "once"}
    assert ask(service, headers=headers)["id"] == ask(service, headers=headers)["id"]
    other = service.http(
        "POST", "/openai/files/import", json=body(NOWHERE + "2"), headers={"api-key": service.key, **headers}
    )
    assert (other.status_code, other.json()["error"]["code"]) == (409, "conflict")


def test_an_expiry_is_kept(service: LiveService) -> None:
    file = ask(service, expires_after={"seconds": 1_209_600, "anchor": "created_at"})
    assert file["expires_at"] == file["created_at"] + 1_209_600
