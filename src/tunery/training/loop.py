"""A run from its order to its adapter, as a stream of reports. Knows no HTTP, no database and no process.

    for each step:  batch -> tree -> loss and gradient -> AdamW -> a validation batch -> report
    for each epoch: the whole validation file, a checkpoint

The batch of a step, its learning rate and its validation batch follow from the order and the step's number alone, so a
run that was killed and goes on from its last state does what it would have done.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import torch

from tunery.messages import (
    Checkpointed,
    Finished,
    Paused,
    Prepared,
    Report,
    Saved,
    StepMetrics,
    Stepped,
    TrainingOrder,
)
from tunery.models import probe
from tunery.models.folders import written
from tunery.models.loader import load
from tunery.models.lora import Lora, digest
from tunery.models.tokenizer import Tokenizer
from tunery.training import data
from tunery.training.batches import Example
from tunery.training.memory import available_bytes
from tunery.training.metrics import Measured
from tunery.training.objectives import Objective, Preferences, Reference, Supervised
from tunery.training.optimizer import AdapterOptimizer, learning_rate
from tunery.training.pace import Pace
from tunery.training.plan import plan, schedule_of
from tunery.training.refusals import diverged, too_large
from tunery.training.state import State, fingerprint, read_state, write_state


def train(order: TrainingOrder, pause_wanted: Callable[[], bool]) -> Iterator[Report]:
    """Ends with Finished or Paused. Raises TuneryError for what its user can change; OSError, MemoryError as they come.

    `pause_wanted` is asked after every step.
    """
    for leftover in Path(order.directory).glob(".*-*-*"):
        shutil.rmtree(leftover)  # half-written by a process that was killed
    found, probe_ids = _read(order)
    yield from found.notes
    run = _Run(order, found, probe_ids)
    yield run.prepared()
    yield from run.steps(pause_wanted)


def _read(order: TrainingOrder) -> tuple[data.Data, list[int]]:
    """Examples and the probe's prompt. The tokenizer, 45 MiB, is gone before the weights come."""
    tokenizer = Tokenizer.load(order.base.directory)
    return data.read(order, tokenizer), probe.prompt(tokenizer)


class _Run:
    def __init__(self, order: TrainingOrder, found: data.Data, probe_ids: list[int]) -> None:
        self._order, self._directory = order, Path(order.directory)
        self._training, self._validation = found.training, found.validation
        self._schedule = schedule_of(order, found)
        self._probe_ids = probe_ids
        earlier = None if order.resume_from is None else read_state(Path(order.resume_from), fingerprint(order))
        self._plan = plan(
            order,
            found,
            available=order.memory_bytes or available_bytes(order.device),
            micro_batch_tokens=earlier and earlier[0].micro_batch_tokens,
        )
        if earlier is None and not self._plan.fits:
            raise too_large(self._order, self._plan)
        self._decoder = load(order.base.directory, order.device)
        self._lora = self._start_adapter().to(order.device, torch.float32)
        weight_decay = 0.0 if order.dpo is None else order.dpo.l2_multiplier
        self._optimizer = AdapterOptimizer(self._lora, weight_decay=weight_decay)
        self._state = State(order=fingerprint(order), seconds=0.0, micro_batch_tokens=self._plan.micro_batch_tokens)
        if earlier is not None:
            self._state, tensors = earlier
            self._optimizer.restore(tensors, steps=self._state.step)
        self._pace = Pace()
        self._objective = self._chosen_objective(self._state.micro_batch_tokens)

    def _chosen_objective(self, micro_batch_tokens: int) -> Objective:
        if self._order.dpo is None:
            return Supervised(self._decoder, self._lora, micro_batch_tokens)
        start = None if self._order.start_adapter is None else self._start_adapter()
        reference = Reference(
            self._decoder,
            start and start.to(self._order.device, torch.float32),
            self._schedule.companies(),
            micro_batch_tokens,
        )
        return Preferences(self._decoder, self._lora, reference, micro_batch_tokens, beta=self._order.dpo.beta)

    def _start_adapter(self) -> Lora:
        base = self._order.base
        if self._order.start_adapter is not None:
            return Lora.load(self._order.start_adapter, self._decoder.config)
        config = self._decoder.config
        return Lora.fresh(config, rank=base.lora_rank, alpha=base.lora_alpha, seed=self._order.seed)

    def prepared(self) -> Prepared:
        return Prepared(
            train_examples=self._schedule.training_lines,
            valid_examples=self._schedule.validation_lines,
            steps_per_epoch=self._schedule.steps_per_epoch,
            total_steps=self._schedule.steps,
            tokens_per_epoch=sum(len(example.targets) for example in self._training),
            plan=self._plan,
            steps_done=self._state.step,
        )

    def steps(self, pause_wanted: Callable[[], bool]) -> Iterator[Report]:
        while self._state.step < self._schedule.steps:
            stepped = self._step(self._state.step + 1)
            step, metrics = stepped.metrics.step, stepped.metrics
            yield stepped
            if self._state.trend.diverging:
                raise diverged(self._order, f"At step {step} {self._state.trend.finding}")
            pausing, final = pause_wanted(), step == self._schedule.steps
            epoch_ends = self._schedule.ends_epoch(step)
            if epoch_ends or pausing:
                yield self._checkpoint(metrics, final=final)
            if not final and (epoch_ends or pausing or step % self._order.save_every == 0):
                yield self._save()
            if pausing and not final:
                yield Paused(step=step)
                return
        yield Finished(trained_tokens=self._state.trained_tokens, seconds=self._state.seconds)

    def _step(self, step: int) -> Stepped:
        began = time.monotonic()
        trained = self._train(self._schedule.batch(step), step)
        valid = self._objective.evaluate(self._schedule.validation_batch(step)) if self._validation else None
        self._pace.step(time.monotonic() - began)
        full = self._evaluate_all() if self._schedule.ends_epoch(step) else None
        self._state = msgspec.structs.replace(
            self._state,
            step=step,
            trained_tokens=self._state.trained_tokens + trained.tokens,
            seconds=None if self._state.seconds is None else self._state.seconds + time.monotonic() - began,
            trend=self._state.trend.after(trained.loss),
        )
        return Stepped(
            metrics=_metrics(step, trained, valid, full),
            trained_tokens=self._state.trained_tokens,
            seconds_left=self._seconds_left(step),
        )

    def _train(self, batch: Sequence[Example], step: int) -> Measured:
        self._optimizer.zero_grad()
        measured = self._objective.train(batch)
        rate = learning_rate(step, total=self._schedule.steps, peak=self._order.learning_rate)
        if not (math.isfinite(measured.loss) and self._optimizer.step(rate)):
            raise diverged(self._order, f"The loss or its gradient was no longer a finite number at step {step}")
        return measured

    def _evaluate_all(self) -> Measured | None:
        if not self._validation:
            return None
        began = time.monotonic()
        with self._lora.as_written():
            measured = self._objective.evaluate(self._validation)
        self._pace.evaluation(time.monotonic() - began)
        return measured

    def _seconds_left(self, step: int) -> float | None:
        evaluations = self._order.n_epochs - step // self._schedule.steps_per_epoch if self._validation else 0
        return self._pace.seconds(steps=self._schedule.steps - step, evaluations=evaluations)

    def _checkpoint(self, metrics: StepMetrics, *, final: bool) -> Checkpointed:
        directory = self._directory / f"checkpoint-{metrics.step}"
        with written(directory) as folder, self._lora.as_written():
            self._lora.write(folder, self._order.base.name)
            probe.measure(self._decoder, self._lora, self._probe_ids).write(folder)
        return Checkpointed(
            step=metrics.step, directory=str(directory), digest=digest(directory), metrics=metrics, final=final
        )

    def _save(self) -> Saved:
        directory = self._directory / f"state-{self._state.step}"
        write_state(directory, self._state, self._optimizer.tensors())
        return Saved(step=self._state.step, directory=str(directory))


def _metrics(step: int, trained: Measured, valid: Measured | None, full: Measured | None) -> StepMetrics:
    return StepMetrics(
        step=step,
        train_loss=trained.loss,
        training_accuracy=trained.sequence_accuracy,
        train_mean_token_accuracy=trained.token_accuracy,
        valid_loss=None if valid is None else valid.loss,
        valid_accuracy=None if valid is None else valid.sequence_accuracy,
        valid_mean_token_accuracy=None if valid is None else valid.token_accuracy,
        full_valid_loss=None if full is None else full.loss,
        full_valid_mean_token_accuracy=None if full is None else full.token_accuracy,
        rewards=trained.rewards,
        valid_rewards=None if valid is None else valid.rewards,
        full_valid_rewards=None if full is None else full.rewards,
    )
