from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving.given import new_cache
from tunery.messages import Adapter
from tunery.serving.cache import BLOCK_SIZE, KVCache
from tunery.serving.scheduler import Chunk, Scheduler, Sequence


class Room:
    """Room for two different adapters at once."""

    def __init__(self) -> None:
        self.pinned: Counter[str] = Counter()

    def fits(self, adapter: Adapter) -> bool:
        return len(set(+self.pinned) | {adapter.digest}) <= 2

    def pin(self, adapter: Adapter) -> None:
        self.pinned[adapter.digest] += 1

    def unpin(self, adapter: Adapter) -> None:
        self.pinned[adapter.digest] -= 1


def make(blocks: int = 8, *, max_rows: int = 4, step_tokens: int = 32) -> tuple[Scheduler, KVCache, Room]:
    cache = new_cache(blocks * BLOCK_SIZE)
    room = Room()
    return Scheduler(cache, room, max_rows=max_rows, step_tokens=step_tokens), cache, room


def sequence(length: int, *, owner: str = "a", adapter: str | None = None, width: int = 1) -> Sequence:
    folder = None if adapter is None else Adapter(digest=adapter, directory="")
    return Sequence(owner=owner, adapter=folder, tokens=[0] * length, width=width)


def decode(chunks: list[Chunk]) -> None:
    """What the engine does after a step: each complete chunk brings its sequence one token."""
    for chunk in chunks:
        if chunk.complete:
            chunk.sequence.tokens.append(0)


def test_a_long_prompt_is_computed_in_chunks_while_others_decode() -> None:
    scheduler, _, _ = make()
    short, long = sequence(3), sequence(70)
    scheduler.add(short)
    decode(scheduler.schedule())
    scheduler.add(long)
    counts = []
    for _ in range(3):
        chunks = scheduler.schedule()
        assert (chunks[0].sequence, chunks[0].count) == (short, 1)
        counts.append((chunks[1].count, chunks[1].complete))
        decode(chunks)
    assert counts == [(31, False), (31, False), (8, True)]


def test_the_newest_gives_way_and_comes_back() -> None:
    scheduler, cache, _ = make(blocks=5)
    old, new = sequence(30), sequence(20)
    for one in (old, new):
        scheduler.add(one)
    for _ in range(3):
        decode(scheduler.schedule())
    assert scheduler.running == [old, new]
    while new in scheduler.running:
        decode(scheduler.schedule())
    assert list(scheduler.waiting) == [new]
    assert new.table.length == 0
    scheduler.remove(old)
    assert scheduler.schedule()[0].sequence is new
    scheduler.remove(new)
    assert cache.num_free == cache.num_blocks


def test_the_owner_with_the_fewest_running_sequences_is_next() -> None:
    scheduler, _, _ = make(max_rows=2)
    first, second, other = sequence(1), sequence(1), sequence(1, owner="b")
    for one in (first, second, other):
        scheduler.add(one)
    scheduler.schedule()
    assert scheduler.running == [first, other]


def test_a_third_adapter_waits_until_one_is_let_go() -> None:
    scheduler, _, room = make()
    sequences = [sequence(1, adapter=name) for name in ("x", "y", "z")]
    for one in sequences:
        scheduler.add(one)
    decode(scheduler.schedule())
    assert scheduler.running == sequences[:2]
    scheduler.remove(sequences[0])
    decode(scheduler.schedule())
    assert scheduler.running == sequences[1:]
    assert +room.pinned == Counter("yz")


def test_a_request_wider_than_the_batch_runs_alone() -> None:
    scheduler, _, _ = make(max_rows=2)
    wide, other = sequence(1, width=5), sequence(1)
    scheduler.add(wide)
    scheduler.add(other)
    scheduler.schedule()
    assert scheduler.running == [wide]
    assert len(scheduler.fork(wide)) == len(scheduler.running) == 5


LOADS = st.lists(
    st.tuples(st.integers(1, 100), st.integers(1, 25), st.integers(1, 3), st.sampled_from([None, "x", "y", "z"])),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(LOADS)
def test_every_sequence_finishes_and_everything_is_given_back(loads: list[tuple[int, int, int, str | None]]) -> None:
    scheduler, cache, room = make(blocks=8)
    ends: dict[Sequence, int] = {}
    for prompt, answer, width, adapter in loads:
        one = sequence(prompt, adapter=adapter, width=width)
        ends[one] = prompt + answer
        scheduler.add(one)
    for _ in range(4000):
        if not ends:
            break
        finished: list[Sequence] = []
        for chunk in scheduler.schedule():
            assert chunk.sequence in scheduler.running
            if not chunk.complete:
                continue
            for one in scheduler.fork(chunk.sequence):
                end = ends.setdefault(one, ends[chunk.sequence])
                one.tokens.append(0)
                if len(one.tokens) == end:
                    scheduler.remove(one)
                    finished.append(one)
        for one in finished:
            del ends[one]
    assert not ends
    assert cache.num_free == cache.num_blocks
    assert not +room.pinned
