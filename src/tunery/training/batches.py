"""A batch of examples as a tree of tokens: what examples share at their beginning is there, and is computed, once.

The tree is exact: a token sees its ancestors only and stands at its depth, so its hidden state is the one it has in
its own example, and a loss-bearing token counts as often as there are examples that bear it. Tokens lie in depth-first
order, so that every subtree is one stretch. Knows no model and no files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

WINDOW = 64
"""Batches among whose examples alike ones are looked for: enough to find them, few enough to mix anew each epoch."""
ALIKE = 0.5
"""Part of the shorter example, less what the whole window shares, that two alike examples share."""


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


def micro_batches(examples: Sequence[Example], most_tokens: int, *, together: int = 1) -> Iterator[list[Example]]:
    """Parts of a batch whose trees have at most `most_tokens` nodes each (what is longer alone stands alone).

    Every `together` neighbours, the two answers of a pair, stay in one part and in their order.
    """
    nothing: Ints = np.array([], dtype=np.int64)
    part: list[Example] = []
    size, previous = 0, nothing
    for first in _sorted([example.inputs for example in examples[::together]]):
        group = examples[first * together : (first + 1) * together]
        grown = size + _added(previous, group)
        if part and grown > most_tokens:
            yield part
            part, grown = [], _added(nothing, group)
        part += group
        size, previous = grown, group[-1].inputs
    if part:
        yield part


def epoch_batches(examples: Sequence[Example], batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Indices of the examples of each step of one epoch: the same in every process and on every machine.

    Each example comes once and only the last batch may be smaller. The order is the seed's, except that within a
    window of WINDOW batches examples that begin alike (a system prompt of several in the file, a history under several
    answers) come into the same batch, where the tree computes what they share once. A beginning that all have in
    common, or that is shorter than half of an example, groups nothing: such files are shuffled plainly.
    """
    random = Random(f"{seed}:{epoch}")  # noqa: S311 (no secret)
    order = list(range(len(examples)))
    random.shuffle(order)
    found = []
    for start in range(0, len(order), WINDOW * batch_size):
        window = _grouped(examples, order[start : start + WINDOW * batch_size], batch_size)
        batches = [window[i : i + batch_size] for i in range(0, len(window), batch_size)]
        rest = [batches.pop()] if len(batches[-1]) < batch_size else []
        random.shuffle(batches)
        found += batches + rest
    return found


def _grouped(examples: Sequence[Example], window: Sequence[int], batch_size: int) -> list[int]:
    """Groups of alike examples one after the other, larger ones first so that few are cut by a batch's border."""
    groups = sorted(_groups([examples[i].inputs for i in window], batch_size), key=lambda g: (-len(g), min(g)))
    return [window[place] for group in groups for place in group]


def _groups(inputs: Sequence[Ints], most: int) -> Iterator[list[int]]:
    order = _sorted(inputs)
    common = _shared(inputs[order[0]], inputs[order[-1]])
    group = [order[0]]
    for previous, index in pairwise(order):
        shared = _shared(inputs[previous], inputs[index])
        shorter = min(len(inputs[previous]), len(inputs[index]))
        if len(group) == most or shared - common < ALIKE * (shorter - common) or shared == common:
            yield group
            group = []
        group.append(index)
    yield group


def _added(previous: Ints, group: Sequence[Example]) -> int:
    """Nodes that a tree needs at most for these examples beside `previous`."""
    count = 0
    for example in group:
        count += len(example.inputs) - _shared(previous, example.inputs)
        previous = example.inputs
    return count


def _sorted(inputs: Sequence[Ints]) -> list[int]:
    """Lexicographic: each sequence shares most with the one before it."""
    keys = [tokens.astype(">i8").tobytes() for tokens in inputs]
    return sorted(range(len(inputs)), key=keys.__getitem__)


def _shared(one: Ints, other: Ints) -> int:
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if len(different) else length
