"""How long a run will still take, from how long it took so far. Knows no clock."""

WARMING_STEPS = 2
"""The first steps load pages and choose kernels; they say little about the rest."""
RECENT = 0.1
"""Weight of the newest step: the machine's other load changes."""


class Pace:
    def __init__(self) -> None:
        self._steps = 0
        self._step: float | None = None
        self._evaluation: float | None = None

    def step(self, seconds: float) -> None:
        self._steps += 1
        if self._steps > WARMING_STEPS:
            self._step = seconds if self._step is None else self._step + RECENT * (seconds - self._step)

    def evaluation(self, seconds: float) -> None:
        self._evaluation = seconds

    def seconds(self, *, steps: int, evaluations: int) -> float | None:
        """Until the end, or None as long as there is nothing to tell from."""
        if steps == 0:
            return 0.0
        if self._step is None:
            return None
        return steps * self._step + evaluations * (self._evaluation or 0.0)
