"""A batch of examples as a tree of tokens: what examples share at their beginning is there, and is computed, once.

The tree is exact: a token sees its ancestors only and stands at its depth, so its hidden state is the one it has in
its own example, and a loss-bearing token counts as often as there are examples that bear it. Tokens lie in depth-first
order, so that every subtree is one stretch. Knows no model and no files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One line of a file, tokenised. At least one token after the first is trained."""

    line: int
    ids: Ints
    trained: npt.NDArray[np.bool_]
    """[len(ids)]: whether loss falls on predicting this token."""

    @property
    def targets(self) -> Ints:
        """Places of the tokens that bear loss; the first token of all has no predecessor and bears none."""
        return np.flatnonzero(self.trained[1:]) + 1

    @property
    def inputs(self) -> Ints:
        """Tokens up to the last one from which a trained one is predicted."""
        return self.ids[: self.targets[-1]]


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """T nodes, E edges that bear loss: from a node to a token predicted after it."""

    token_ids: Ints
    """[T]"""
    depths: Ints
    """[T], the root's is 0"""
    ends: Ints
    """[T]: the first node after a node's subtree; `a` is `t` or its ancestor if and only if a <= t < ends[a]."""
    edge_nodes: Ints
    """[E]"""
    edge_targets: Ints
    """[E], token ids"""
    edge_counts: Ints
    """[E]: examples that bear this loss"""
    example_edges: list[Ints]
    """For each example, in the order given: its edges."""

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def parents(self) -> Ints:
        """[T], -1 for roots"""
        parents, path = np.full(len(self), -1), [-1]
        for node, depth in enumerate(self.depths):
            del path[depth + 1 :]
            parents[node] = path[-1]
            path.append(node)
        return parents


def tree_of(examples: Sequence[Example]) -> Tree:
    inputs = [example.inputs for example in examples]
    token_ids: list[Ints] = []
    depths: list[Ints] = []
    ends = np.zeros(sum(map(len, inputs)), dtype=np.int64)
    paths: dict[int, Ints] = {}
    path: Ints = np.array([], dtype=np.int64)
    previous: Ints = path
    size = 0
    for index in _sorted(inputs):
        tokens = inputs[index]
        shared = _shared(previous, tokens)
        ends[path[shared:]] = size
        path = np.concatenate([path[:shared], np.arange(size, size + len(tokens) - shared)])
        token_ids.append(tokens[shared:])
        depths.append(np.arange(shared, len(tokens)))
        size += len(tokens) - shared
        paths[index] = path
        previous = tokens
    ends[path] = size
    nodes = [paths[i][example.targets - 1] for i, example in enumerate(examples)]
    targets = [example.ids[example.targets] for example in examples]
    pairs = np.stack([np.concatenate(nodes), np.concatenate(targets)])
    edges, edge_of, counts = np.unique(pairs, axis=1, return_inverse=True, return_counts=True)
    borders = np.cumsum([len(each) for each in nodes])[:-1]
    return Tree(
        token_ids=np.concatenate(token_ids),
        depths=np.concatenate(depths),
        ends=ends[:size],
        edge_nodes=edges[0],
        edge_targets=edges[1],
        edge_counts=counts,
        example_edges=np.split(edge_of.reshape(-1), borders),
    )


def micro_batches(examples: Sequence[Example], most_tokens: int) -> Iterator[list[Example]]:
    """Parts of a batch whose trees have at most `most_tokens` nodes each (a single longer example stands alone)."""
    part: list[Example] = []
    size = 0
    previous = np.array([], dtype=np.int64)
    for index in _sorted([example.inputs for example in examples]):
        tokens = examples[index].inputs
        grown = size + len(tokens) - _shared(previous, tokens)
        if part and grown > most_tokens:
            yield part
            part, grown = [], len(tokens)
        part.append(examples[index])
        size, previous = grown, tokens
    if part:
        yield part


def epoch_order(count: int, *, seed: int, epoch: int) -> list[int]:
    """The order of a file's examples in one epoch: the same in every process and on every machine."""
    order = list(range(count))
    Random(f"{seed}:{epoch}").shuffle(order)  # noqa: S311 (no secret)
    return order


def _sorted(inputs: Sequence[Ints]) -> list[int]:
    """Lexicographic: each sequence shares most with the one before it."""
    keys = [tokens.astype(">i8").tobytes() for tokens in inputs]
    return sorted(range(len(inputs)), key=keys.__getitem__)


def _shared(one: Ints, other: Ints) -> int:
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if len(different) else length
