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
