"""Is the training loss running away? Decided from the losses of all steps so far. Knows no optimiser and no files."""

import msgspec

START_STEPS = 5
"""Their mean is what the model lost before it learned much."""
WEIGHT = 0.1
"""Of the newest step in the smoothed loss, which so looks back over some twenty steps."""
RISE = 2.0
WORSE = 1.0
"""Nats a token."""
PATIENCE = 20
"""Steps in a row."""


class Trend(msgspec.Struct, frozen=True, kw_only=True):
    """Small enough to lie in the resumable state: a run that goes on judges as if it had never stopped."""

    steps: int = 0
    start: float = 0.0
    smoothed: float = 0.0
    best: float = 0.0
    bad_steps: int = 0

    def after(self, loss: float) -> "Trend":
        """With one more step's training loss, in nats a token."""
        steps = self.steps + 1
        start = self.start + (loss - self.start) / steps if steps <= START_STEPS else self.start
        smoothed = start if steps <= START_STEPS else self.smoothed + WEIGHT * (loss - self.smoothed)
        best = smoothed if steps <= START_STEPS else min(self.best, smoothed)
        bad = steps > START_STEPS and smoothed > RISE * best and smoothed > start + WORSE
        return Trend(steps=steps, start=start, smoothed=smoothed, best=best, bad_steps=self.bad_steps + 1 if bad else 0)

    @property
    def diverging(self) -> bool:
        """For PATIENCE steps the smoothed loss was twice its best and a nat above the loss of the first steps.

        Noise can't do that: a model that is a nat a token worse than the one it started from, averaged over some
        twenty batches, twenty steps in a row, has lost what it knew. A loss that merely stands still, jumps for a few
        batches, or rises from very low to low stays far below.
        """
        return self.bad_steps >= PATIENCE

    @property
    def finding(self) -> str:
        return (
            f"the mean loss of the last steps was {self.smoothed:.2f}, after {self.best:.2f} at its best and "
            f"{self.start:.2f} at the start"
        )
