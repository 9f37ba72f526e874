"""What the machine tells of itself: numbers and bases, and no name of anybody's."""

import os
import subprocess
import sys

from tests.api.test_jobs import tune
from tests.live import VERSION, LiveService
from tests.waiting import until
from tunery import host
from tunery.catalog import BUNDLED
from tunery.records import TERMINAL
from tunery.weights import Weights


def test_memory_engines_and_queue_are_told(service: LiveService) -> None:
    service.engines.running = {Weights(BUNDLED, "int8"): os.getpid(), Weights("starting"): None}
    until(lambda: idle(service))
    told = service.http("GET", "/openai/machine").json()
    assert 0 < told["memory_free_bytes"] < told["memory_bytes"]
    [ready, starting] = told["engines"]
    assert (ready["base"], ready["quantization"]) == (BUNDLED, "int8") and ready["memory_bytes"] > 10 * 1024**2
    assert starting == {"base": "starting", "quantization": None, "memory_bytes": None}
    assert (told["running_jobs"], told["waiting_jobs"], told["training_bytes"]) == (0, 0, 0)


def idle(service: LiveService) -> bool:
    """Jobs that other tests left behind have ended."""
    listed = service.http("GET", "/openai/fine_tuning/jobs", params={"api-version": VERSION, "limit": "100"}).json()
    return {job["status"] for job in listed["data"]} <= TERMINAL


def test_jobs_of_all_accounts_are_counted(service: LiveService) -> None:
    counted = []
    service.trainer.between = lambda _order, step: (
        counted.append(service.http("GET", "/openai/machine").json()["running_jobs"]) if step == 2 else None
    )
    try:
        tune(service)
    finally:
        service.trainer.between = lambda _order, _step: None
    assert counted == [1]


def test_processes_are_found_by_their_module_and_their_ancestor() -> None:
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline().startswith(b"Serving")
        assert host.running("http.server", os.getpid()) == [child.pid]
        assert host.resident_bytes(child.pid) > 2**20
        assert host.running("http.server", child.pid) == []
        child.terminate()
