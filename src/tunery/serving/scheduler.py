"""Who runs in the next step. Knows token counts, cache room and which adapters are in use; no tensor and no text.

Owners take turns by the tokens computed for them, each owner's sequences in order of arrival. A running sequence takes
cache blocks as it grows; when none are left the newest one gives its blocks back, waits at the front and goes on later
from what the cache still has of it. An owner with less than its share of rows may take one from the owner with most.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from tunery.messages import Adapter
from tunery.serving.cache import BlockTable, KVCache
from tunery.serving.drafts import PromptLookup
from tunery.serving.fairness import TokenCounters, shares
from tunery.serving.prefix import BLOCK_SIZE, Scope

LEAST_CHUNK = 64
"""Tokens of a prompt worth a step's part: smaller ones waste the products of matrices."""


class AdapterRoom(Protocol):
    """What the scheduler needs of adapters.py: adapters of running sequences stay in memory."""

    def ready(self, adapter: Adapter) -> bool:
        """It is in memory; if not, it is being loaded from now on."""
        ...

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
    whole: bool = False
    """Every token is to be computed, whatever the cache has: the logits of all are wanted."""
    table: BlockTable = field(default_factory=BlockTable)
    cached_tokens: int | None = None
    """What the cache had of it when it first ran."""
    lookup: PromptLookup | None = None
    """Drafts its next tokens, once it decodes."""

    @property
    def missing(self) -> int:
        """Tokens whose keys and values aren't computed yet."""
        return len(self.tokens) - self.table.length

    @property
    def scope(self) -> Scope:
        return Scope(self.owner, self.adapter.digest if self.adapter else None)


@dataclass(frozen=True, slots=True)
class Chunk:
    """`count` tokens of a sequence that a step computes, and its draft; `start` is the place of the first."""

    sequence: Sequence
    start: int
    count: int
    draft: list[int] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """The chunk's last tokens decide what comes next."""
        return self.start + self.count == len(self.sequence.tokens)


class Scheduler:
    """At most `max_rows` sequences run at once. A step takes `step_tokens` of prompts, and only `beside_tokens` of them
    while others decode, who would wait for the rest. Drafts fill it up to `draft_rows` tokens.
    """

    def __init__(
        self,
        cache: KVCache,
        adapters: AdapterRoom,
        *,
        max_rows: int,
        step_tokens: int,
        beside_tokens: int,
        draft_rows: int,
    ) -> None:
        self._cache = cache
        self._adapters = adapters
        self._max_rows = max_rows
        self._step_tokens = step_tokens
        self._beside_tokens = min(beside_tokens, step_tokens)
        self._draft_rows = draft_rows
        self._counters = TokenCounters()
        self._waiting: defaultdict[str, deque[Sequence]] = defaultdict(deque)
        self.running: list[Sequence] = []

    @property
    def waiting(self) -> list[Sequence]:
        return [sequence for line in self._waiting.values() for sequence in line]

    @property
    def owners(self) -> set[str]:
        """Who has something waiting or running."""
        return {owner for owner, line in self._waiting.items() if line} | {one.owner for one in self.running}

    def add(self, sequence: Sequence) -> None:
        if sequence.owner not in (active := self.owners):
            self._counters.join(sequence.owner, active)
        self._waiting[sequence.owner].append(sequence)

    def schedule(self) -> list[Chunk]:
        """Admits what fits and gives every running sequence its next tokens, one for those that only decode."""
        self._admit()
        self._begin()
        wanted = self._wanted()
        chunks = []
        for sequence in list(self.running):
            count = wanted.get(sequence, 0)
            if count and self._make_room(sequence, count):
                if sequence.cached_tokens is None:
                    sequence.cached_tokens = sequence.table.length
                chunks.append(Chunk(sequence, sequence.table.length, count))
                self._cache.extend(sequence.table, count)
                self._counters.charge(sequence.owner, count)
        return self._with_drafts(chunks)

    def accept(self, chunk: Chunk, count: int) -> None:
        """The first `count` tokens of its draft have come true so far: called with 0, 1 and so on."""
        sequence = chunk.sequence
        self._cache.settle(sequence.table, chunk.start + chunk.count + count)
        if count:
            self._counters.charge(sequence.owner, 1)
        if sequence.lookup:
            sequence.lookup.judge(len(chunk.draft), count)

    def computed(self, sequence: Sequence) -> None:
        """The chunks of a sequence are run: others may begin with them."""
        self._cache.keep(sequence.table, sequence.scope, sequence.tokens)

    def fork(self, sequence: Sequence) -> list[Sequence]:
        """The `width` sequences that go on from a computed prompt, itself first."""
        copies = [
            Sequence(
                owner=sequence.owner,
                adapter=sequence.adapter,
                tokens=list(sequence.tokens),
                table=self._cache.fork(sequence.table),
                cached_tokens=0,
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
            self._waiting[sequence.owner].remove(sequence)

    def _admit(self) -> None:
        while sequence := self._next_waiting():
            while not self._fits(sequence):
                if not self._take_row_for(sequence):
                    return
            self._waiting[sequence.owner].remove(sequence)
            self.running.append(sequence)
            self._pin(sequence)

    def _next_waiting(self) -> Sequence | None:
        """The first whose adapter is there, of the owner with the fewest tokens, then rows, that has one."""
        rows = self._rows()
        owners = [owner for owner, line in self._waiting.items() if line]
        for owner in sorted(owners, key=lambda owner: (self._counters.served(owner), rows[owner])):
            for sequence in self._waiting[owner]:
                if sequence.adapter is None or self._adapters.ready(sequence.adapter):
                    return sequence
        return None

    def _rows(self) -> Counter[str]:
        rows = Counter[str]()
        for sequence in self.running:
            rows[sequence.owner] += sequence.width
        return rows

    def _fits(self, sequence: Sequence) -> bool:
        if not self.running:
            return True
        rows = self._rows().total() + sequence.width
        promised = sum(self._cache.blocks_to_extend(running.table, running.missing) for running in self.running)
        wanted = self._cache.blocks_for(len(sequence.tokens)) + sequence.width
        if not sequence.whole:
            wanted -= self._cache.num_shared(sequence.scope, sequence.tokens)
        return (
            rows <= self._max_rows
            and wanted <= self._cache.num_available - promised
            and (sequence.adapter is None or self._adapters.fits(sequence.adapter))
        )

    def _take_row_for(self, sequence: Sequence) -> bool:
        """Stops the newest sequence of whoever has most rows, if that leaves it its share and the other has less."""
        if sequence.adapter and not self._adapters.fits(sequence.adapter):
            return False
        share = self._max_rows // len(self.owners)
        rows = self._rows()
        ((most, taken),) = rows.most_common(1)
        newest = next(running for running in reversed(self.running) if running.owner == most)
        if taken - newest.width < share or rows[sequence.owner] + sequence.width > share:
            return False
        self._put_back(newest)
        return True

    def _begin(self) -> None:
        """Gives sequences that start what the cache has of them."""
        for sequence in self.running:
            if not sequence.table.length and not sequence.whole:
                self._cache.begin(sequence.table, sequence.scope, sequence.tokens)

    def _wanted(self) -> dict[Sequence, int]:
        """Tokens of each running sequence to compute: those that decode get one, the others share the step."""
        wanted = {sequence: 1 for sequence in self.running if sequence.missing == 1}
        lines: defaultdict[str, list[Sequence]] = defaultdict(list)
        for sequence in self._starting():
            lines[sequence.owner].append(sequence)
        budget = self._beside_tokens if wanted else self._step_tokens
        parts = shares([sum(one.missing for one in line) for line in lines.values()], budget)
        for line, part in zip(lines.values(), parts, strict=True):
            counts = shares([one.missing for one in line], part, least=LEAST_CHUNK)
            wanted |= dict(zip(line, counts, strict=True))
        return wanted

    def _starting(self) -> Iterator[Sequence]:
        """Those whose prompt is to be computed. Of several that begin alike one starts, the others follow it from the
        cache a step later.
        """
        first: set[tuple[Scope, tuple[int, ...]]] = set()
        for sequence in self.running:
            beginning = (sequence.scope, tuple(sequence.tokens[:BLOCK_SIZE]))
            if sequence.missing > 1 and (sequence.table.length or sequence.whole or beginning not in first):
                yield sequence
                if not sequence.table.length:
                    first.add(beginning)

    def _with_drafts(self, chunks: list[Chunk]) -> list[Chunk]:
        """Those that decode share what is left of `draft_rows`, where there is room without taking anybody's."""
        spare = self._draft_rows - sum(chunk.count for chunk in chunks)
        drafted = []
        for place, chunk in enumerate(chunks):
            draft = self._draft(chunk.sequence, spare // (len(chunks) - place)) if chunk.count == 1 else []
            spare -= len(draft)
            drafted.append(replace(chunk, draft=draft))
        return drafted

    def _draft(self, sequence: Sequence, most: int) -> list[int]:
        if sequence.lookup is None or most < 1:
            return []
        draft = sequence.lookup.draft(sequence.tokens, most)
        if self._cache.blocks_to_extend(sequence.table, len(draft)) > self._cache.num_available:
            return []
        self._cache.extend(sequence.table, len(draft))
        return draft

    def _make_room(self, sequence: Sequence, tokens: int) -> bool:
        if sequence not in self.running:
            return False  # gave way to an older one in this very step
        while self._cache.num_available < self._cache.blocks_to_extend(sequence.table, tokens):
            newest = self.running[-1]
            self._put_back(newest)
            if newest is sequence:
                return False
        return True

    def _put_back(self, sequence: Sequence) -> None:
        self.computed(sequence)
        self._stop(sequence)
        self._waiting[sequence.owner].appendleft(sequence)

    def _pin(self, sequence: Sequence) -> None:
        if sequence.adapter:
            self._adapters.pin(sequence.adapter)

    def _stop(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._cache.release(sequence.table)
        if sequence.adapter:
            self._adapters.unpin(sequence.adapter)
