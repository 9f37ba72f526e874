"""openai 0.28 with api_type azure, as the guide's clean-up snippet uses it."""

import os
from pathlib import Path

import openai
from checks import Checks, until

openai.api_type = "azure"
openai.api_base = os.environ["AZURE_OPENAI_ENDPOINT"]
openai.api_key = os.environ["AZURE_OPENAI_API_KEY"]
openai.api_version = "2023-12-01-preview"
check = Checks()


@check("File.create")
def training():
    with Path(os.environ["TRAINING_FILE"]).open("rb") as stream:
        file = openai.File.create(file=stream, purpose="fine-tune", user_provided_filename="training_0_28.jsonl")
    until(lambda: openai.File.retrieve(file["id"])["status"], lambda status: status == "processed")
    return file["id"]


@check("File.list and File.download")
def listed():
    assert check.training in [file["id"] for file in openai.File.list().data]
    assert openai.File.download(check.training).startswith(b"\xef\xbb\xbf")


@check("FineTuningJob.create, retrieve")
def job():
    made = openai.FineTuningJob.create(training_file=check.training, model="gpt-35-turbo-0613")
    return until(lambda: openai.FineTuningJob.retrieve(made["id"]), lambda job: job["status"] == "succeeded")


@check("FineTuningJob.list")
def jobs():
    assert check.job["id"] in [job["id"] for job in openai.FineTuningJob.list(limit=20)["data"]]


@check("FineTuningJob.list_events (its path has no prefix and no version)")
def events():
    assert len(openai.FineTuningJob.list_events(check.job["id"], limit=2)["data"]) == 2


@check("the guide's clean-up snippet")
def clean_up():
    for item in openai.File.list().data:
        if item["filename"] == "training_0_28.jsonl":
            openai.File.delete(sid=item["id"])
    assert "training_0_28.jsonl" not in [file["filename"] for file in openai.File.list().data]


@check("Deployment.create, retrieve, list, delete on 2022-12-01")
def deployments():
    model = "gpt-35-turbo-0613"
    openai.api_version = "2022-12-01"
    made = openai.Deployment.create(model=model, scale_settings={"scale_type": "standard"})
    find = openai.Deployment.retrieve
    assert until(lambda: find(made["id"]), lambda found: found["status"] == "succeeded")["model"] == model
    assert made["id"] in [found["id"] for found in openai.Deployment.list()["data"]]
    answer = openai.ChatCompletion.create(deployment_id=made["id"], messages=[{"role": "user", "content": "Hello"}])
    assert answer["choices"][0]["message"]["content"]
    openai.Deployment.delete(made["id"])
    assert made["id"] not in [found["id"] for found in openai.Deployment.list()["data"]]


@check("FineTune.list, retrieve, list_events, stream_events on 2022-12-01")
def fine_tunes():
    openai.api_version = "2022-12-01"
    old_id = "ft-" + check.job["id"][len("ftjob-") :]
    assert old_id in [found["id"] for found in openai.FineTune.list()["data"]]
    assert openai.FineTune.retrieve(old_id)["fine_tuned_model"] == check.job["fine_tuned_model"]
    events = openai.FineTune.list_events(old_id)["data"]
    assert [event["message"] for event in openai.FineTune.stream_events(old_id)] == [e["message"] for e in events]
