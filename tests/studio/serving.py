"""A live service with Studio in a process of its own: NiceGUI keeps its pages per process. `python -m
tests.studio.serving` takes its settings as one JSON line and then orders to its fakes, a line each; it ends with its
standard input.
"""

import contextlib
import math
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import msgspec
import openai

from tests.fake_training import FakePlanner
from tests.fakes import Script, Silence, says
from tests.live import ROOMY, Doors, LiveService, free_ports, live_service
from tests.waiting import PATIENCE
from tests.waiting import until as wait_until
from tunery import errors, wiring
from tunery.catalog import BUNDLED
from tunery.errors import EngineUnavailable
from tunery.messages import Failed, Generate, StepMetrics, TrainingOrder
from tunery.records import TERMINAL, JobStatus
from tunery.rooms import Services
from tunery.settings import Settings
from tunery.studio.sessions import Sessions

FOLDER = Path(__file__).parent.parent.parent
CHAT_BASE = "gpt-35-turbo-0613"
SETTLED = TERMINAL | {JobStatus.PAUSED}


class Curve:
    """A training run as one looks: noisy, falling; validation falls with it or turns after a third of the steps."""

    def __init__(self, steps: int, overfits: bool) -> None:
        self._steps, self._overfits = steps, overfits

    def measured(self, step: int, full_valid_loss: float | None) -> StepMetrics:
        loss = self._train_loss(step) * (1 + 0.15 * math.sin(step * 12.9))
        valid = self.valid_loss(step) * (1 + 0.08 * math.sin(step * 7.3)) if step % 4 == 0 else None
        return StepMetrics(
            step=step,
            train_loss=loss,
            training_accuracy=max(0.0, 1 - loss / 2),
            train_mean_token_accuracy=math.exp(-loss / 3),
            valid_loss=valid,
            valid_accuracy=None if valid is None else max(0.0, 1 - valid / 2),
            valid_mean_token_accuracy=None if valid is None else math.exp(-valid / 3),
            full_valid_loss=full_valid_loss,
            full_valid_mean_token_accuracy=None if full_valid_loss is None else math.exp(-full_valid_loss / 3),
        )

    def valid_loss(self, step: int) -> float:
        past = max(0.0, step / self._steps - 0.33) if self._overfits else 0.0
        return self._train_loss(step) * 1.1 + 0.05 + 1.6 * past

    def _train_loss(self, step: int) -> float:
        return 0.08 + 3.0 * math.exp(-5 * step / self._steps)


class Levers:
    """What tests do to the fakes at the seams of a service in another process."""

    def __init__(self, service: LiveService, planner: FakePlanner) -> None:
        self._planner = planner
        self._engines, self._trainer = service.engines, service.trainer
        self._held_at, self._pace = 0, 0.0
        self._trainer.between = self._between
        self.reset()

    def reset(self) -> None:
        """12 steps at once, two answers, nothing broken."""
        self.train()
        self.release()
        self.leave_free(8 * 1024**3)
        self.answer(["I am ", "the base."], ["I am ", "tuned."])
        self.break_engine(None)

    def train(self, *, steps: int = 12, pace: float = 0.0, fails: str | None = None, overfits: bool = False) -> None:
        """What jobs do from now on: `pace` seconds a step; `fails`: the error they end with at the third step.

        They are validated every fourth step, and make a checkpoint at each quarter.
        """
        self._trainer.steps, self._pace = steps, pace
        curve = Curve(steps, overfits)
        self._trainer.measured = curve.measured
        quarters = range(max(1, steps // 4), steps + 1, max(1, steps // 4))
        self._trainer.valid_losses = {step: curve.valid_loss(step) for step in quarters}
        self._trainer.fails = Failed(code="training_failed", message=fails) if fails else None

    def leave_free(self, memory_bytes: int) -> None:
        """What estimates say is free from now on; a job takes 2 GB."""
        self._planner.leave_free(memory_bytes)

    def hold(self, step: int) -> None:
        """Every job waits before this step until `release`; one that waits elsewhere goes on."""
        self._held_at = step

    def release(self) -> None:
        self._held_at = 0

    def answer(self, base: list[str], tuned: list[str] | None = None, *, pace: float = 0.0) -> None:
        """What bases say, and what adapters say: pieces, `pace` seconds apart."""

        def script(request: Generate) -> Iterator[Any]:
            texts = base if request.adapter is None or tuned is None else tuned
            for event in says(*texts)(request):
                yield pace
                yield event

        chosen: Script = script
        self._engines.script = chosen

    def parrot(self) -> None:
        """Answers tell what was asked of the engine, so equal answers were equal requests."""

        def script(request: Generate) -> Iterator[Any]:
            asked = msgspec.structs.replace(request, id="")
            yield from says(msgspec.json.encode(asked).decode())(request)

        self._engines.script = script

    def stay_silent_after(self, *texts: str) -> None:
        """Answers never end."""

        def script(request: Generate) -> Iterator[Any]:
            yield from list(says(*texts)(request))[: len(texts) + 1]
            yield Silence.FOREVER

        self._engines.script = script
        self._engines.cancelled.clear()

    def wait_for_a_cancel(self) -> None:
        """Until an answer was closed before its end."""
        assert self._engines.cancelled.wait(PATIENCE)

    def refuse(self, kind: str, message: str) -> None:
        """The engine refuses requests with this class of errors.py."""
        self._engines.script = lambda _request: [getattr(errors, kind)(message)]

    def break_engine(self, message: str | None) -> None:
        """Nothing can be mounted, for this reason; None: all is well again."""
        self._engines.broken = EngineUnavailable(message) if message else None

    def _between(self, _order: TrainingOrder, step: int) -> None:
        while step == self._held_at:
            time.sleep(0.02)
        time.sleep(self._pace)


class StudioService(Doors):
    """What a test has of a service with Studio: doors, rooms on the same database, and levers."""

    def __init__(self, process: "subprocess.Popen[bytes]", rooms: Services) -> None:
        super().__init__(rooms, rooms.settings.home / "tls" / "ca.pem")
        self._process = process
        self.sessions = Sessions(rooms)
        self.url = f"{self.base}/studio"

    def pull(self, lever: str, *given: Any, **more: Any) -> None:
        """A method of Levers."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode([lever, given, more]) + b"\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == b"done\n", self.log()

    def log(self) -> str:
        return (self.rooms.settings.home / "serve.log").read_text(errors="replace")[-4000:]

    def file(self, name: str, content: bytes, *, purpose: Any = "fine-tune") -> str:
        """Uploaded and checked; its id."""
        made = self._client().files.create(file=(name, content), purpose=purpose)
        self._client().files.wait_for_processing(made.id, poll_interval=0.05)
        return made.id

    def job(self, training_file: str, *, until: Collection[str] = SETTLED, **more: Any) -> Any:
        """As the API shows it once its status is one of these."""
        jobs = self._client().fine_tuning.jobs
        made = jobs.create(**{"model": CHAT_BASE, "training_file": training_file, **more})
        seen = [made]

        def reached() -> bool:
            if seen[-1].status not in until:
                seen.append(jobs.retrieve(made.id))
            return seen[-1].status in until

        wait_until(reached, said=lambda: f"{seen[-1]}\n{self.log()}")
        return seen[-1]

    def deployment(self, name: str, model: str) -> dict[str, Any]:
        """Put over ARM, and as it is shown once it is settled."""
        wanted = {"sku": {"name": "Standard"}, "properties": {"model": {"format": "OpenAI", "name": model}}}
        wanted["properties"]["model"]["version"] = "1"  # type: ignore[index]
        answer = self.arm("PUT", f"/deployments/{name}", json=wanted)
        assert answer.ok, answer.text

        def shown() -> dict[str, Any]:
            return dict(self.arm("GET", f"/deployments/{name}").json())

        wait_until(lambda: shown()["properties"]["provisioningState"] != "Creating", said=self.log)
        return shown()

    def _client(self) -> openai.AzureOpenAI:
        if not self._clients:
            self.azure()
        return self._clients[0]  # type: ignore[return-value]


@contextlib.contextmanager
def studio_service(home: Path, **options: Any) -> Iterator[StudioService]:
    """A fresh one on a home of its own; `options`: settings."""
    port, tls_port = free_ports(2)
    given = {"home": str(home), "port": port, "tls_port": tls_port, **ROOMY, **options}
    folder = Settings().models.expanduser()
    given["models"] = str(folder if (folder / BUNDLED).is_dir() else home / "models")
    home.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.studio.serving"]
    with (
        (home / "serve.log").open("wb") as log,
        subprocess.Popen(command, cwd=FOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(msgspec.json.encode(given) + b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"done\n", (home / "serve.log").read_text()
        rooms = wiring.services(msgspec.convert(given, Settings, dec_hook=lambda kind, value: kind(value)))
        service = StudioService(process, rooms)
        try:
            yield service
        finally:
            service.close()
            rooms.close()
            process.stdin.close()
            process.wait(PATIENCE)


def main() -> None:
    options = msgspec.json.decode(sys.stdin.buffer.readline())
    home, models = Path(options.pop("home")), Path(options.pop("models"))
    planner = FakePlanner()
    with live_service(home, with_studio=True, planner=planner, models=models, **options) as service:
        levers = Levers(service, planner)
        print("done", flush=True)
        for line in sys.stdin:
            lever, given, more = msgspec.json.decode(line)
            getattr(levers, lever)(*given, **more)
            print("done", flush=True)
        levers.release()


if __name__ == "__main__":
    main()
