"""Who runs in the next step. Knows token counts, cache room and which adapters are in use; no tensor and no text.

Sequences wait in order of arrival, the owner with the fewest running ones first. A running sequence takes cache blocks
as it grows; when none are left the newest one gives its blocks back, waits at the front and is computed again later.
"""

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Protocol

from tunery.messages import Adapter
from tunery.serving.cache import BLOCK_SIZE, BlockTable, KVCache


class AdapterRoom(Protocol):
    """What the scheduler needs of adapters.py: adapters of running sequences stay in memory."""

    def fits(self, adapter: Adapter) -> bool: ...
    def pin(self, adapter: Adapter) -> None: ...
    def unpin(self, adapter: Adapter) -> None: ...


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """A prompt and what was generated after it. Its keys and values lie in `table`, as far as they are computed."""

    owner: str
    adapter: Adapter | None
    tokens: list[int]
    width: int = 1
    """Choices that go on from this prompt: it forks once the prompt is computed."""
    table: BlockTable = field(default_factory=BlockTable)

    @property
    def missing(self) -> int:
        """Tokens whose keys and values aren't computed yet."""
        return len(self.tokens) - self.table.length


@dataclass(frozen=True, slots=True)
class Chunk:
    """`count` tokens of a sequence that a step computes; `start` is the place of the first."""

    sequence: Sequence
    start: int
    count: int

    @property
    def complete(self) -> bool:
        """The chunk's last row decides the sequence's next token."""
        return self.start + self.count == len(self.sequence.tokens)


class Scheduler:
    """At most `max_rows` sequences run at once and at most about `step_tokens` tokens a step."""

    def __init__(self, cache: KVCache, adapters: AdapterRoom, *, max_rows: int, step_tokens: int) -> None:
        self._cache = cache
        self._adapters = adapters
        self._max_rows = max_rows
        self._step_tokens = step_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def schedule(self) -> list[Chunk]:
        """Admits what fits and gives every running sequence its next tokens, one for those that only decode."""
        self._admit()
        decoding = sum(sequence.missing == 1 for sequence in self.running)
        budget = max(self._step_tokens - decoding, BLOCK_SIZE)
        chunks = []
        for sequence in list(self.running):
            count = min(sequence.missing, budget) if sequence.missing > 1 else 1
            if count and self._make_room(sequence, count):
                chunks.append(Chunk(sequence, sequence.table.length, count))
                self._cache.extend(sequence.table, count)
                budget -= count if count > 1 else 0
        return chunks

    def fork(self, sequence: Sequence) -> list[Sequence]:
        """The `width` sequences that go on from a computed prompt, itself first."""
        copies = [
            Sequence(
                owner=sequence.owner,
                adapter=sequence.adapter,
                tokens=list(sequence.tokens),
                table=self._cache.fork(sequence.table),
            )
            for _ in range(sequence.width - 1)
        ]
        sequence.width = 1
        place = self.running.index(sequence) + 1
        self.running[place:place] = copies
        for copy in copies:
            self._pin(copy)
        return [sequence, *copies]

    def remove(self, sequence: Sequence) -> None:
        """Forgets a sequence and frees what it holds at once."""
        if sequence in self.running:
            self._stop(sequence)
        else:
            self.waiting.remove(sequence)

    def _admit(self) -> None:
        while self.waiting:
            sequence = self._next_waiting()
            if not self._fits(sequence):
                return
            self.waiting.remove(sequence)
            self.running.append(sequence)
            self._pin(sequence)

    def _next_waiting(self) -> Sequence:
        load = Counter(sequence.owner for sequence in self.running)
        return min(self.waiting, key=lambda sequence: load[sequence.owner])

    def _fits(self, sequence: Sequence) -> bool:
        if not self.running:
            return True
        rows = sum(running.width for running in self.running) + sequence.width
        promised = sum(self._cache.blocks_to_extend(running.table, running.missing) for running in self.running)
        wanted = self._cache.blocks_for(len(sequence.tokens)) + sequence.width
        return (
            rows <= self._max_rows
            and wanted <= self._cache.num_free - promised
            and (sequence.adapter is None or self._adapters.fits(sequence.adapter))
        )

    def _make_room(self, sequence: Sequence, tokens: int) -> bool:
        if sequence not in self.running:
            return False  # gave way to an older one in this very step
        while self._cache.num_free < self._cache.blocks_to_extend(sequence.table, tokens):
            newest = self.running[-1]
            self._stop(newest)
            self.waiting.appendleft(newest)
            if newest is sequence:
                return False
        return True

    def _pin(self, sequence: Sequence) -> None:
        if sequence.adapter:
            self._adapters.pin(sequence.adapter)

    def _stop(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._cache.release(sequence.table)
        if sequence.adapter:
            self._adapters.unpin(sequence.adapter)
