"""Is the training loss running away? Decided from the losses of all steps so far. Knows no optimiser and no files."""

import msgspec

WEIGHT = 0.1
"""Of the newest step in the smoothed loss, which so looks back over some twenty steps."""
WORSE = 1.0
"""Nats a token: e times less likely."""
NOISE = 2.0
"""Mean differences between two steps in a row."""
PATIENCE = 20
"""Steps in a row."""


class Trend(msgspec.Struct, frozen=True, kw_only=True):
    """Small enough to lie in the resumable state: a run that goes on judges as if it had never stopped."""

    steps: int = 0
    start: float = 0.0
    """The first step's loss, which no learning has touched."""
    smoothed: float = 0.0
    last: float = 0.0
    noise: float = 0.0
    """Mean difference between two steps in a row."""
    bad_steps: int = 0

    def after(self, loss: float) -> "Trend":
        """With one more step's training loss, in nats a token."""
        if self.steps == 0:
            return Trend(steps=1, start=loss, smoothed=loss, last=loss)
        smoothed = self.smoothed + WEIGHT * (loss - self.smoothed)
        noise = self.noise + (abs(loss - self.last) - self.noise) / self.steps
        bad = smoothed > self.start + WORSE + NOISE * noise
        return Trend(
            steps=self.steps + 1,
            start=self.start,
            smoothed=smoothed,
            last=loss,
            noise=noise,
            bad_steps=self.bad_steps + 1 if bad else 0,
        )

    @property
    def diverging(self) -> bool:
        """For PATIENCE steps the smoothed loss was more than a nat, and than the noise, above the first step's.

        Noise can't do that: over some twenty batches, twenty steps in a row, the model is a nat a token worse than the
        one it started from, by twice of what one batch differs from the next (the smoothed loss differs by a quarter
        of it). It has lost what it knew. A loss that stands still, jumps for some batches or rises from very low to
        low stays below.
        """
        return self.bad_steps >= PATIENCE

    @property
    def finding(self) -> str:
        return f"the mean loss of the last steps was {self.smoothed:.2f}, after {self.start:.2f} at the first step"
