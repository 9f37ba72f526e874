"""Which examples are trained, and which are looked at, in each step. Knows no model.

Everything follows from the examples, the seed and the step's number, so a run that goes on later, and a plan made
before it, see the same batches.
"""

import math
from collections.abc import Sequence

from tunery.training.batches import Example, epoch_batches

VALIDATION_LINES = 4
"""Of each step at least; a quarter of a large batch."""


class Schedule:
    """Steps count from 1. Every `together` neighbouring examples are one line of a file."""

    def __init__(
        self,
        training: Sequence[Example],
        validation: Sequence[Example],
        *,
        batch_size: int,
        n_epochs: int,
        seed: int,
        together: int = 1,
    ) -> None:
        self._training, self._validation, self._together = training, validation, together
        self._batch_size, self._seed = batch_size, seed
        self.training_lines, self.validation_lines = len(training) // together, len(validation) // together
        self.steps_per_epoch = math.ceil(self.training_lines / batch_size)
        self.steps = self.steps_per_epoch * n_epochs
        self._epoch: int | None = None
        self._batches: list[list[int]] = []

    def batch(self, step: int) -> list[Example]:
        epoch, place = divmod(step - 1, self.steps_per_epoch)
        if self._epoch != epoch:
            self._epoch = epoch
            lines = self._training[:: self._together]
            self._batches = epoch_batches(lines, self._batch_size, seed=self._seed, epoch=epoch)
        return self._of_lines(self._training, self._batches[place])

    def validation_batch(self, step: int) -> list[Example]:
        """The file in turns, a few lines a step; none without a validation file."""
        size = self._validation_size
        first = (step - 1) * size
        count = min(size, self.validation_lines)
        return self._of_lines(self._validation, [i % self.validation_lines for i in range(first, first + count)])

    def companies(self) -> list[list[Example]]:
        """Every example of both files once: the first epoch's batches, and the validation file's first turn."""
        size = self._validation_size * self._together
        turn = [list(self._validation[i : i + size]) for i in range(0, len(self._validation), size)]
        return [*(self.batch(step) for step in range(1, self.steps_per_epoch + 1)), *turn]

    @property
    def _validation_size(self) -> int:
        return max(VALIDATION_LINES, self._batch_size // 4)

    def _of_lines(self, examples: Sequence[Example], lines: Sequence[int]) -> list[Example]:
        return [examples[i * self._together + place] for i in lines for place in range(self._together)]

    def ends_epoch(self, step: int) -> bool:
        return step % self.steps_per_epoch == 0
