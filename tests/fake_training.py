"""Fakes of the training seam and of time: what run.py sees of a trainer, scripted."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from tunery.messages import (
    Checkpointed,
    Failed,
    Finished,
    Paused,
    Plan,
    Planned,
    PlanOrder,
    Prepared,
    Report,
    Saved,
    StepMetrics,
    Stepped,
    TrainingOrder,
)


class FakeClock:
    """Unix seconds that move only when told to."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class FakeTrainer:
    """Trains nothing: every order runs `steps` steps of made-up numbers and writes an adapter of fixed bytes.

    `between` is called before each step with (order, step) and may raise `Died` to end the run without a last word.
    """

    def __init__(
        self,
        *,
        steps: int = 12,
        between: Callable[[TrainingOrder, int], None] | None = None,
        seconds: float = 120.0,
        valid_losses: dict[int, float] | None = None,
    ) -> None:
        """`seconds`: what the run says it took; `valid_losses`: by step, a checkpoint with each."""
        self.measured: Callable[[int, float | None], StepMetrics] = metrics
        self.steps, self.seconds, self.valid_losses = steps, seconds, valid_losses or {}
        self.fails: Failed | None = None
        """What the run says at its third step, and nothing more."""
        self.orders: list[TrainingOrder] = []
        self.between = between or (lambda _order, _step: None)

    def start(self, order: TrainingOrder) -> "FakeRun":
        self.orders.append(order)
        return FakeRun(self, order)


class Died(Exception):
    """The fake trainer is gone."""


class FakeRun:
    def __init__(self, trainer: FakeTrainer, order: TrainingOrder) -> None:
        self._trainer = trainer
        self._order = order
        self._pause = False
        self.stopped = False

    def reports(self, *, wait: float) -> Iterator[Report | None]:
        first = int(Path(self._order.resume_from).name.split("-")[1]) if self._order.resume_from else 0
        steps = self._trainer.steps
        yield Prepared(
            train_examples=steps,
            valid_examples=0,
            steps_per_epoch=steps,
            total_steps=steps,
            tokens_per_epoch=steps * 10,
            plan=plan_of(steps),
            steps_done=first,
        )
        for step in range(first + 1, steps + 1):
            try:
                self._trainer.between(self._order, step)
            except Died:
                return
            if step == 3 and self._trainer.fails:
                yield self._trainer.fails
                return
            loss = self._trainer.valid_losses.get(step)
            yield Stepped(
                metrics=self._trainer.measured(step, loss), trained_tokens=step * 10, seconds_left=float(steps - step)
            )
            yield None  # time passes: run.py flushes and renews its lease
            if self._pause:
                yield from self._checkpoint(step, final=False)
                yield self._save(step)
                yield Paused(step=step)
                return
            if loss is not None and step < steps:
                yield from self._checkpoint(step, final=False)
            if step % 5 == 0:
                yield self._save(step)
        yield from self._checkpoint(steps, final=True)
        yield Finished(trained_tokens=steps * 10, seconds=self._trainer.seconds)

    def pause(self) -> None:
        self._pause = True

    def stop(self) -> str | None:
        self.stopped = True
        return "the fake trainer died"

    def _save(self, step: int) -> Saved:
        folder = Path(self._order.directory) / f"state-{step}"
        folder.mkdir()
        return Saved(step=step, directory=str(folder))

    def _checkpoint(self, step: int, *, final: bool) -> Iterator[Report]:
        folder = Path(self._order.directory) / f"checkpoint-{step}"
        folder.mkdir()
        content = f"{self._order.seed}:{step}".encode()
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (folder / name).write_bytes(content)
        measured = self._trainer.measured(step, self._trainer.valid_losses.get(step))
        digest = hashlib.sha256(content).hexdigest()
        yield Checkpointed(step=step, directory=str(folder), digest=digest, metrics=measured, final=final)


def metrics(step: int, full_valid_loss: float | None = None) -> StepMetrics:
    return StepMetrics(
        step=step,
        train_loss=4.0 / step,
        training_accuracy=0.5,
        train_mean_token_accuracy=0.75,
        full_valid_loss=full_valid_loss,
    )


def plan_of(steps: int) -> Plan:
    return Plan(
        steps=steps,
        trained_tokens=steps * 10,
        total_tokens=steps * 50,
        computed_tokens=steps * 30,
        flops=steps * 1e9,
        memory_bytes=2 * 1024**3,
        memory_available_bytes=8 * 1024**3,
        micro_batch_tokens=1024,
        counted_steps=steps,
    )


class FakePlanner:
    """Answers every question with the plan of 12 steps, or with what it was told to."""

    def __init__(self, answer: Planned | Failed | None = None) -> None:
        self.answer = answer or Planned(plan=plan_of(12), gemm_flops=1e9)
        self.questions: list[PlanOrder] = []

    def leave_free(self, memory_bytes: int) -> None:
        plan = msgspec.structs.replace(plan_of(12), memory_available_bytes=memory_bytes)
        self.answer = Planned(plan=plan, gemm_flops=1e9)

    def plan(self, question: PlanOrder, *, seconds: float) -> Planned | Failed | None:
        self.questions.append(question)
        return self.answer
