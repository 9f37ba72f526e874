"""openai 1.x to 3.x: the guide's Python snippets through AzureOpenAI, then OpenAI on /openai/v1."""

import os
from pathlib import Path

import openai
from checks import Checks, until

ENDPOINT, KEY = os.environ["AZURE_OPENAI_ENDPOINT"], os.environ["AZURE_OPENAI_API_KEY"]
BASE = "gpt-35-turbo-0613"
client = openai.AzureOpenAI(azure_endpoint=ENDPOINT, api_key=KEY, api_version="2024-02-01")
v1 = openai.OpenAI(base_url=ENDPOINT + "/openai/v1/", api_key=KEY)
check = Checks()


@check("files.create and wait_for_processing")
def training():
    with Path(os.environ["TRAINING_FILE"]).open("rb") as stream:
        file = client.files.create(file=stream, purpose="fine-tune")
    assert client.files.wait_for_processing(file.id, poll_interval=0.1).status == "processed"
    return file.id


@check("files.list, content")
def listed():
    assert check.training in [file.id for file in client.files.list()]
    assert client.files.content(check.training).read().startswith(b"\xef\xbb\xbf")


@check("fine_tuning.jobs.create with hyperparameters, retrieve")
def job():
    made = client.fine_tuning.jobs.create(training_file=check.training, model=BASE, hyperparameters={"n_epochs": 2})
    return until(lambda: client.fine_tuning.jobs.retrieve(made.id), lambda job: job.status in ("succeeded", "failed"))


@check("fine_tuned_model is the base's name and the job's hex")
def name():
    assert check.job.fine_tuned_model == BASE + ".ft-" + check.job.id[len("ftjob-") :]


@check("fine_tuning.jobs.list and list_events page by page")
def pages():
    assert check.job.id in [job.id for job in client.fine_tuning.jobs.list(limit=1)]
    events = list(client.fine_tuning.jobs.list_events(check.job.id, limit=2))
    assert len({event.id for event in events}) == len(events) > 5


@check("results.csv through files.retrieve and files.content")
def results():
    file = client.files.retrieve(check.job.result_files[0])
    assert file.filename == "results.csv"
    assert client.files.content(file.id).read().startswith(b"step,train_loss,training_accuracy")


@check("models.list, retrieve")
def models():
    assert check.job.fine_tuned_model in [model.id for model in client.models.list()]
    assert client.models.retrieve(check.job.fine_tuned_model).id == check.job.fine_tuned_model


@check("a client made with azure_deployment still finds files and jobs")
def below_deployment():
    bound = openai.AzureOpenAI(azure_endpoint=ENDPOINT, api_key=KEY, api_version="2024-02-01", azure_deployment="d")
    assert bound.fine_tuning.jobs.retrieve(check.job.id).id == check.job.id
    assert bound.files.retrieve(check.training).id == check.training


@check("an error has its class, code and message")
def errors():
    try:
        client.fine_tuning.jobs.create(training_file=check.training, model="no-such-model")
    except openai.BadRequestError as error:
        assert error.code == "invalidPayload", error.code
        assert "no-such-model" in error.message
    else:
        raise AssertionError("no error")
    for wrong in ("file-none",):
        try:
            client.files.retrieve(wrong)
        except openai.NotFoundError as error:
            assert error.code == "notFound"


@check("a wrong key is an AuthenticationError")
def wrong_key():
    try:
        openai.AzureOpenAI(azure_endpoint=ENDPOINT, api_key="x", api_version="2024-02-01").models.list()
    except openai.AuthenticationError:
        return
    raise AssertionError("no error")


@check("OpenAI on /openai/v1 sees the same job")
def through_v1():
    assert v1.fine_tuning.jobs.retrieve(check.job.id).fine_tuned_model == check.job.fine_tuned_model


@check("models.delete and files.delete")
def clean_up():
    assert client.models.delete(check.job.fine_tuned_model).deleted
    assert client.files.delete(check.training).deleted
