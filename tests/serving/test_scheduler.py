import itertools
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving.given import new_cache
from tunery.messages import Adapter
from tunery.serving.cache import KVCache
from tunery.serving.drafts import PromptLookup
from tunery.serving.prefix import BLOCK_SIZE
from tunery.serving.scheduler import Chunk, Scheduler, Sequence


class Room:
    """Room for two different adapters at once."""

    def __init__(self) -> None:
        self.pinned: Counter[str] = Counter()
        self.loading: set[str] = set()

    def ready(self, adapter: Adapter) -> bool:
        return adapter.digest not in self.loading

    def fits(self, adapter: Adapter) -> bool:
        return len(set(+self.pinned) | {adapter.digest}) <= 2

    def pin(self, adapter: Adapter) -> None:
        self.pinned[adapter.digest] += 1

    def unpin(self, adapter: Adapter) -> None:
        self.pinned[adapter.digest] -= 1


def make(
    blocks: int = 8, *, max_rows: int = 4, step_tokens: int = 32, beside_tokens: int = 32, draft_rows: int = 0
) -> tuple[Scheduler, KVCache, Room]:
    cache = new_cache(blocks * BLOCK_SIZE)
    room = Room()
    scheduler = Scheduler(
        cache,
        room,
        max_rows=max_rows,
        step_tokens=step_tokens,
        beside_tokens=beside_tokens,
        draft_rows=draft_rows,
    )
    return scheduler, cache, room


numbers = itertools.count()
"""Tokens, none like another: sequences begin alike only where a test says so."""


def sequence(length: int, *, owner: str = "a", adapter: str | None = None, width: int = 1) -> Sequence:
    folder = None if adapter is None else Adapter(digest=adapter, directory="")
    return Sequence(owner=owner, adapter=folder, tokens=list(itertools.islice(numbers, length)), width=width)


def decode(chunks: list[Chunk]) -> None:
    """What the engine does after a step: each complete chunk brings its sequence one token."""
    for chunk in chunks:
        if chunk.complete:
            chunk.sequence.tokens.append(next(numbers))


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
    assert counts == [(32, False), (32, False), (6, True)]


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
    assert cache.num_available == cache.num_blocks


def test_the_owner_with_the_fewest_tokens_is_next() -> None:
    scheduler, _, _ = make(max_rows=3)
    long, again, short, after = sequence(20), sequence(1), sequence(2, owner="b"), sequence(2, owner="b")
    for one in (long, short):
        scheduler.add(one)
    decode(scheduler.schedule())
    for one in (again, after):
        scheduler.add(one)
    decode(scheduler.schedule())
    assert scheduler.running == [long, short, after]


def test_who_was_away_has_saved_up_nothing() -> None:
    scheduler, _, _ = make(max_rows=1)
    for one in (sequence(30) for _ in range(5)):
        scheduler.add(one)
    order = []
    for _ in range(7):
        decode(scheduler.schedule())
        order.append(scheduler.running[0].owner)
        if len(order) == 3:
            for one in (sequence(30, owner="late") for _ in range(3)):
                scheduler.add(one)
        scheduler.remove(scheduler.running[0])
    assert order == ["a", "a", "a", "a", "late", "a", "late"]


def test_a_newcomer_takes_a_row_from_who_has_more_than_a_share_and_that_one_goes_on_later() -> None:
    scheduler, _, _ = make(blocks=32, max_rows=4, step_tokens=1000)
    many = [sequence(20) for _ in range(4)]
    for one in many:
        scheduler.add(one)
    decode(scheduler.schedule())
    short = [sequence(3, owner="b") for _ in range(3)]
    for one in short:
        scheduler.add(one)
    decode(scheduler.schedule())
    assert scheduler.running == [*many[:2], *short[:2]]
    scheduler.remove(short[0])
    scheduler.remove(short[1])
    scheduler.remove(short[2])
    chunks = scheduler.schedule()
    assert {chunk.sequence: chunk.start for chunk in chunks}[many[3]] == BLOCK_SIZE  # the rest is cached


def test_who_decodes_waits_for_a_small_piece_of_a_long_prompt_only() -> None:
    scheduler, _, _ = make(blocks=64, step_tokens=200, beside_tokens=20)
    long, other = sequence(500), sequence(3)
    scheduler.add(long)
    (alone,) = scheduler.schedule()
    scheduler.add(other)
    decode(scheduler.schedule())
    beside = {chunk.sequence: chunk.count for chunk in scheduler.schedule()}
    assert (alone.count, beside[other], beside[long]) == (200, 1, 20)


def test_short_prompts_are_not_held_up_by_a_long_one_nor_it_by_them() -> None:
    scheduler, _, _ = make(blocks=64, step_tokens=200)
    long, *short = [sequence(length) for length in (900, 10, 12)]
    for one in (long, *short):
        scheduler.add(one)
    chunks = {chunk.sequence: chunk for chunk in scheduler.schedule()}
    assert all(chunks[one].complete for one in short)
    assert chunks[long].count == 200 - 22


def test_of_prompts_that_begin_alike_one_is_computed_and_the_others_follow() -> None:
    scheduler, _, _ = make(blocks=32, step_tokens=200)
    common = list(itertools.islice(numbers, 40))
    alike = [Sequence(owner="a", adapter=None, tokens=[*common, next(numbers)]) for _ in range(3)]
    stranger = Sequence(owner="b", adapter=None, tokens=[*common, next(numbers)])
    for one in (*alike, stranger):
        scheduler.add(one)
    first, second = scheduler.schedule(), None
    for chunk in first:
        scheduler.computed(chunk.sequence)
    decode(first)
    second = scheduler.schedule()
    assert {chunk.sequence for chunk in first} == {alike[0], stranger}
    assert {chunk.sequence: chunk.start for chunk in second}.items() >= {(alike[1], 32), (alike[2], 32)}
    assert [one.cached_tokens for one in (*alike, stranger)] == [0, 32, 32, 0]


def test_who_waits_for_an_adapter_holds_up_nobody() -> None:
    scheduler, _, room = make()
    room.loading.add("x")
    slow, quick = sequence(1, adapter="x"), sequence(1)
    for one in (slow, quick):
        scheduler.add(one)
    scheduler.schedule()
    assert scheduler.running == [quick]
    room.loading.clear()
    scheduler.schedule()
    assert scheduler.running == [quick, slow]


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
                one.tokens.append(next(numbers))
                if len(one.tokens) == end:
                    scheduler.remove(one)
                    finished.append(one)
        for one in finished:
            del ends[one]
    assert not ends
    assert cache.num_available == cache.num_blocks
    assert not +room.pinned


def decoding(scheduler: Scheduler, *, count: int = 1, length: int = 12) -> list[Sequence]:
    """Some that repeat themselves and are about to compute their last token of so many."""
    sequences = []
    for number in range(count):
        tokens = [10 * number + place % 3 for place in range(length - 1)]
        sequences.append(Sequence(owner="a", adapter=None, tokens=tokens, lookup=PromptLookup()))
        scheduler.add(sequences[-1])
    for chunk in scheduler.schedule():
        chunk.sequence.tokens.append(chunk.sequence.tokens[-3])
    return sequences


def test_those_that_decode_share_what_drafts_may_fill() -> None:
    scheduler, _, _ = make(draft_rows=5)
    sequences = decoding(scheduler, count=2)
    chunks = scheduler.schedule()
    assert [(chunk.sequence, len(chunk.draft)) for chunk in chunks] == [(sequences[0], 1), (sequences[1], 2)]
    assert [one.table.length - len(one.tokens) for one in sequences] == [1, 2]
    scheduler.accept(chunks[1], 1)
    assert sequences[1].table.length == len(sequences[1].tokens) + 1


def test_nothing_is_drafted_beside_prompts() -> None:
    scheduler, _, _ = make(draft_rows=8)
    decoding(scheduler)
    scheduler.add(sequence(20))
    assert [chunk.draft for chunk in scheduler.schedule()] == [[], []]


def test_a_draft_takes_no_room_that_isn_t_free() -> None:
    for blocks, drafted in ((2, 0), (3, 2)):
        scheduler, _, _ = make(blocks=blocks, draft_rows=8)
        decoding(scheduler, length=2 * BLOCK_SIZE)
        (chunk,) = scheduler.schedule()
        assert len(chunk.draft) == drafted
