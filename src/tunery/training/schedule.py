"""Which examples are trained, and which are looked at, in each step. Knows no model.

Everything follows from the examples, the seed and the step's number, so a run that goes on later, and a plan made
before it, see the same batches.
"""

import math
from collections.abc import Sequence

from tunery.training.batches import Example, epoch_batches

VALIDATION_EXAMPLES = 4
"""Of each step at least; a quarter of a large batch."""


class Schedule:
    """Steps count from 1."""

    def __init__(
        self, training: Sequence[Example], validation: Sequence[Example], *, batch_size: int, n_epochs: int, seed: int
    ) -> None:
        self._training, self._validation = training, validation
        self._batch_size, self._seed = batch_size, seed
        self.steps_per_epoch = math.ceil(len(training) / batch_size)
        self.steps = self.steps_per_epoch * n_epochs
        self._epoch: int | None = None
        self._batches: list[list[int]] = []

    def batch(self, step: int) -> list[Example]:
        epoch, place = divmod(step - 1, self.steps_per_epoch)
        if self._epoch != epoch:
            self._epoch = epoch
            self._batches = epoch_batches(self._training, self._batch_size, seed=self._seed, epoch=epoch)
        return [self._training[i] for i in self._batches[place]]

    def validation_batch(self, step: int) -> list[Example]:
        """The file in turns, a few examples a step; none without a validation file."""
        size = max(VALIDATION_EXAMPLES, self._batch_size // 4)
        first = (step - 1) * size
        count = min(size, len(self._validation))
        return [self._validation[i % len(self._validation)] for i in range(first, first + count)]

    def ends_epoch(self, step: int) -> bool:
        return step % self.steps_per_epoch == 0
