"""Which blocks hold beginnings that were computed before: a radix tree whose edges are whole blocks of tokens.

Each account and adapter has a root of its own, so a hit never crosses either; an engine serves one base. Knows block
numbers, and neither tensors nor sequences: the cache says when a block is in use and when it rests.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

BLOCK_SIZE = 16
"""Tokens."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose beginnings may be shared."""

    owner: str
    adapter: str | None
    """Its digest; None is the base alone."""


Place = Scope | int
"""Where an edge begins: at a scope's root, or behind a block."""


@dataclass(slots=True)
class _Node:
    """A block behind `parent`; `children` counts the blocks behind it."""

    parent: Place
    tokens: tuple[int, ...]
    children: int = 0


@dataclass(slots=True)
class PrefixTree:
    """A block that is kept is in use or rests; resting ones are given up, the least recently used first."""

    _nodes: dict[int, _Node] = field(default_factory=dict)
    _edges: dict[tuple[Place, tuple[int, ...]], int] = field(default_factory=dict)
    _resting: OrderedDict[int, None] = field(default_factory=OrderedDict)

    @property
    def resting(self) -> list[int]:
        return list(self._resting)

    @property
    def num_resting(self) -> int:
        return len(self._resting)

    def keeps(self, block: int) -> bool:
        return block in self._nodes

    def find(self, scope: Scope, tokens: Sequence[int]) -> list[int]:
        """Blocks of the longest beginning of `tokens` that is kept."""
        found: list[int] = []
        place: Place = scope
        for edge in _edges(tokens):
            block = self._edges.get((place, edge))
            if block is None:
                break
            found.append(block)
            place = block
        return found

    def keep(self, scope: Scope, tokens: Sequence[int], blocks: Sequence[int]) -> list[int]:
        """Keeps blocks in use that hold `tokens`, as far as they are full; returns those that hold them from now on.

        Where another block held the same tokens already it stays, and the caller's may go.
        """
        held: list[int] = []
        place: Place = scope
        for edge, block in zip(_edges(tokens), blocks, strict=False):
            kept = self._edges.setdefault((place, edge), block)
            if kept == block and block not in self._nodes:
                self._nodes[block] = _Node(place, edge)
                if isinstance(place, int):
                    self._nodes[place].children += 1
            held.append(kept)
            place = kept
        return held

    def rest(self, block: int) -> None:
        """No sequence uses the block any more. Of one sequence's blocks the last is told first."""
        self._resting[block] = None

    def wake(self, block: int) -> None:
        """A sequence uses the block again."""
        self._resting.pop(block, None)

    def give_up(self) -> int:
        """Forgets the block that rests longest. None is behind it: what uses a block uses all before it."""
        block, _ = self._resting.popitem(last=False)
        node = self._nodes.pop(block)
        assert node.children == 0, "blocks rest in the order of their places, the last first"
        del self._edges[node.parent, node.tokens]
        if isinstance(node.parent, int):
            self._nodes[node.parent].children -= 1
        return block


def _edges(tokens: Sequence[int]) -> Iterator[tuple[int, ...]]:
    for start in range(0, len(tokens) - BLOCK_SIZE + 1, BLOCK_SIZE):
        yield tuple(tokens[start : start + BLOCK_SIZE])
