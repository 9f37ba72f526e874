"""Who runs in the next step. Knows token counts, cache room and adapters in use; no tensor, no text.

Sequences wait in order of arrival, the owner with the fewest running ones first. A running sequence takes cache blocks
as it grows; when none are left the newest one gives its blocks back, waits at the front and is computed again later.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tunery.messages import Adapter
from tunery.serving.cache import BlockTable, KVCache


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """A prompt and what was generated after it. Its keys and values lie in `table`, as far as they are computed."""

    owner: str
    adapter: Adapter | None
    tokens: list[int]
    width: int = 1
    """Choices that will go on from this prompt: it forks when the prompt is computed."""
    table: BlockTable = field(default_factory=BlockTable)

    @property
    def missing(self) -> int:
        """Tokens whose keys and values aren't computed yet."""
        return len(self.tokens) - self.table.length


@dataclass(frozen=True, slots=True)
class Chunk:
    """`count` tokens of a sequence that this step computes; `start` is the place of the first."""

    sequence: Sequence
    start: int
    count: int

    @property
    def complete(self) -> bool:
        """The sequence's next token is decided by this chunk."""
        return self.start + self.count == len(self.sequence.tokens)


class AdapterRoom:
    """What the scheduler asks about adapters; see adapters.py."""

    def __init__(self, *, fits: Callable[[Adapter], bool], hold: Callable[[Adapter], None],
                 release: Callable[[Adapter], None]) -> None:
        self.fits, self.hold, self.release = fits, hold, release
