import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from tests.serving.given import new_cache
from tunery.serving.cache import BLOCK_SIZE, BatchAttention, BlockTable, KVCache

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


class Blocks(RuleBasedStateMachine):
    """free + held = all; a block is held as often as tables name it; equal prefixes stay equal under forks."""

    tables = Bundle("tables")

    def __init__(self) -> None:
        super().__init__()
        self.cache = small_cache(8 * BLOCK_SIZE)
        self.live: list[BlockTable] = []

    @rule(target=tables)
    def begin(self) -> BlockTable:
        self.live.append(BlockTable())
        return self.live[-1]

    @rule(table=tables, tokens=st.integers(1, 40))
    def extend(self, table: BlockTable, tokens: int) -> None:
        if self.cache.blocks_to_extend(table, tokens) <= self.cache.num_free:
            self.cache.extend(table, tokens)

    @rule(target=tables, table=tables)
    def fork(self, table: BlockTable) -> BlockTable:
        self.live.append(self.cache.fork(table))
        return self.live[-1]

    @rule(table=consumes(tables))
    def release(self, table: BlockTable) -> None:
        self.cache.release(table)
        self.live.remove(table)

    @invariant()
    def free_and_held_are_all(self) -> None:
        held = {block for table in self.live for block in table.blocks}
        assert self.cache.num_free + len(held) == self.cache.num_blocks
        assert 0 not in held

    @invariant()
    def a_table_has_the_blocks_it_needs_and_its_writable_block_alone(self) -> None:
        for table in self.live:
            assert len(table.blocks) == self.cache.blocks_for(table.length)
            assert len(set(table.blocks)) == len(table.blocks)


Blocks.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_blocks_are_free_or_held = Blocks.TestCase


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
