"""Attention over a tree by the compiled loops of kernels.py."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from tunery.training import kernels
from tunery.training.batches import Ints, Tree
from tunery.training.stretches import columns, cuts

EVERYTHING = np.iinfo(np.int64).max // 2
"""As a window."""
COPYING = 16
"""What a column costs beside its products, in rows."""
PIECES = 6
"""At least; more threads than there are pieces find nothing to do."""


class CompiledTreeAttention:
    """Scaled dot-product attention with grouped heads, exact for one `Tree`; an `Attend` for float32 on the CPU."""

    def __init__(self, tree: Tree) -> None:
        rows = cuts(tree)
        seen = [columns(tree, each) for each in rows]
        counts = np.array([len(each) for each in seen])
        self._firsts = np.array([*(each.start for each in rows), len(tree)])
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._tree = (np.concatenate(seen), tree.ends, tree.depths)
        self._costs = counts * (np.diff(self._firsts) + COPYING)

    def __call__(self, _layer: int, q: Tensor, k: Tensor, v: Tensor, window: int | None = None, /) -> Tensor:
        window = EVERYTHING if window is None else window
        plan = (self._firsts, self._starts, *self._tree, window, self._splits(k.shape[1]))
        mixed: Tensor = _CompiledTreeAttention.apply(q, k, v, plan)  # type: ignore[no-untyped-call]
        return mixed

    def _splits(self, kv_heads: int) -> Ints:
        """Where neighbouring stretches of about as much work begin, and where the last end: an even number of parts."""
        count = 2 * -(-PIECES // (2 * kv_heads))
        done = np.cumsum(self._costs)
        borders = np.searchsorted(done, done[-1] * np.arange(1, count) / count)
        return np.concatenate([[0], borders, [len(done)]])


class _CompiledTreeAttention(Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: tuple[Any, ...]) -> Tensor:
        # v is a view: kept as it is, it would keep the queries and keys without positions beside it
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        mixed, normalisers = torch.empty_like(q), q.new_empty(q.shape[1], len(q))
        kernels.forward(*plan, *_arrays(q, k, v, mixed, normalisers))
        if any(ctx.needs_input_grad):
            ctx.plan = plan
            ctx.save_for_backward(q, k, v, normalisers)
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        q, k, v, normalisers = ctx.saved_tensors
        splits = len(ctx.plan[-1]) - 1
        by_q, by_k, by_v = torch.empty_like(q), k.new_zeros(splits, *k.shape), v.new_zeros(splits, *v.shape)
        given = gradients[0].contiguous()
        kernels.backward(*ctx.plan, *_arrays(q, k, v, normalisers, given, by_q, by_k, by_v))
        return by_q, by_k.sum(0), by_v.sum(0), None


def _arrays(*tensors: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.detach().numpy() for tensor in tensors)
