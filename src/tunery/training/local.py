"""Start a trainer as a process of its own on this machine: killable, with its own memory. Imports no torch."""

import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from tunery import parent
from tunery.examples import seen
from tunery.messages import Failed, Planned, PlanOrder, Report, TrainingOrder

COMPUTING = (
    *parent.HARDLY_SPINNING,
    "GLIBC_TUNABLES=glibc.malloc.trim_threshold=17179869184:glibc.malloc.mmap_threshold=17179869184",
)
"""Put before a trainer's command: what a step frees is kept for the next, instead of being given back and asked for
again page by page (docs/log.md). Other C libraries take no notice.
"""
AnswerT = TypeVar("AnswerT")
STOP_SECONDS = 5.0
"""For a process whose stdout has ended, and for reading the last of a killed one's reports."""
LOG_TAIL = 2000
"""Characters of the trainer's log that its obituary quotes."""


class LocalTrainer:
    """The default behind run.py's Trainer seam."""

    def start(self, order: TrainingOrder) -> "LocalRun":
        path = Path(order.directory) / "order.json"
        path.write_bytes(msgspec.json.encode(order))
        command = [*COMPUTING, sys.executable, "-m", "tunery.training", str(path)]
        return LocalRun(command, Path(order.directory) / "trainer.log")


class LocalPlanner:
    """The default behind estimates.py's Planner seam: a short process, so that no torch comes into this one."""

    def plan(self, question: PlanOrder, *, seconds: float) -> Planned | Failed | None:
        command = [*COMPUTING, sys.executable, "-m", "tunery.training", "--estimate"]
        return _decoded(_asked(command, msgspec.json.encode(question), seconds), _PLANNED)


class LocalInspector:
    """The default behind inspection.py's Inspector seam: a short process that needs no torch."""

    def look(self, question: seen.Question, *, seconds: float) -> seen.Answer | Failed | None:
        command = [sys.executable, "-m", "tunery.training.inspection"]
        return _decoded(_asked(command, msgspec.json.encode(question), seconds), _ANSWERED)


_PLANNED: msgspec.json.Decoder[Planned | Failed] = msgspec.json.Decoder(Planned | Failed)
_ANSWERED: msgspec.json.Decoder[seen.Answer | Failed] = msgspec.json.Decoder(seen.Answer | Failed)


def _asked(command: Sequence[str], question: bytes, seconds: float) -> subprocess.CompletedProcess[bytes] | None:
    """A process that answers one question; None if it took too long."""
    try:
        return subprocess.run(  # noqa: S603 (our own interpreter and module)
            command, input=question, capture_output=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return None


def _decoded(
    done: subprocess.CompletedProcess[bytes] | None, answers: "msgspec.json.Decoder[AnswerT]"
) -> AnswerT | Failed | None:
    if done is None:
        return None
    try:
        return answers.decode(done.stdout)
    except msgspec.DecodeError:
        return Failed(code="internal_error", message=f"its process ended with code {done.returncode}")


class LocalRun:
    """Reports come over the trainer's stdout, the wish to pause goes to its stdin; a closed stdin ends it."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._log = log
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(  # noqa: S603 (our own interpreter and module)
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
            )
        self._reports: queue.Queue[Report | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def reports(self, *, wait: float) -> Iterator[Report | None]:
        while True:
            try:
                report = self._reports.get(timeout=wait)
            except queue.Empty:
                yield None
                continue
            if report is None:
                return
            yield report

    def pause(self) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b"pause\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return  # it is gone already; `reports` ends and says so

    def stop(self) -> str | None:
        """Kill it if it still lives and wait. Says how it ended if that was not of its own accord."""
        try:
            code = self._process.wait(timeout=0 if self._reader.is_alive() else STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return "stopped"
        finally:
            self._reader.join(STOP_SECONDS)  # what it reads has ended with the process
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None and not self._reader.is_alive():
                    pipe.close()
        return None if code == 0 else self._obituary(code)

    def _read(self) -> None:
        assert self._process.stdout is not None
        decode = msgspec.json.Decoder(Report).decode
        for line in self._process.stdout:
            try:
                self._reports.put(decode(line))
            except msgspec.DecodeError:
                break  # a line torn by the trainer's death
        self._reports.put(None)

    def _obituary(self, code: int) -> str:
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        tail = self._log.read_text("utf-8", "replace")[-LOG_TAIL:].strip().rsplit("\n", 1)[-1]
        return f"exit code {code}: {tail}"
