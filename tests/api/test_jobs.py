"""Jobs, events, checkpoints and models through the wire, with the real SDKs and a scripted trainer."""

from typing import Any

import openai
import pytest

from tests.live import VERSION, LiveService
from tests.test_files import jsonl, preference_jsonl
from tests.waiting import until

BASE = "gpt-35-turbo-0613"


def upload(service: LiveService) -> str:
    return service.azure().files.create(file=("train.jsonl", jsonl()), purpose="fine-tune").id


def finished(client: openai.OpenAI, job_id: str) -> Any:
    def look() -> Any:
        return client.fine_tuning.jobs.retrieve(job_id)

    until(lambda: look().status in ("succeeded", "failed", "cancelled"), said=look)
    return look()


def tune(service: LiveService, **more: Any) -> Any:
    client = service.azure()
    job = client.fine_tuning.jobs.create(**{"model": BASE, "training_file": upload(service), **more})
    return finished(client, job.id)


def test_the_guide_s_create_then_poll_then_download_works_as_written(service: LiveService) -> None:
    client = service.azure(api_version="2024-02-01")
    training_file = client.files.create(file=("training_set.jsonl", jsonl()), purpose="fine-tune").id
    # The guide doesn't wait for the file.
    response = client.fine_tuning.jobs.create(training_file=training_file, model=BASE, hyperparameters={"n_epochs": 2})
    assert response.status == "pending"
    job = finished(client, response.id)
    assert job.status == "succeeded"
    assert job.fine_tuned_model == f"{BASE}.ft-{job.id.removeprefix('ftjob-')}"
    assert job.hyperparameters.n_epochs == 2
    assert isinstance(job.hyperparameters.batch_size, int)
    retrieve = client.files.retrieve(job.result_files[0])
    assert retrieve.filename == "results.csv"
    assert client.files.content(job.result_files[0]).read().startswith(b"step,train_loss,training_accuracy,")


def test_hyperparameters_are_automatic_in_every_spelling_until_they_are_known(service: LiveService) -> None:
    supervised = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": "auto", "batch_size": 2}}}
    job = tune(service, method=supervised)
    assert job.hyperparameters.batch_size == 2
    assert job.hyperparameters.n_epochs >= 1
    assert tune(service, hyperparameters={"n_epochs": -1}).hyperparameters.n_epochs >= 1


DPO_METHODS = [
    {"hyperparameters": {"beta": 0.2, "l2_multiplier": 0.1, "n_epochs": 3, "batch_size": "auto"}},
    {"beta": 0.2, "l2_multiplier": 0.1, "hyperparameters": {"n_epochs": 3}},
]


@pytest.mark.parametrize("given", DPO_METHODS)
@pytest.mark.parametrize("family", ["classic", "v1"])
def test_preference_jobs_take_both_nestings_and_show_their_numbers_in_one(
    service: LiveService, given: dict[str, Any], family: str
) -> None:
    client = service.azure() if family == "classic" else service.v1()
    file = client.files.create(file=("pairs.jsonl", preference_jsonl()), purpose="fine-tune").id
    method: Any = {"type": "dpo", "dpo": given}
    created = client.fine_tuning.jobs.create(model=BASE, training_file=file, validation_file=file, method=method)
    automatic = -1 if family == "classic" else "auto"
    assert created.method is not None
    assert created.method.to_dict() == {
        "type": "dpo",
        "dpo": {
            "hyperparameters": {
                "n_epochs": 3,
                "batch_size": automatic,
                "learning_rate_multiplier": automatic,
                "beta": 0.2,
                "l2_multiplier": 0.1,
            }
        },
    }
    job = finished(client, created.id)
    assert job.status == "succeeded"
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (3, 4)
    resolved = job.method.dpo.hyperparameters
    assert (resolved.n_epochs, resolved.batch_size, resolved.beta) == (3, 4, 0.2)
    header = client.files.content(job.result_files[0]).read().split(b"\n")[0]
    assert b",rewards/chosen,rewards/rejected,rewards/accuracies,rewards/margins,valid_rewards/chosen" in header


def test_a_supervised_results_file_has_no_rewards(service: LiveService) -> None:
    content = service.azure().files.content(tune(service).result_files[0]).read()
    assert content.split(b"\n")[0] == (
        b"step,train_loss,training_accuracy,train_mean_token_accuracy,valid_loss,valid_accuracy,"
        b"validation_mean_token_accuracy,valid_mean_token_accuracy,full_valid_loss,full_valid_mean_token_accuracy"
    )


@pytest.mark.parametrize(
    ("method", "param"),
    [
        ({"type": "dpo", "dpo": {"beta": 0}}, "method.dpo.beta"),
        ({"type": "dpo", "dpo": {"hyperparameters": {"beta": 2.5}}}, "method.dpo.hyperparameters.beta"),
        (
            {"type": "dpo", "dpo": {"hyperparameters": {"l2_multiplier": -1.5}}},
            "method.dpo.hyperparameters.l2_multiplier",
        ),
    ],
)
def test_a_preference_job_beyond_its_bounds_is_400_with_its_parameter(
    service: LiveService, method: dict[str, Any], param: str
) -> None:
    body = {"model": BASE, "training_file": upload(service), "method": method}
    refused = service.http("POST", "/openai/fine_tuning/jobs", json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param


def test_classic_leaves_nulls_out_and_v1_says_them(service: LiveService) -> None:
    job = tune(service, suffix="null-test")
    classic = service.http("GET", f"/openai/fine_tuning/jobs/{job.id}").json()
    v1 = service.http("GET", f"/openai/v1/fine_tuning/jobs/{job.id}", params={}).json()
    assert "error" not in classic
    assert classic["suffix"] == "null-test"
    assert v1["error"] is None
    assert v1["user_provided_suffix"] == "null-test"


def test_creating_answers_201_with_location_on_classic_and_200_on_v1(service: LiveService) -> None:
    body = {"model": BASE, "training_file": upload(service), "trainingType": 1, "seed": 5, "metadata": {"a": "b"}}
    classic = service.http("POST", "/openai/fine_tuning/jobs", json=body)
    assert classic.status_code == 201
    assert classic.headers["location"].endswith(classic.json()["id"])
    assert classic.json()["seed"] == 5
    body["trainingType"] = "GlobalStandard"
    v1 = service.http("POST", "/openai/v1/fine_tuning/jobs", json=body, params={})
    assert v1.status_code == 200
    assert v1.json()["trainingType"] == "globalStandard"
    assert v1.json()["metadata"] == {"a": "b"}


def test_events_come_newest_first_and_page_by_page_through_the_sdk(service: LiveService) -> None:
    client = service.azure()
    job = tune(service)
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=2))
    messages = [event.message for event in events]
    assert len({event.id for event in events}) == len(events) >= 8
    assert messages[-1].startswith("Job enqueued.")
    assert messages[0].startswith("Job succeeded.")
    step = next(event for event in events if event.type == "metrics")
    assert isinstance(step.data, dict)
    assert {"step", "train_loss", "train_mean_token_accuracy"} <= set(step.data)


def test_events_answer_the_guide_s_post_and_the_bare_path_of_openai_0_28(service: LiveService) -> None:
    job = tune(service)
    posted = service.http("POST", f"/openai/fine_tuning/jobs/{job.id}/events")
    bare = service.http("GET", f"/fine_tuning/jobs/{job.id}/events", params={"limit": 2})
    assert posted.json()["object"] == "list"
    assert len(bare.json()["data"]) == 2


def test_checkpoints_are_listed_and_can_be_tuned_further(service: LiveService) -> None:
    client = service.azure()
    job = tune(service)
    checkpoint = next(iter(client.fine_tuning.jobs.checkpoints.list(job.id)))
    assert checkpoint.fine_tuned_model_checkpoint == job.fine_tuned_model
    assert checkpoint.metrics.train_loss is not None
    again = tune(service, model=checkpoint.id, suffix="again")
    assert again.status == "succeeded"
    assert again.fine_tuned_model.startswith(f"{BASE}.ft-")


def test_a_job_is_cancelled_once_and_never_again(service: LiveService) -> None:
    blocking = upload(service)
    client = service.azure()
    job = client.fine_tuning.jobs.create(model=BASE, training_file=blocking)
    done = finished(client, job.id)
    with pytest.raises(openai.ConflictError) as refused:
        client.fine_tuning.jobs.cancel(done.id)
    assert refused.value.code == "unexpectedEntityState"
    assert refused.value.response.headers["x-should-retry"] == "false"


def test_a_deleted_job_answers_204_and_then_404(service: LiveService) -> None:
    job = tune(service)
    gone = service.http("DELETE", f"/openai/fine_tuning/jobs/{job.id}")
    assert (gone.status_code, gone.content) == (204, b"")
    again = service.http("GET", f"/openai/fine_tuning/jobs/{job.id}")
    assert again.status_code == 404
    assert again.json()["error"]["code"] == "notFound"


def test_jobs_are_listed_newest_first_by_page_and_by_metadata(service: LiveService) -> None:
    marked = tune(service, metadata={"who": "me"})
    plain = tune(service)
    client = service.azure()
    ids = [job.id for job in client.fine_tuning.jobs.list(limit=1)]
    assert ids.index(plain.id) < ids.index(marked.id)
    query = {"api-version": VERSION, "metadata[who]": "me"}
    found = service.http("GET", "/openai/fine_tuning/jobs", params=query).json()
    assert [job["id"] for job in found["data"]] == [marked.id]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": "no-such-model"}, "model"),
        ({"model": 5}, "model"),
        ({"model": None}, "model"),
        ({"training_file": "file-missing"}, "training_file"),
        ({"hyperparameters": {"n_epochs": "many"}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"learning_rate_multiplier": 1e9}}, "hyperparameters.learning_rate_multiplier"),
        ({"hyperparameters": []}, "hyperparameters"),
        ({"suffix": "a b"}, "suffix"),
        ({"seed": "x"}, "seed"),
        ({"method": {"type": "magic"}}, "method.type"),
    ],
)
def test_a_bad_create_is_400_and_names_its_parameter_in_both_families(
    service: LiveService, change: dict, param: str
) -> None:
    body = {"model": BASE, "training_file": upload(service), **change}
    classic = service.http("POST", "/openai/fine_tuning/jobs", json=body)
    v1 = service.http("POST", "/openai/v1/fine_tuning/jobs", json=body, params={})
    assert [classic.status_code, v1.status_code] == [400, 400]
    assert classic.json()["error"]["target"] == v1.json()["error"]["param"] == param
    assert v1.json()["error"]["type"] == "invalid_request_error"
    asked = service.http("POST", "/openai/fine_tuning/recipe", json=body)
    assert (asked.status_code, asked.json()) == (400, classic.json())


def test_the_recipe_says_what_a_create_with_the_same_body_trains_with(service: LiveService) -> None:
    file = upload(service)
    body = {"model": BASE, "training_file": file, "hyperparameters": {"batch_size": 2}, "seed": 7}
    service.azure().files.wait_for_processing(file, poll_interval=0.1)
    recipe = service.http("POST", "/openai/fine_tuning/recipe", json=body).json()
    job = tune(service, **body)
    given = {name: recipe[name] for name in ("n_epochs", "batch_size", "learning_rate_multiplier")}
    assert given == job.hyperparameters.to_dict() == {"n_epochs": 8, "batch_size": 2, "learning_rate_multiplier": 1.0}
    assert (recipe["object"], recipe["seed"], recipe["learning_rate"]) == ("fine_tuning.recipe", 7, 2e-3)


def test_every_name_that_a_job_can_start_from_is_listed_bases_first(service: LiveService) -> None:
    service.trainer.valid_losses = {4: 1.0, 8: 0.5}
    job = tune(service)
    service.trainer.valid_losses = {}
    found = {start["id"]: start for start in service.http("GET", "/openai/fine_tuning/models").json()["data"]}
    assert (found["babbage-002"]["formats"], found[BASE]["formats"]) == (["completion"], ["chat", "preference"])
    assert list(found).index(BASE) < list(found).index(job.fine_tuned_model)
    tuned = found[job.fine_tuned_model]
    assert (tuned["base"], tuned["fine_tuning_job_id"], tuned["formats"]) == (BASE, job.id, ["chat", "preference"])
    steps = [start.get("step_number") for start in found.values() if start.get("fine_tuning_job_id") == job.id]
    assert steps == [None, 8, 4]
    for name in found:
        assert service.rooms.catalog.find(service.account.id, name).name == name


def test_a_body_that_is_no_json_or_misses_a_field_says_so(service: LiveService) -> None:
    for body in (b"", b"{", b"[]", b'"x"', b"\xff", b"{" * 100_000, b"[" * 100_000, b'{"model": "m"}'):
        response = service.http("POST", "/openai/fine_tuning/jobs", data=body)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "invalidPayload"


def test_a_job_on_a_faulty_or_foreign_purpose_file_is_refused_with_the_reason(service: LiveService) -> None:
    client = service.azure()
    bad = client.files.create(file=("bad.jsonl", b"{\n" * 20), purpose="fine-tune")
    client.files.wait_for_processing(bad.id, poll_interval=0.1)
    with pytest.raises(openai.BadRequestError, match="line 1"):
        client.fine_tuning.jobs.create(model=BASE, training_file=bad.id)
    batch = client.files.create(file=("batch.jsonl", jsonl()), purpose="batch")
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client.fine_tuning.jobs.create(model=BASE, training_file=batch.id)


def test_an_idempotency_key_makes_a_repeated_create_one_job(service: LiveService) -> None:
    body = {"model": BASE, "training_file": upload(service)}
    headers = {"api-key": service.key, "idempotency-key": "once"}
    first, second = (service.http("POST", "/openai/fine_tuning/jobs", json=body, headers=headers) for _ in range(2))
    assert first.json()["id"] == second.json()["id"]


def test_models_show_bases_and_tuned_models_with_what_they_can_do(service: LiveService) -> None:
    client = service.azure()
    job = tune(service)
    tuned = client.models.retrieve(job.fine_tuned_model)
    extra = tuned.model_extra or {}
    assert extra["capabilities"] == {
        "fine_tune": True, "inference": True, "completion": False, "chat_completion": True, "embeddings": False,
    }  # fmt: skip
    assert (extra["model"], extra["fine_tune"], extra["parent"]) == (BASE, job.id, BASE)
    listed = {model.id: model for model in client.models.list()}
    assert {BASE, "babbage-002", "smollm2-135m-instruct", job.fine_tuned_model} <= set(listed)
    assert (listed[BASE].model_extra or {})["served_by"] == "smollm2-135m-instruct"
    assert client.models.delete(job.fine_tuned_model).deleted
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(job.fine_tuned_model)


def test_another_account_s_ids_are_404_like_ids_that_never_were(service: LiveService) -> None:
    job = tune(service)
    rooms = service.rooms
    for path in (
        "/openai/files/{}",
        "/openai/files/{}/content",
        "/openai/files/{}/findings",
        "/openai/fine_tuning/jobs/{}",
        "/openai/fine_tuning/jobs/{}/events",
        "/openai/fine_tuning/jobs/{}/checkpoints",
        "/openai/uploads/{}",
        "/openai/models/{}",
    ):
        assert service.http("GET", path.format("unknown")).status_code == 404, path
    other = rooms.accounts.first().id + 1
    for find in (
        lambda: rooms.jobs.get(other, job.id),
        lambda: rooms.files.get(other, job.result_files[0]),
        lambda: rooms.catalog.delete(other, job.fine_tuned_model),
        lambda: rooms.jobs.cancel(other, job.id),
    ):
        with pytest.raises(Exception, match="does not exist"):
            find()


def test_the_steps_of_a_job_are_read_from_where_one_stopped(service: LiveService) -> None:
    job = tune(service)
    first = service.http("GET", f"/openai/fine_tuning/jobs/{job.id}/metrics", params=page_of(limit=5)).json()
    assert [row["step"] for row in first["data"]] == [1, 2, 3, 4, 5]
    assert first["has_more"]
    rest = service.http("GET", f"/openai/fine_tuning/jobs/{job.id}/metrics", params=page_of(after=5)).json()
    assert [row["step"] for row in rest["data"]] == [*range(6, 13)]
    assert not rest["has_more"]
    assert rest["data"][0] == {
        "step": 6,
        "train_loss": 4 / 6,
        "training_accuracy": 0.5,
        "train_mean_token_accuracy": 0.75,
    }
    unknown = service.http("GET", "/openai/fine_tuning/jobs/ftjob-0/metrics")
    assert unknown.status_code == 404


def test_jobs_are_found_by_their_names_status_and_what_they_were_tuned_from(service: LiveService) -> None:
    made = tune(service, suffix="findable-100_pct")
    again = tune(service, model=made.fine_tuned_model, suffix="second")

    def found(**sought: str) -> list[str]:
        answer = service.http("GET", "/openai/fine_tuning/jobs", params=page_of(**sought))
        return [job["id"] for job in answer.json()["data"]]

    assert found(search="FINDABLE-100_") == [again.id, made.id]
    assert found(search="findable-100%") == []
    assert found(search=made.id[6:20], status="succeeded") == [again.id, made.id]
    assert found(search=made.id, status="running,failed") == []
    assert found(tuned_from=made.fine_tuned_model) == [again.id]
    refused = service.http("GET", "/openai/fine_tuning/jobs", params=page_of(status="done"))
    assert refused.status_code == 400
    assert "Statuses are: pending, running" in refused.json()["error"]["message"]


def page_of(**more: Any) -> dict[str, Any]:
    return {"api-version": VERSION, **more}
