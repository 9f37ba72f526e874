from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from tests.serving.given import new_cache
from tunery.serving.cache import BatchAttention, BlockTable, KVCache
from tunery.serving.prefix import BLOCK_SIZE, Scope

HEADS, KV_HEADS, DIM = 6, 2, 8


def small_cache(tokens: int = 16 * BLOCK_SIZE) -> KVCache:
    return new_cache(tokens, num_key_value_heads=KV_HEADS, head_dim=DIM)


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention of a whole sequence, written out: q[T, Hq, D], k and v [T, Hkv, D]."""
    share = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) / DIM**0.5
    hidden = torch.ones(len(q), len(q), dtype=torch.bool).triu(1)
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v)


def random_qkv(length: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, heads, DIM, generator=generator) for heads in (HEADS, KV_HEADS, KV_HEADS)]


def run(cache: KVCache, parts: list[tuple[BlockTable, list[torch.Tensor]]]) -> list[torch.Tensor]:
    """One step: each table gets the given new q, k, v; returns the outputs."""
    for table, (q, _, _) in parts:
        cache.extend(table, len(q))
    attend = BatchAttention(cache, [(table, len(qkv[0])) for table, qkv in parts])
    q, k, v = (torch.cat([qkv[side] for _, qkv in parts]) for side in range(3))
    return list(attend(0, q, k, v).split([len(qkv[0]) for _, qkv in parts]))


def test_chunks_and_single_tokens_in_one_step_attend_like_whole_sequences() -> None:
    cache = small_cache()
    lengths, done = [3, 40, 70, 17, 18], [0, 0, 0, 0, 0]
    whole = [random_qkv(length, seed) for seed, length in enumerate(lengths)]
    tables = [BlockTable() for _ in lengths]
    outputs: list[list[torch.Tensor]] = [[] for _ in lengths]
    counts = torch.Generator().manual_seed(0)
    while any(start < length for start, length in zip(done, lengths, strict=True)):
        parts, members = [], []
        for number, length in enumerate(lengths):
            count = min(length - done[number], [1, 1, 20][int(torch.randint(3, (), generator=counts))])
            if count:
                new = [side[done[number] : done[number] + count] for side in whole[number]]
                parts.append((tables[number], new))
                members.append(number)
                done[number] += count
        for number, out in zip(members, run(cache, parts), strict=True):
            outputs[number].append(out)
    for number, qkv in enumerate(whole):
        torch.testing.assert_close(torch.cat(outputs[number]), reference(*qkv), atol=1e-5, rtol=1e-5)


def test_forked_sequences_share_blocks_and_write_apart() -> None:
    cache = small_cache()
    prompt = random_qkv(BLOCK_SIZE + 5, 1)
    first = BlockTable()
    run(cache, [(first, prompt)])
    second = cache.fork(first)
    assert cache.num_free == cache.num_blocks - 2
    ends = [random_qkv(3, 2), random_qkv(3, 3)]
    outputs = run(cache, list(zip([first, second], ends, strict=True)))
    assert cache.num_free == cache.num_blocks - 3
    for end, out in zip(ends, outputs, strict=True):
        joined = [torch.cat(sides) for sides in zip(prompt, end, strict=True)]
        torch.testing.assert_close(out, reference(*joined)[-3:], atol=1e-5, rtol=1e-5)


def test_broken_numbers_of_one_sequence_reach_neither_its_neighbour_nor_its_successor() -> None:
    cache = small_cache(4 * BLOCK_SIZE)
    broken, sound = BlockTable(), BlockTable()
    nan = [torch.full_like(side, torch.nan) for side in random_qkv(1, 0)]
    qkv = random_qkv(1, 1)
    _, out = run(cache, [(broken, [side.repeat(40, 1, 1) for side in nan]), (sound, qkv)])
    torch.testing.assert_close(out, reference(*qkv))
    _, out = run(cache, [(broken, nan), (sound, random_qkv(1, 2))])
    assert out.isfinite().all()
    cache.release(broken)
    successor = BlockTable()
    assert run(cache, [(successor, random_qkv(33, 3))])[0].isfinite().all()


SCOPES = [Scope("a", None), Scope("a", "x"), Scope("b", "x")]


@dataclass(eq=False)
class Sequence:
    """A table and the tokens whose marks lie in it."""

    scope: Scope
    tokens: list[int]
    table: BlockTable = field(default_factory=BlockTable)


class Blocks(RuleBasedStateMachine):
    """Sequences begin, grow, fork, are kept and end; each block's contents say whose tokens it holds.

    What is written for a token is a mark made of its scope and all tokens up to it, so that a block read under another
    scope, or one whose contents are left over, shows at once.
    """

    sequences = Bundle("sequences")

    def __init__(self) -> None:
        super().__init__()
        self.cache = new_cache(8 * BLOCK_SIZE)
        self.live: list[Sequence] = []

    @rule(target=sequences, scope=st.sampled_from(SCOPES), known=st.integers(0, 60))
    def begin(self, scope: Scope, known: int) -> Sequence:
        sequence = Sequence(scope, [place // 20 % 2 for place in range(known)])
        self.cache.begin(sequence.table, scope, sequence.tokens)
        sequence.tokens = sequence.tokens[: sequence.table.length]
        self.live.append(sequence)
        return sequence

    @rule(sequence=sequences, tokens=st.integers(1, 40), odd=st.booleans())
    def extend(self, sequence: Sequence, tokens: int, odd: bool) -> None:
        if self.cache.blocks_to_extend(sequence.table, tokens) > self.cache.num_available:
            return
        start = sequence.table.length
        self.cache.extend(sequence.table, tokens)
        sequence.tokens += [(place // 20 + odd) % 2 for place in range(start, start + tokens)]
        slots = torch.tensor(self.cache.slots(sequence.table, start, start + tokens))
        marks = torch.tensor(self.marks(sequence)[start:]).view(-1, 1, 1)
        self.cache.write(0, slots, marks, marks)

    @rule(target=sequences, sequence=sequences)
    def fork(self, sequence: Sequence) -> Sequence:
        copy = Sequence(sequence.scope, list(sequence.tokens), self.cache.fork(sequence.table))
        self.live.append(copy)
        return copy

    @rule(sequence=sequences)
    def keep(self, sequence: Sequence) -> None:
        self.cache.keep(sequence.table, sequence.scope, sequence.tokens)

    @rule(sequence=consumes(sequences))
    def release(self, sequence: Sequence) -> None:
        self.cache.release(sequence.table)
        self.live.remove(sequence)

    def marks(self, sequence: Sequence) -> list[float]:
        seen, marks = hash(sequence.scope), []
        for token in sequence.tokens:
            seen = hash((seen, token))
            marks.append(float(seen % 1_000_003))
        return marks

    @invariant()
    def free_held_and_cached_are_all_and_no_block_is_two(self) -> None:
        held = {block for sequence in self.live for block in sequence.table.blocks}
        free, cached = set(self.cache.free), set(self.cache.cached)
        assert free.isdisjoint(held | cached)
        assert held.isdisjoint(cached)
        assert free | held | cached == set(range(1, self.cache.num_blocks + 1))
        assert len(self.cache.free) == self.cache.num_free

    @invariant()
    def a_sequence_reads_what_was_written_for_it(self) -> None:
        for sequence in self.live:
            table = sequence.table
            assert table.length == len(sequence.tokens)
            assert len(set(table.blocks)) == len(table.blocks) == self.cache.blocks_for(table.length)
            if table.blocks:
                keys, _ = self.cache.read(0, torch.tensor([table.blocks]))
                assert keys.flatten().tolist()[: table.length] == self.marks(sequence)


Blocks.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
test_blocks_are_free_held_or_cached = Blocks.TestCase


def computed(cache: KVCache, scope: Scope, tokens: list[int]) -> BlockTable:
    table = BlockTable()
    cache.extend(table, len(tokens))
    cache.keep(table, scope, tokens)
    return table


def test_what_is_kept_serves_the_same_account_and_adapter_and_no_other() -> None:
    cache = small_cache()
    tokens = list(range(3 * BLOCK_SIZE))
    cache.release(computed(cache, SCOPES[1], tokens))
    for scope, known in zip(SCOPES, (0, 2 * BLOCK_SIZE, 0), strict=True):
        table = BlockTable()
        cache.begin(table, scope, tokens)
        assert table.length == known  # never the last token: its logits are wanted


def test_the_least_recently_used_beginning_goes_first_its_end_before_its_start() -> None:
    cache = small_cache(6 * BLOCK_SIZE)
    first, second = ([number] * 2 * BLOCK_SIZE for number in (1, 2))
    for tokens in (first, second):
        cache.release(computed(cache, SCOPES[0], tokens))
    again = BlockTable()
    cache.begin(again, SCOPES[0], [*first, 0])
    cache.release(again)
    cache.extend(BlockTable(), 3 * BLOCK_SIZE)
    found = []
    for tokens in (first, second):
        table = BlockTable()
        cache.begin(table, SCOPES[0], [*tokens, 0])
        found.append(table.length)
    assert found == [2 * BLOCK_SIZE, BLOCK_SIZE]


def test_two_that_computed_the_same_share_it_afterwards() -> None:
    cache = small_cache()
    tokens = [7] * 2 * BLOCK_SIZE
    first, second = (computed(cache, SCOPES[0], tokens) for _ in range(2))
    assert first.blocks == second.blocks
    assert cache.num_free == cache.num_blocks - 2


def test_writing_to_a_shared_block_takes_a_copy_first() -> None:
    cache = small_cache()
    table = BlockTable()
    cache.extend(table, 5)
    copy = cache.fork(table)
    assert cache.blocks_to_extend(copy, 1) == 1
    cache.extend(copy, 1)
    assert copy.blocks != table.blocks
    assert cache.blocks_to_extend(table, 1) == 0


def test_taking_more_than_is_free_is_a_bug_of_the_caller() -> None:
    with pytest.raises(AssertionError):
        small_cache(BLOCK_SIZE).extend(BlockTable(), BLOCK_SIZE + 1)
