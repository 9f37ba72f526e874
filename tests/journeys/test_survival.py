"""kill -9 of trainer, worker, engine and server: nothing is lost, and the job ends as if nothing had happened."""

import hashlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.journeys.conftest import Service, running, wait_for
from tests.journeys.test_guide import CHAT_BASE, Arm, results, upload
from tests.waiting import until
from tunery.sample import generate, jsonl

DATA = generate()
SEED = 11


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, base_model: None) -> Iterator[Service]:
    """With a state every few steps, so that what is killed early goes on from one."""
    home = tmp_path_factory.mktemp("home")
    (home / "tunery.toml").write_text("save_every = 2\n")
    yield from running(home)


def create(client: openai.AzureOpenAI) -> Any:
    return client.fine_tuning.jobs.create(
        model=CHAT_BASE,
        training_file=upload(client, "train.jsonl", jsonl(DATA.training[:24])),
        hyperparameters={"n_epochs": 2, "batch_size": 4},
        seed=SEED,
    )


def wait_for_a_step(service: Service, client: openai.AzureOpenAI, job_id: str) -> None:
    until(
        lambda: "metrics" in [event.type for event in client.fine_tuning.jobs.list_events(job_id)],
        seconds=300,
        said=service.log,
    )


def adapter_digest(service: Service, job: Any) -> str:
    adapters = sorted((service.home / "blobs" / "adapters").glob("*/adapter_model.safetensors"))
    newest = max(adapters, key=lambda path: path.stat().st_mtime)
    return hashlib.sha256(newest.read_bytes()).hexdigest()


def kill_all(pids: list[int]) -> None:
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def undisturbed(service: Service) -> tuple[list[dict[str, str]], str]:
    client = service.azure()
    job = wait_for(create(client).id, client)
    assert job.status == "succeeded", job.error
    return results(client, job), adapter_digest(service, job)


@pytest.mark.parametrize("victim", ["trainer", "worker", "server"])
def test_a_job_whose_process_is_killed_ends_with_the_same_bytes(
    victim: str, service: Service, undisturbed: tuple[list[dict[str, str]], str]
) -> None:
    client = service.azure()
    job = create(client)
    wait_for_a_step(service, client, job.id)
    if victim == "trainer":
        kill_all(service.children("tunery.training"))
    elif victim == "worker":
        kill_all(service.children("tunery work"))
    else:
        service.kill()
        service.start()
    done = wait_for(job.id, client)
    assert done.status == "succeeded", (done.error, service.log())
    rows = results(client, done)
    assert rows == undisturbed[0]
    assert adapter_digest(service, done) == undisturbed[1]


def test_what_was_acknowledged_is_there_after_a_kill(fresh: Service) -> None:
    client = fresh.azure()
    file = upload(client, "kept.jsonl", jsonl(DATA.training[:20]))
    assert Arm(fresh.environment()).deploy("kept", CHAT_BASE)["properties"]["provisioningState"] == "Succeeded"
    fresh.kill()
    fresh.start()
    assert client.files.content(file).read() == jsonl(DATA.training[:20])
    answer = ask(client)
    assert answer.choices[0].message.content


def test_an_engine_that_is_killed_comes_back_for_the_next_request(fresh: Service) -> None:
    client = fresh.azure()
    Arm(fresh.environment()).deploy("kept", CHAT_BASE)
    before = ask(client).choices[0].message.content
    kill_all(fresh.children("tunery.serving"))
    assert ask(client).choices[0].message.content == before


def ask(client: openai.AzureOpenAI) -> Any:
    return client.chat.completions.create(
        model="kept", messages=[{"role": "user", "content": "Say hello."}], temperature=0, max_tokens=6
    )


def test_pause_keeps_a_checkpoint_and_resume_ends_with_the_same_bytes(
    service: Service, undisturbed: tuple[list[dict[str, str]], str]
) -> None:
    client = service.azure()
    job = create(client)
    wait_for_a_step(service, client, job.id)
    assert client.fine_tuning.jobs.pause(job.id).status == "pausing"
    paused = wait_for(job.id, client)
    assert paused.status == "paused"
    assert next(iter(client.fine_tuning.jobs.checkpoints.list(job.id))).step_number >= 1
    client.fine_tuning.jobs.resume(job.id)
    until(lambda: wait_for(job.id, client).status != "paused")
    assert wait_for(job.id, client).status == "succeeded"
    assert results(client, wait_for(job.id, client)) == undisturbed[0]
    assert adapter_digest(service, job) == undisturbed[1]


def test_cancel_ends_in_cancelled_and_the_trainer_is_gone(service: Service) -> None:
    client = service.azure()
    job = create(client)
    wait_for_a_step(service, client, job.id)
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    until(lambda: not service.children("tunery.training"))
    assert client.fine_tuning.jobs.retrieve(job.id).status == "cancelled"
