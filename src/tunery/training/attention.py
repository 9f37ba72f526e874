"""Attention over a tree of tokens: each token sees itself and its ancestors. An `Attend` for models/decoder.py.

Rows are taken in stretches. In depth-first order the nodes that a stretch's rows see are the ancestors of its first
row and the stretch itself, so a branch is never held against the other branches of the tree.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tunery.training.batches import Ints, Tree

STRETCH = 160
"""Rows taken at once: fewer compute less, more make fewer calls (measured on two cores)."""


@dataclass(frozen=True, slots=True, eq=False)
class _Stretch:
    rows: slice
    columns: Tensor
    """[C]: nodes that some row sees"""
    visible: Tensor
    """[rows, C], bool"""


class TreeAttention:
    """Scaled dot-product attention with grouped heads, exact for one `Tree`."""

    def __init__(self, tree: Tree, device: torch.device) -> None:
        self._stretches = [_stretch(tree, rows, device) for rows in _cuts(tree)]
        self._depths = torch.from_numpy(tree.depths).to(device)

    def __call__(self, _layer: int, q: Tensor, k: Tensor, v: Tensor, window: int | None = None, /) -> Tensor:
        q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
        mixed = [
            F.scaled_dot_product_attention(
                q[:, :, s.rows],
                k.index_select(2, s.columns),
                v.index_select(2, s.columns),
                attn_mask=s.visible if window is None else self._within(s, window),
                enable_gqa=True,
            )
            for s in self._stretches
        ]
        return torch.cat(mixed, dim=2).squeeze(0).transpose(0, 1)

    def _within(self, s: _Stretch, window: int) -> Tensor:
        return s.visible & (self._depths[s.rows, None] - self._depths[s.columns] < window)


def _cuts(tree: Tree) -> list[slice]:
    """Stretches of at most about STRETCH rows, cut where a branch begins if there is a place."""
    size, starts = len(tree), np.flatnonzero(tree.depths[1:] != tree.depths[:-1] + 1) + 1
    cuts = [0]
    while size - cuts[-1] > STRETCH:
        limit = cuts[-1] + STRETCH
        fitting = starts[(starts > cuts[-1] + STRETCH // 2) & (starts <= limit)]
        cuts.append(int(fitting[-1]) if len(fitting) else limit)
    return [slice(start, end) for start, end in zip(cuts, [*cuts[1:], size], strict=True)]


def _stretch(tree: Tree, rows: slice, device: torch.device) -> _Stretch:
    nodes = np.arange(rows.start, rows.stop)
    before: Ints = np.flatnonzero(tree.ends[: rows.start] > rows.start)
    columns = np.concatenate([before, nodes])
    visible = (columns[None] <= nodes[:, None]) & (nodes[:, None] < tree.ends[columns][None])
    return _Stretch(rows, torch.from_numpy(columns).to(device), torch.from_numpy(visible).to(device))
