"""What benchmarks of the whole service share: `tunery serve` as a process of its own, and requests by hand."""

import asyncio
import json
import math
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunery import wiring
from tunery.messages import Usage
from tunery.serving.client import EngineClient
from tunery.settings import Settings, load

START_SECONDS = 120


@dataclass(slots=True)
class Answer:
    """What came of a request, and when; `perf_counter` times."""

    began: float
    status: int = 0
    arrivals: list[float] = field(default_factory=list)
    ended: float = 0.0
    complete: bool = False
    """[DONE] came."""
    text: str = ""
    """Of an answer that isn't a stream."""

    @property
    def first_ms(self) -> float:
        return 1000 * (self.arrivals[0] - self.began)

    @property
    def seconds(self) -> float:
        return self.ended - self.began


class Service:
    """A `tunery serve` on a home that was prepared, on ports that were free a moment ago."""

    def __init__(self, home: Path, *, port: int, threads: int = 2) -> None:
        self.home, self.port = home, port
        self._environment = os.environ | {"TUNERY_SERVING_THREADS": str(threads)}
        self.settings: Settings = load(home=home, port=port, tls_port=0)
        rooms = wiring.services(self.settings)
        self.account = rooms.accounts.first()
        self.key = rooms.accounts.keys(self.account)[0]
        self._token = rooms.access.issue_token(name="benchmark", audience=self.settings.arm_audience)
        rooms.close()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Seconds until it answers."""
        began = time.perf_counter()
        command = [sys.executable, "-m", "tunery", "serve", "--home", str(self.home), "--port", str(self.port)]
        with (self.home / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--tls-port", "0"], stdout=log, stderr=log, env=self._environment
            )
        while time.perf_counter() < began + START_SECONDS:
            with suppress(urllib.error.URLError, ConnectionError):
                self.http("GET", "/openai/models?api-version=2024-10-21")
                return time.perf_counter() - began
            time.sleep(0.02)
        raise SystemExit(f"the service didn't start; see {self.home}/serve.log")

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait(60)

    def http(self, method: str, path: str, body: Any = None) -> Any:
        return self._json(method, path, body, {"api-key": self.key})

    def arm(self, method: str, path: str, body: Any = None) -> Any:
        """Below the first account."""
        headers = {"authorization": f"Bearer {self._token}"}
        return self._json(method, f"{self.account.arm_id}{path}?api-version=2023-05-01", body, headers)

    def pids(self, word: str) -> list[int]:
        """Our processes and theirs whose command line has the word."""
        return [pid for pid in family(self.process.pid if self.process else 0) if word in command_line(pid)]

    async def ask(self, deployment: str, body: dict[str, Any]) -> Answer:
        """A completion. By hand: an HTTP client library would take more of the cores than the service's own edge."""
        path = f"/openai/deployments/{deployment}/completions?api-version=2024-10-21"
        return await ask(self.port, path, body, key=self.key)

    def _json(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers, method=method)
        request.add_header("content-type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")


async def ask(port: int, path: str, body: dict[str, Any], *, key: str, pause: float = 0.0) -> Answer:
    """Reads an answer, streamed or whole; `pause` seconds between two lines of it."""
    answer = Answer(time.perf_counter())
    reader, writer = await send(port, path, body, key=key)
    answer.status = int((await reader.readline()).split()[1])
    while (await reader.readline()).strip():
        pass
    async for line in reader:
        if line.startswith(b"data: [DONE]"):
            answer.complete = True
            break
        if line.startswith(b"data: "):
            answer.arrivals.append(time.perf_counter())
            await asyncio.sleep(pause)
        else:
            answer.text += line.decode()
    answer.ended = time.perf_counter()
    writer.close()
    return answer


async def send(
    port: int, path: str, body: dict[str, Any], *, key: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A POST whose answer nobody has read yet."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\napi-key: {key}\r\n"
    writer.write(f"{head}content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)
    return reader, writer


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def family(pid: int) -> list[int]:
    """A process and all below it."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdigit():
                parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(") ", 1)[1].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def command_line(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def open_files(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def quantile(values: list[float], part: float) -> float:
    """The smallest of the values that at least this part of them doesn't exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]


def processes(service: Service) -> str:
    """Memory and open files of the web process and the engines."""
    told = []
    for word in ("tunery serve", "tunery.serving"):
        told += [f"{word} {resident_mib(pid):.0f} MiB, {open_files(pid)} files" for pid in service.pids(word)]
    return "; ".join(told)


async def engine_usage(service: Service) -> Usage | None:
    """The books of the only engine, asked at its socket."""
    (path,) = (service.home / "engines" / "sockets").glob("*.sock")
    client = EngineClient(path)
    try:
        return await client.ping()
    finally:
        await client.close()


@contextmanager
def serving(service: Service) -> Iterator[float]:
    """Runs it meanwhile; yields the seconds that the start took."""
    try:
        yield service.start()
    finally:
        service.stop()
