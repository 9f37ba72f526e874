"""Attention over a tree of tokens: each token sees itself and its ancestors. An `Attend` for a base model.

Where compiled loops run they do it (compiled.py). Elsewhere stretches that see about as many nodes are computed
together, as one batch of small products: about half the time of the library's fused attention, which is made for fewer
and longer rows; docs/log.md has the figures.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from tunery.models.compiled import loops_run
from tunery.models.decoder import Attend
from tunery.training.batches import Ints, Tree
from tunery.training.stretches import STRETCH, columns, cuts

BATCH_PAIRS = 48 * 1024
"""Rows times columns of the stretches computed together: their scores stay in the processor's cache (measured)."""
KEPT_COLUMNS = 512
"""Probabilities over up to so many columns are kept for the backward pass; wider ones are computed again there."""


def attention_over(tree: Tree, device: torch.device, dtype: torch.dtype) -> Attend:
    if not loops_run(device, dtype):
        return TreeAttention(tree, device)
    from tunery.training.compiled import CompiledTreeAttention  # noqa: PLC0415 (without numba there is no such module)

    return CompiledTreeAttention(tree)


@dataclass(frozen=True, slots=True, eq=False)
class _Stretch:
    first: int
    columns: Ints
    """[C]: nodes that some row sees"""
    visible: np.ndarray[Any, np.dtype[np.bool_]]
    """[R, C]"""


@dataclass(frozen=True, slots=True, eq=False)
class _Together:
    """S neighbouring stretches, padded to R rows and C columns each."""

    rows: slice
    """What their own rows are, without the padding."""
    places: Tensor
    """Of the own rows among S * R; the rest is padding, which is zero and sees the first column."""
    column_nodes: Tensor
    """[S * C]"""
    bias: Tensor
    """[S, 1, 1, R, C]: 0 where a row sees a column, else minus infinity."""

    @property
    def columns(self) -> int:
        return self.bias.shape[-1]

    def by_row(self, x: Tensor, kv_heads: int) -> Tensor:
        """Of all rows [T, heads, D] these, G heads that share keys in a row: [S * kv_heads, G * R, D]"""
        x = self._padded(x).view(len(self.bias), self.bias.shape[-2], kv_heads, -1, x.shape[-1])
        return x.permute(0, 2, 3, 1, 4).flatten(2, 3).flatten(0, 1)

    def to_rows(self, x: Tensor, kv_heads: int) -> Tensor:
        """What `by_row` did, undone, for the own rows: [rows, heads, D]"""
        x = x.view(len(self.bias), kv_heads, -1, self.bias.shape[-2], x.shape[-1])
        return x.permute(0, 3, 1, 2, 4).flatten(2, 3).flatten(0, 1)[self.places]

    def by_column(self, x: Tensor) -> Tensor:
        """Of all nodes [T, kv_heads, D] those seen: [S * kv_heads, C, D]"""
        x = x[self.column_nodes].view(len(self.bias), self.columns, *x.shape[1:])
        return x.transpose(1, 2).flatten(0, 1)

    def add_to_columns(self, x: Tensor, to: Tensor) -> None:
        """Adds [S * kv_heads, C, D] to the nodes they came from in [T, kv_heads, D]."""
        x = x.view(len(self.bias), -1, self.columns, x.shape[-1]).transpose(1, 2).flatten(0, 1)
        to.index_add_(0, self.column_nodes, x)

    def within(self, depths: Tensor, window: int) -> "_Together":
        """The same, but no row sees a node `window` or more levels above it."""
        shape = (len(self.bias), 1, 1)
        rows, columns = self._padded(depths).view(*shape, -1, 1), depths[self.column_nodes].view(*shape, 1, -1)
        bias = self.bias.masked_fill(rows - columns >= window, -torch.inf)
        return _Together(self.rows, self.places, self.column_nodes, bias)

    def _padded(self, x: Tensor) -> Tensor:
        zeros = x.new_zeros(len(self.bias) * self.bias.shape[-2], *x.shape[1:])
        return zeros.index_copy_(0, self.places, x[self.rows])

    def probabilities(self, rows: Tensor, columns: Tensor, kv_heads: int) -> Tensor:
        """[S * kv_heads, G * R, C]; the softmax in float32 at least."""
        scores = torch.bmm(rows, columns.transpose(1, 2)).mul_(rows.shape[-1] ** -0.5)
        wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
        shape = (len(self.bias), kv_heads, -1, *self.bias.shape[-2:])
        wide.view(shape).add_(self.bias)
        return torch.softmax(wide, dim=-1).to(scores.dtype)


class TreeAttention:
    """Scaled dot-product attention with grouped heads, exact for one `Tree`, on any device."""

    def __init__(self, tree: Tree, device: torch.device) -> None:
        self._batches = [_together(stretches, device) for stretches in _batches(tree)]
        self._depths = torch.from_numpy(tree.depths).to(device)

    def __call__(self, _layer: int, q: Tensor, k: Tensor, v: Tensor, window: int | None = None, /) -> Tensor:
        batches = self._batches
        if window is not None:
            batches = [batch.within(self._depths, window) for batch in batches]
        mixed: Tensor = _TreeAttention.apply(q, k, v, batches)  # type: ignore[no-untyped-call]
        return mixed


class _TreeAttention(Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, batches: list[_Together]) -> Tensor:
        kv_heads, mixed, kept = k.shape[1], torch.empty_like(q), []
        for batch in batches:
            shares = batch.probabilities(batch.by_row(q, kv_heads), batch.by_column(k), kv_heads)
            mixed[batch.rows] = batch.to_rows(torch.bmm(shares, batch.by_column(v)), kv_heads)
            kept.append(shares if batch.columns <= KEPT_COLUMNS else None)
        if any(ctx.needs_input_grad):
            ctx.batches = batches
            # v is a view: kept as it is, it would keep the queries and keys without positions beside it
            ctx.save_for_backward(q, k, v.contiguous(), *kept)
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        q, k, v, *kept = ctx.saved_tensors
        kv_heads, by_mixed = k.shape[1], gradients[0]
        by_q, by_k, by_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for batch, shares_kept in zip(ctx.batches, kept, strict=True):
            rows, columns = batch.by_row(q, kv_heads), batch.by_column(k)
            shares = batch.probabilities(rows, columns, kv_heads) if shares_kept is None else shares_kept
            by_rows = batch.by_row(by_mixed, kv_heads)
            by_shares = torch.bmm(by_rows, batch.by_column(v).transpose(1, 2))
            by_scores = torch.ops.aten._softmax_backward_data(by_shares, shares, -1, shares.dtype)
            by_scores.mul_(q.shape[-1] ** -0.5)
            by_q[batch.rows] = batch.to_rows(torch.bmm(by_scores, columns), kv_heads)
            batch.add_to_columns(torch.bmm(by_scores.transpose(1, 2), rows), by_k)
            batch.add_to_columns(torch.bmm(shares.transpose(1, 2), by_rows), by_v)
        return by_q, by_k, by_v, None


def _batches(tree: Tree) -> Iterator[list[_Stretch]]:
    batch: list[_Stretch] = []
    for rows in cuts(tree):
        stretch = _stretch(tree, rows)
        grown = [*batch, stretch]
        if batch and len(grown) * STRETCH * max(len(each.columns) for each in grown) > BATCH_PAIRS:
            yield batch
            grown = [stretch]
        batch = grown
    yield batch


def _stretch(tree: Tree, rows: slice) -> _Stretch:
    nodes, seen = np.arange(rows.start, rows.stop), columns(tree, rows)
    visible = (seen[None] <= nodes[:, None]) & (nodes[:, None] < tree.ends[seen][None])
    return _Stretch(rows.start, seen, visible)


def _together(stretches: list[_Stretch], device: torch.device) -> _Together:
    shape = (len(stretches), *np.max([each.visible.shape for each in stretches], axis=0))
    visible = np.zeros(shape, dtype=np.bool_)
    column_nodes, own = np.zeros(shape[::2], dtype=np.int64), np.zeros(shape[:2], dtype=np.bool_)
    for place, each in enumerate(stretches):
        rows, columns = each.visible.shape
        visible[place, :rows, :columns] = each.visible
        visible[place, rows:, 0] = True
        column_nodes[place, :columns] = each.columns
        own[place, :rows] = True
    bias = torch.zeros(visible.shape).masked_fill_(torch.from_numpy(~visible), -torch.inf)
    first, last = stretches[0], stretches[-1]
    return _Together(
        rows=slice(first.first, last.first + len(last.visible)),
        places=torch.from_numpy(np.flatnonzero(own)).to(device),
        column_nodes=torch.from_numpy(column_nodes.reshape(-1)).to(device),
        bias=bias[:, None, None].to(device),
    )
