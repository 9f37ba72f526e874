"""A real service: `tunery serve` as a process of its own, with the real base model, worker, trainer and engine."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import requests

from tests.live import free_ports
from tests.waiting import PATIENCE, until
from tunery.catalog import BUNDLED
from tunery.settings import Settings


class Service:
    """A `tunery serve` that can be killed and started again on the same home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port, self.tls_port = free_ports(2)
        self.process: subprocess.Popen[bytes] | None = None
        self._client: openai.AzureOpenAI | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "tunery", "serve", "--home", str(self.home)]
        command += ["--port", str(self.port), "--tls-port", str(self.tls_port)]
        with (self.home / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        until(self._answers, said=self.log)

    def _answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log()
        with contextlib.suppress(requests.ConnectionError, requests.Timeout):
            requests.get(f"http://127.0.0.1:{self.port}/openai/models", timeout=5)
            return True
        return False

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(PATIENCE) == 0, self.log()

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def log(self) -> str:
        return (self.home / "serve.log").read_text(errors="replace")[-4000:]

    def children(self, *words: str) -> list[int]:
        """Processes of this home whose command line has all these words."""
        found = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if folder.name.isdigit() and str(self.home) in line and all(word in line for word in words):
                    found.append(int(folder.name))
        return found

    def environment(self) -> dict[str, str]:
        """What a user's shell has after `eval "$(tunery env)"`."""
        script = f'eval "$({sys.executable} -m tunery env --home {self.home})" && env'
        lines = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def azure(self) -> openai.AzureOpenAI:
        """One client for all tests of this service, made from the shell's variables."""
        if self._client is None:
            env = self.environment()
            self._client = openai.AzureOpenAI(
                azure_endpoint=env["AZURE_OPENAI_ENDPOINT"],
                api_key=env["AZURE_OPENAI_API_KEY"],
                api_version=env["OPENAI_API_VERSION"],
            )
        return self._client


def wait_for(job_id: str, client: openai.AzureOpenAI) -> Any:
    """The job once it has ended or is paused."""

    def look() -> Any:
        return client.fine_tuning.jobs.retrieve(job_id)

    until(lambda: look().status in ("succeeded", "failed", "cancelled", "paused"), seconds=400, said=look)
    return look()


@pytest.fixture(scope="session")
def base_model() -> None:
    folder = Settings().models.expanduser() / BUNDLED
    assert (folder / "config.json").exists(), "the bundled base is missing: run `make setup`"


@pytest.fixture
def fresh(tmp_path_factory: pytest.TempPathFactory, base_model: None) -> Iterator[Service]:
    """A service of one test's own, in a folder whose name is short enough for its engines' sockets."""
    yield from running(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, base_model: None) -> Iterator[Service]:
    yield from running(tmp_path_factory.mktemp("home"))


def running(home: Path) -> Iterator[Service]:
    home.mkdir(exist_ok=True)
    service = Service(home)
    service.start()
    yield service
    service.close()
    if service.process is not None and service.process.poll() is None:
        service.stop()
    try:
        until(lambda: not service.children("tunery"), said=lambda: "processes of a stopped service live on")
    finally:
        for pid in service.children("tunery"):
            os.kill(pid, signal.SIGKILL)
