"""Keys and values of sequences, in blocks of a pool of fixed size. Knows no scheduling and no text.

A block belongs to one sequence or is shared by several that have the same tokens before and in it; a shared block is
copied before one of them writes to it. Each block is in one of three states: free, held by as many sequences as its
count says, or cached: held by none, but kept for the next one that begins alike (prefix.py) until room is needed.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tunery.models.decoder import ModelConfig
from tunery.serving.compiled import kernels_for
from tunery.serving.prefix import BLOCK_SIZE, PrefixTree, Scope


class BlockTable:
    """Which blocks hold a sequence's tokens, in order, and how many tokens are in them."""

    __slots__ = ("blocks", "length")

    def __init__(self) -> None:
        self.blocks: list[int] = []
        self.length = 0


class KVCache:
    """Room for `num_tokens` tokens over all sequences, rounded down to whole blocks."""

    def __init__(self, config: ModelConfig, num_tokens: int, *, device: torch.device | str, dtype: torch.dtype) -> None:
        self.num_blocks = num_tokens // BLOCK_SIZE
        self.device = device
        # One block more than is handed out: block 0 stays zero and pads the shorter rows of a batch.
        pool = (config.num_hidden_layers, self.num_blocks + 1)
        heads, dim = config.num_key_value_heads, config.head_dim
        self.keys = torch.zeros(*pool, heads, dim, BLOCK_SIZE, device=device, dtype=dtype)
        """[L, blocks, Hkv, D, BLOCK_SIZE]: a block's tokens side by side, so that they are scored in vectors."""
        self.values = torch.zeros(*pool, BLOCK_SIZE, heads, dim, device=device, dtype=dtype)
        """[L, blocks, BLOCK_SIZE, Hkv, D]"""
        self._free = list(range(self.num_blocks, 0, -1))
        self._holders = [0] * (self.num_blocks + 1)
        self._prefixes = PrefixTree()
        self.kernels = kernels_for(device, dtype)

    @property
    def num_tokens(self) -> int:
        return self.num_blocks * BLOCK_SIZE

    @property
    def free(self) -> list[int]:
        return list(self._free)

    @property
    def cached(self) -> list[int]:
        """The one to go first in front."""
        return self._prefixes.resting

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_cached(self) -> int:
        return self._prefixes.num_resting

    @property
    def num_held(self) -> int:
        return sum(count > 0 for count in self._holders)

    @property
    def num_available(self) -> int:
        """Blocks that `extend` can take: the free ones and, after them, the cached ones."""
        return self.num_free + self.num_cached

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // BLOCK_SIZE)

    def blocks_to_extend(self, table: BlockTable, tokens: int) -> int:
        """How many available blocks `extend` would take."""
        return max(0, self.blocks_for(table.length + tokens) - len(table.blocks)) + self._must_copy(table)

    def begin(self, table: BlockTable, scope: Scope, tokens: Sequence[int]) -> None:
        """Gives an empty table what is known of a sequence; its last token stays to be computed, for its logits."""
        for block in self._prefixes.find(scope, tokens[:-1]):
            self._hold(block)
            table.blocks.append(block)
        table.length = len(table.blocks) * BLOCK_SIZE

    def num_shared(self, scope: Scope, tokens: Sequence[int]) -> int:
        """Of the blocks that `begin` would give, those that other sequences hold now."""
        return sum(self._holders[block] > 0 for block in self._prefixes.find(scope, tokens[:-1]))

    def keep(self, table: BlockTable, scope: Scope, tokens: Sequence[int]) -> None:
        """Lets later sequences begin with the computed part of this one, `tokens`."""
        for place, block in enumerate(self._prefixes.keep(scope, tokens[: table.length], table.blocks)):
            own = table.blocks[place]
            if own != block:
                self._hold(block)
                table.blocks[place] = block
                self._let_go(own)

    def extend(self, table: BlockTable, tokens: int) -> None:
        """Makes room for `tokens` more tokens, which the caller writes next; see blocks_to_extend."""
        if self._must_copy(table):
            self._copy_last(table)
        grown = self._take(self.blocks_for(table.length + tokens) - len(table.blocks))
        if grown:
            # Left-overs of another sequence are masked, but 0 * inf is NaN: they must not be there at all.
            self.keys[:, grown], self.values[:, grown] = 0, 0
        table.blocks += grown
        table.length += tokens

    def settle(self, table: BlockTable, length: int) -> None:
        """Only the first `length` tokens count; the room that `extend` made for more stays, with what is in it."""
        assert length <= len(table.blocks) * BLOCK_SIZE
        table.length = length

    def fork(self, table: BlockTable) -> BlockTable:
        """A second sequence with the same tokens so far; takes no block yet."""
        copy = BlockTable()
        copy.blocks, copy.length = list(table.blocks), table.length
        for block in copy.blocks:
            self._hold(block)
        return copy

    def release(self, table: BlockTable) -> None:
        """Gives the sequence's blocks back: those that no other sequence holds become free, or cached if kept."""
        for block in reversed(table.blocks):
            self._let_go(block)
        table.blocks, table.length = [], 0

    def slots(self, table: BlockTable, start: int, end: int) -> list[int]:
        """Where tokens start..end of the sequence lie in a layer's [slots, Hkv, D]."""
        return [table.blocks[place // BLOCK_SIZE] * BLOCK_SIZE + place % BLOCK_SIZE for place in range(start, end)]

    def write(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Stores k and v [T, Hkv, D] at slots[T]."""
        if self.kernels:
            self.kernels.write(slots.numpy(), k, v, self.keys[layer], self.values[layer])
        else:
            self.keys[layer][slots // BLOCK_SIZE, :, :, slots % BLOCK_SIZE] = k
            self.values[layer].flatten(0, 1).index_copy_(0, slots, v)

    def read(self, layer: int, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of blocks[B, N], each as [B, Hkv, N * BLOCK_SIZE, D]."""
        keys = self.keys[layer][blocks].permute(0, 2, 1, 4, 3).flatten(2, 3)
        values = self.values[layer][blocks].flatten(1, 2).transpose(1, 2)
        return keys, values

    def _hold(self, block: int) -> None:
        self._holders[block] += 1
        self._prefixes.wake(block)

    def _let_go(self, block: int) -> None:
        self._holders[block] -= 1
        if self._holders[block]:
            return
        if self._prefixes.keeps(block):
            self._prefixes.rest(block)
        else:
            self._free.append(block)

    def _must_copy(self, table: BlockTable) -> bool:
        return table.length % BLOCK_SIZE != 0 and self._holders[table.blocks[-1]] > 1

    def _copy_last(self, table: BlockTable) -> None:
        shared = table.blocks[-1]
        (own,) = self._take(1)
        self.keys[:, own], self.values[:, own] = self.keys[:, shared], self.values[:, shared]
        table.blocks[-1] = own
        self._let_go(shared)

    def _take(self, count: int) -> list[int]:
        assert count <= self.num_available, "the scheduler asks before it extends"
        taken = [self._free.pop() if self._free else self._prefixes.give_up() for _ in range(count)]
        for block in taken:
            self._holders[block] = 1
        return taken


class BatchAttention:
    """The `attend` strategy of one step: each sequence's new tokens look at its own tokens before them.

    `chunks` are (table, count): the last `count` tokens of each table are new, and lie one after another in the rows
    the decoder runs. Single tokens are answered together: by a compiled loop where there is one, else those of similar
    length in one padded group.
    """

    def __init__(self, cache: KVCache, chunks: Sequence[tuple[BlockTable, int]]) -> None:
        self._cache = cache
        slots = [slot for table, count in chunks for slot in cache.slots(table, table.length - count, table.length)]
        self._slots = torch.tensor(slots, device=cache.device)
        self._groups = [
            _Singles(cache, members) if cache.kernels and members[0][2] == 1 else _Group(cache, members)
            for members in _groups_of(chunks, by_length=cache.kernels is None)
        ]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int | None = None, /) -> Tensor:
        """q[T, Hq, D], k and v [T, Hkv, D] -> [T, Hq, D]."""
        self._cache.write(layer, self._slots, k, v)
        if len(self._groups) == 1:
            return self._groups[0].attend(layer, q, window)
        out = torch.empty_like(q)
        for group in self._groups:
            out[group.rows] = group.attend(layer, q[group.rows], window)
        return out


Member = tuple[int, BlockTable, int]
"""The row a chunk begins at, its table, and how many of its tokens are new."""


def _groups_of(chunks: Sequence[tuple[BlockTable, int]], *, by_length: bool) -> list[list[Member]]:
    """Each longer chunk alone; single tokens together, or by the power of two of their length."""
    groups: dict[tuple[int, int], list[Member]] = {}
    row = 0
    for number, (table, count) in enumerate(chunks):
        length = len(table.blocks).bit_length() if by_length else 0
        groups.setdefault((0, length) if count == 1 else (1, number), []).append((row, table, count))
        row += count
    return list(groups.values())


def _padded(members: list[Member]) -> list[list[int]]:
    """The blocks of each table, as long as the longest."""
    width = max(len(table.blocks) for _, table, _ in members)
    return [table.blocks + [0] * (width - len(table.blocks)) for _, table, _ in members]


class _Singles:
    """Sequences with one new token each, of any length."""

    def __init__(self, cache: KVCache, members: list[Member]) -> None:
        self._cache = cache
        self.rows = torch.tensor([row for row, _, _ in members])
        self._tables = np.array(_padded(members))
        self._lengths = np.array([table.length for _, table, _ in members])

    def attend(self, layer: int, q: Tensor, window: int | None) -> Tensor:
        """q[B, Hq, D] -> [B, Hq, D]."""
        assert self._cache.kernels
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        seen = self._cache.num_tokens if window is None else window
        out: Tensor = self._cache.kernels.attend(q, keys, values, self._tables, self._lengths, seen)
        return out


class _Group:
    """B sequences with t new tokens each, padded to the longest."""

    def __init__(self, cache: KVCache, members: list[Member]) -> None:
        self._cache = cache
        device = cache.device
        self._shape = (len(members), members[0][2])
        rows = [row + place for row, _, count in members for place in range(count)]
        self.rows = torch.tensor(rows, device=device)
        self._blocks = torch.tensor(_padded(members), device=device)
        last_seen = torch.tensor(
            [range(table.length - count, table.length) for _, table, count in members], device=device
        )
        places = torch.arange(self._blocks.shape[1] * BLOCK_SIZE, device=device)
        self._behind = (last_seen[:, :, None] - places)[:, None]  # [B, 1, t, L]
        self._visible = self._behind >= 0

    def attend(self, layer: int, q: Tensor, window: int | None) -> Tensor:
        """q[B * t, Hq, D] -> [B * t, Hq, D]. Query heads of one key head become more query rows of it."""
        batch, count = self._shape
        _, heads, dim = q.shape
        keys, values = self._cache.read(layer, self._blocks)
        kv_heads = keys.shape[1]
        shared = heads // kv_heads
        q = q.view(batch, count, kv_heads, shared, dim).permute(0, 2, 3, 1, 4).reshape(batch, kv_heads, -1, dim)
        seen = self._visible if window is None else self._visible & (self._behind < window)
        visible = seen.expand(batch, shared, count, -1).reshape(batch, 1, shared * count, -1)
        out = torch.nn.functional.scaled_dot_product_attention(q, keys, values, attn_mask=visible)
        out = out.view(batch, kv_heads, shared, count, dim).permute(0, 3, 1, 2, 4)
        return out.reshape(batch * count, heads, dim)
