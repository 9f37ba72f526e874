"""What a run will compute, from its examples and its model's sizes alone. Knows no weights and no clock.

Trees are formed with the functions that the loop trains with. Arithmetic per node, as usual for a transformer
(arXiv 2001.08361, section 2.1: two operations a weight), with frozen weights and a low-rank adapter (arXiv 2106.09685):

    forward    2 (P + A) + 4 q p L     P weights of the blocks, A of the adapter; q = heads x head size,
    backward   2 P + 4 A + 8 q p L     p nodes that a node sees, L layers. Frozen weights get no gradient of their own.
    head       2 V H each way for each row that bears loss; forward only in evaluations

A tree too large to keep all its activations goes forward through the blocks once more.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tunery.messages import Plan, TrainingOrder
from tunery.models.folders import require
from tunery.models.loader import is_ours, read_sizes
from tunery.training.batches import Example, Tree, micro_batches, tree_of
from tunery.training.data import Data
from tunery.training.memory import Sizes, Trees, peak_bytes
from tunery.training.schedule import Schedule

MICRO_BATCH_TOKENS = (1024, 512, 256, 128)
"""Nodes of the largest tree that is trained at once, first choice first. Smaller ones only where memory is short."""
MOST_STEPS = 200
"""Steps whose trees are counted; a longer run is scaled from so many."""
MOST_PARTS = 100
"""The same for the micro-batches of the whole validation file."""
EXAMPLE_BYTES = 500
"""Of a tokenised example in memory, beside its tokens."""
TOKEN_BYTES = 9


@dataclass(slots=True)
class Work:
    """Sums over trees."""

    nodes: float = 0
    pairs: float = 0
    """Of a node and a node that it sees, itself included."""
    loss_rows: float = 0

    def add(self, tree: Tree) -> None:
        self.nodes += len(tree)
        self.pairs += int(tree.depths.sum()) + len(tree)
        self.loss_rows += len(np.unique(tree.edge_nodes))

    def times(self, factor: float) -> "Work":
        return Work(self.nodes * factor, self.pairs * factor, self.loss_rows * factor)

    def plus(self, other: "Work") -> "Work":
        return Work(self.nodes + other.nodes, self.pairs + other.pairs, self.loss_rows + other.loss_rows)


@dataclass(slots=True)
class Counted:
    """What some steps compute, and the largest trees among them."""

    micro_batch_tokens: int
    together: int = 1
    """Examples of a line."""
    steps: int = 0
    trained: Work = field(default_factory=Work)
    recomputed: Work = field(default_factory=Work)
    """The part of `trained` whose blocks are computed again."""
    evaluated: Work = field(default_factory=Work)
    lines: int = 0
    largest: Trees = field(default_factory=Trees)

    def train(self, batch: Sequence[Example]) -> None:
        self.steps += 1
        self.lines += len(batch) // self.together
        for part in micro_batches(batch, self.micro_batch_tokens, together=self.together):
            tree = tree_of(part)
            self.trained.add(tree)
            again = len(tree) > self.micro_batch_tokens
            if again:
                self.recomputed.add(tree)
            rows = len(np.unique(tree.edge_nodes))
            seen = Trees(recomputed=len(tree), loss_rows=rows) if again else Trees(kept=len(tree), loss_rows=rows)
            self.largest = self.largest.and_also(seen)

    def times(self, *, trained: float, evaluated: float) -> "Counted":
        return Counted(
            self.micro_batch_tokens,
            self.together,
            trained=self.trained.times(trained),
            recomputed=self.recomputed.times(trained),
            evaluated=self.evaluated.times(evaluated),
        )

    def evaluate(self, batch: Sequence[Example]) -> None:
        for part in micro_batches(batch, self.micro_batch_tokens, together=self.together):
            tree = tree_of(part)
            self.evaluated.add(tree)
            self.largest = self.largest.and_also(Trees(evaluated=len(tree)))


def plan(
    order: TrainingOrder,
    found: Data,
    *,
    available: int,
    micro_batch_tokens: int | None = None,
    examples: tuple[int, int] | None = None,
) -> Plan:
    """`available` bytes; `examples` (pairs count once) of the whole files, where `found` is a sample of them.

    Unless it is given, the micro-batch is the largest of MICRO_BATCH_TOKENS with which the run fits, or the smallest.
    Raises InvalidRequest if the base isn't there or can't be read.
    """
    sizes = sizes_of(order)
    whole = examples or (len(found.training) // found.together, len(found.validation) // found.together)
    choices = MICRO_BATCH_TOKENS if micro_batch_tokens is None else (micro_batch_tokens,)
    for choice in choices:
        planned = _plan(order, found, sizes, whole, choice, available)
        if planned.fits:
            break
    return planned


def sizes_of(order: TrainingOrder) -> Sizes:
    folder = Path(order.base.directory)
    require(folder)
    config, tied = read_sizes(folder)
    return Sizes(config, tied=tied, rank=order.base.lora_rank, wrapped=not is_ours(folder))


def flops(sizes: Sizes, counted: Counted) -> float:
    forwards = (counted.trained, counted.recomputed, counted.evaluated)
    blocks = sum(_forward(sizes, work) for work in forwards) + _backward(sizes, counted.trained)
    rows = 2 * counted.trained.loss_rows + counted.evaluated.loss_rows
    return blocks + 2 * sizes.head * rows


def _forward(sizes: Sizes, work: Work) -> float:
    return 2 * (sizes.linear + sizes.adapter) * work.nodes + 4 * sizes.queries * work.pairs


def _backward(sizes: Sizes, work: Work) -> float:
    return (2 * sizes.linear + 4 * sizes.adapter) * work.nodes + 8 * sizes.queries * work.pairs


def _plan(
    order: TrainingOrder, found: Data, sizes: Sizes, whole: tuple[int, int], micro_batch_tokens: int, available: int
) -> Plan:
    counted = count(order, found, micro_batch_tokens)
    evaluations = _count_all(found.validation, micro_batch_tokens, found.together)
    steps = math.ceil(whole[0] / order.batch_size) * order.n_epochs
    seen = whole[0] * order.n_epochs
    scaled = counted.times(trained=seen / counted.lines, evaluated=steps / counted.steps)
    if order.dpo is not None:  # the reference: every tree of the first epoch once more, forward only
        scaled.evaluated = scaled.evaluated.plus(scaled.trained.times(1 / order.n_epochs))
    if found.validation:
        times = order.n_epochs + (0 if order.dpo is None else 1)
        again = evaluations.times(trained=0, evaluated=times * whole[1] / evaluations.lines)
        scaled.evaluated = scaled.evaluated.plus(again.evaluated)
        counted.largest = counted.largest.and_also(evaluations.largest)
    if counted.steps < steps:
        counted.largest = counted.largest.and_also(
            _possible(found.training, order.batch_size * found.together, micro_batch_tokens, found.together)
        )
    return Plan(
        steps=steps,
        trained_tokens=round(seen * found.together * _mean(len(example.targets) for example in found.training)),
        total_tokens=round(seen * found.together * _mean(len(example.inputs) for example in found.training)),
        computed_tokens=round(scaled.trained.nodes),
        flops=flops(sizes, scaled),
        memory_bytes=peak_bytes(sizes, counted.largest, data_bytes=_data_bytes(found, whole), device=order.device),
        memory_available_bytes=available,
        micro_batch_tokens=micro_batch_tokens,
        counted_steps=counted.steps,
    )


def count(order: TrainingOrder, found: Data, micro_batch_tokens: int) -> Counted:
    """The steps of a run, or MOST_STEPS of them, without the evaluations at the end of each epoch."""
    schedule = schedule_of(order, found)
    counted = Counted(micro_batch_tokens, found.together)
    for step in _spread(schedule):
        counted.train(schedule.batch(step))
        counted.evaluate(schedule.validation_batch(step))
    return counted


def schedule_of(order: TrainingOrder, found: Data) -> Schedule:
    return Schedule(
        found.training,
        found.validation,
        batch_size=order.batch_size,
        n_epochs=order.n_epochs,
        seed=order.seed,
        together=found.together,
    )


def _spread(schedule: Schedule) -> list[int]:
    """All steps, or MOST_STEPS; of as few epochs as hold them, for each epoch has to be ordered."""
    considered = min(schedule.steps, max(schedule.steps_per_epoch, MOST_STEPS))
    taken = min(considered, MOST_STEPS)
    return [1 + place * considered // taken for place in range(taken)]


def _count_all(examples: Sequence[Example], micro_batch_tokens: int, together: int) -> Counted:
    """Evaluating a whole file, or evenly spread parts of it."""
    parts = list(micro_batches(examples, micro_batch_tokens, together=together))
    taken = min(len(parts), MOST_PARTS)
    chosen = [parts[place * len(parts) // taken] for place in range(taken)]
    counted = Counted(micro_batch_tokens, together, lines=sum(map(len, chosen)) // together)
    for part in chosen:
        counted.evaluate(part)
    return counted


def _possible(examples: Sequence[Example], batch: int, micro_batch_tokens: int, together: int) -> Trees:
    """The largest trees that steps of `batch` examples which weren't counted can have."""
    lengths = [len(example.inputs) for example in examples]
    most = min(micro_batch_tokens, sum(sorted(lengths)[-batch:]))
    longest = max(sum(lengths[i : i + together]) for i in range(0, len(lengths), together))
    return Trees(kept=most, recomputed=longest if longest > micro_batch_tokens else 0, loss_rows=max(most, longest))


def _mean(numbers: Iterable[int]) -> float:
    found = list(numbers)
    return sum(found) / len(found)


def _data_bytes(found: Data, whole: tuple[int, int]) -> int:
    total = 0.0
    for examples, count_of in zip((found.training, found.validation), whole, strict=True):
        if examples:
            held = sum(TOKEN_BYTES * len(example.ids) + EXAMPLE_BYTES for example in examples)
            total += held * count_of / (len(examples) // found.together)
    return int(total)
