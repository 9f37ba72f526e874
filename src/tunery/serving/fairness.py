"""Whose turn it is, counted in tokens. Knows owners, and neither sequences nor blocks.

Each owner has a counter of the tokens that were computed for it; the lowest counter goes first. Who was away comes back
level with the one who waits longest and can't save up, and who comes when nobody is there begins level with the last
one served: what was before an idle time is nobody's debt (virtual token counters, arXiv 2401.00588, algorithm 2).
"""

from collections import defaultdict
from collections.abc import Collection, Sequence


class TokenCounters:
    """Tokens computed for each owner, made level when it comes back."""

    def __init__(self) -> None:
        self._served: defaultdict[str, int] = defaultdict(int)
        self._level = 0
        """Of the last one served."""

    def join(self, owner: str, active: Collection[str]) -> None:
        """An owner that had nothing to do has something again; `active` are the others that have."""
        level = min((self._served[other] for other in active), default=self._level)
        self._served[owner] = max(self._served[owner], level)

    def charge(self, owner: str, tokens: int) -> None:
        self._served[owner] += tokens
        self._level = self._served[owner]

    def served(self, owner: str) -> int:
        return self._served[owner]


def shares(wanted: Sequence[int], budget: int, *, least: int = 1) -> list[int]:
    """Parts of a budget, each at most what is wanted: small wishes are met, large ones share the rest evenly.

    A part is `least` or more, or all that was wanted, as long as the budget lasts: the small ones come first.
    """
    parts = [0] * len(wanted)
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])
    for number, place in enumerate(order):
        even = budget // (len(order) - number)
        parts[place] = min(wanted[place], max(even, least), budget)
        budget -= parts[place]
    return parts
