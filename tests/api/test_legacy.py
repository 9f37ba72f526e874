"""What clients of 2022 still ask for: data-plane deployments and fine-tunes, over the same rows as their successors."""

import json
import time

import pytest

from tests.api.test_control import deploy, settled
from tests.api.test_jobs import BASE, tune, upload
from tests.live import LiveService

STANDARD = {"scale_type": "standard"}
OLD = {"api-version": "2022-12-01"}


def create(service: LiveService, model: str, **scale: object) -> dict:
    body = {"model": model, "scale_settings": {**STANDARD, **scale}}
    response = service.http("POST", "/openai/deployments", params=OLD, json=body)
    assert response.status_code == 201, response.text
    assert response.headers["location"].endswith("/openai/deployments/" + response.json()["id"])
    settled(service, response.json()["id"])
    return service.http("GET", "/openai/deployments/" + response.json()["id"], params=OLD).json()


def test_a_deployment_of_2022_answers_and_is_the_one_that_arm_shows(service: LiveService) -> None:
    model = tune(service).fine_tuned_model
    made = create(service, model)
    assert made["id"].startswith("deployment-")
    assert (made["object"], made["model"], made["status"]) == ("deployment", model, "succeeded")
    assert made["owner"] == "organization-owner"
    assert service.arm("GET", f"/deployments/{made['id']}").json()["properties"]["model"]["name"] == model
    answer = service.azure().chat.completions.create(model=made["id"], messages=[{"role": "user", "content": "x"}])
    assert answer.model == model


def test_arm_s_deployments_are_listed_and_deleted_in_the_old_way_too(service: LiveService) -> None:
    deploy(service, "from-arm", BASE)
    listed = service.http("GET", "/openai/deployments", params=OLD).json()
    assert "from-arm" in [deployment["id"] for deployment in listed["data"]]
    assert service.http("DELETE", "/openai/deployments/from-arm", params=OLD).status_code == 204
    gone = service.http("DELETE", "/openai/deployments/from-arm", params=OLD)
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "notFound")
    assert service.arm("GET", "/deployments/from-arm").status_code == 404


def test_a_merge_patch_changes_the_scale(service: LiveService) -> None:
    made = create(service, BASE, scale_type="manual", capacity=2)
    assert made["scale_settings"] == {"scale_type": "manual", "capacity": 2}
    patched = service.http(
        "PATCH",
        "/openai/deployments/" + made["id"],
        params=OLD,
        headers={"api-key": service.key, "content-type": "application/merge-patch+json"},
        data=json.dumps({"scale_settings": {"scale_type": "manual", "capacity": 1}}),
    )
    assert patched.json()["scale_settings"] == {"scale_type": "manual", "capacity": 1}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": BASE}, "scale_settings"),
        ({"model": BASE, "scale_settings": {"scale_type": "manual"}}, "scale_settings"),
        ({"model": BASE, "scale_settings": {"scale_type": "large"}}, "scale_settings.scale_type"),
        ({"model": BASE, "scale_settings": {"scale_type": "manual", "capacity": 10**7}}, "scale_settings.capacity"),
        ({"model": "unknown", "scale_settings": STANDARD}, "model"),
    ],
)
def test_an_old_create_that_can_t_be_says_why(service: LiveService, body: dict, param: str) -> None:
    response = service.http("POST", "/openai/deployments", params=OLD, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["target"] == param


def test_fine_tunes_are_the_jobs_in_the_shape_of_2022(service: LiveService) -> None:
    job = tune(service)
    old_id = "ft-" + job.id.removeprefix("ftjob-")
    found = service.http("GET", f"/openai/fine-tunes/{old_id}", params=OLD).json()
    assert (found["id"], found["object"], found["status"]) == (old_id, "fine-tune", "succeeded")
    assert found["fine_tuned_model"] == job.fine_tuned_model
    assert found["hyperparams"]["n_epochs"] == job.hyperparameters.n_epochs
    assert [file["id"] for file in found["training_files"]] == [job.training_file]
    assert [file["status"] for file in found["result_files"]] == ["succeeded"]
    assert found["events"][0]["object"] == "fine-tune-event"
    assert found["events"][0]["message"].startswith("Job enqueued.")
    listed = service.http("GET", "/openai/fine-tunes", params=OLD).json()["data"]
    assert old_id in [fine_tune["id"] for fine_tune in listed]


def test_fine_tunes_can_be_read_only(service: LiveService) -> None:
    body = {"model": BASE, "training_file": upload(service)}
    assert service.http("POST", "/openai/fine-tunes", params=OLD, json=body).status_code == 405
    assert service.http("GET", "/openai/fine-tunes/ft-none", params=OLD).status_code == 404


def test_streamed_events_follow_a_job_to_its_end(service: LiveService) -> None:
    service.trainer.between = lambda _order, step: time.sleep(0.1) if step == 5 else None
    try:
        job = service.azure().fine_tuning.jobs.create(model=BASE, training_file=upload(service))
        response = service.http(
            "GET", f"/openai/fine-tunes/{job.id}/events", params={**OLD, "stream": "true"}, stream=True
        )
        lines = [line.removeprefix(b"data: ") for line in response.iter_lines() if line]
    finally:
        service.trainer.between = lambda _order, _step: None
    assert lines.pop() == b"[DONE]"
    messages = [json.loads(line)["message"] for line in lines]
    whole = service.http("GET", f"/openai/fine-tunes/{job.id}/events", params=OLD).json()["data"]
    assert messages == [event["message"] for event in whole]
