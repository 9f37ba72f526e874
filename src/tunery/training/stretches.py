"""A tree's rows in stretches, the unit of attention over it. Knows no model.

In depth-first order the nodes that a stretch's rows see are the ancestors of its first row and the stretch itself, so a
branch is never held against the other branches of the tree.
"""

import numpy as np

from tunery.training.batches import Ints, Tree

STRETCH = 32
"""Rows at most: fewer compute less, more make larger products (measured)."""


def cuts(tree: Tree) -> list[slice]:
    """Stretches of at most STRETCH rows, cut where a branch begins if there is a place."""
    size, starts = len(tree), np.flatnonzero(tree.depths[1:] != tree.depths[:-1] + 1) + 1
    cuts = [0]
    while size - cuts[-1] > STRETCH:
        limit = cuts[-1] + STRETCH
        fitting = starts[(starts > cuts[-1] + STRETCH // 2) & (starts <= limit)]
        cuts.append(int(fitting[-1]) if len(fitting) else limit)
    return [slice(start, end) for start, end in zip(cuts, [*cuts[1:], size], strict=True)]


def columns(tree: Tree, rows: slice) -> Ints:
    """[C]: the nodes that some row sees, the rows themselves last."""
    before: Ints = np.flatnonzero(tree.ends[: rows.start] > rows.start)
    return np.concatenate([before, np.arange(rows.start, rows.stop)])
