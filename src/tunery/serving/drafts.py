"""Drafts of a sequence's next tokens, made of what stood there before: one step checks several.

Speculative decoding by prompt lookup (Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding): answers repeat their
prompts and themselves. Every place of a draft chooses its token as it would have without it, so the text is the same.
Knows tokens only.
"""

from collections.abc import Sequence

LENGTHS = (3, 2)
"""Of the runs of tokens that are looked up, in this order."""
LONGEST_DRAFT = 7
FIRST_DRAFT = 2
"""Tokens, until it has been seen how many come true."""


class PromptLookup:
    """Drafts for one sequence, longer while they come true and shorter while they don't."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}
        """Where the token is that followed a run the last time it stood there."""
        self._seen = 0
        self._length = FIRST_DRAFT

    def draft(self, tokens: Sequence[int], most: int) -> list[int]:
        """Up to `most` tokens that may come after `tokens`, the sequence so far; it only ever grows."""
        self._look_at(tokens)
        for length in LENGTHS:
            place = self._after.get(tuple(tokens[-length:]))
            if place is not None:
                return _continued(tokens, place, min(most, self._length))
        return []

    def judge(self, drafted: int, accepted: int) -> None:
        """So many of a draft's tokens came true."""
        if drafted:
            self._length = min(LONGEST_DRAFT, 2 * drafted) if accepted == drafted else max(1, accepted)

    def _look_at(self, tokens: Sequence[int]) -> None:
        for place in range(self._seen, len(tokens)):
            for length in LENGTHS:
                if place >= length:
                    self._after[tuple(tokens[place - length : place])] = place
        self._seen = len(tokens)


def _continued(tokens: Sequence[int], place: int, count: int) -> list[int]:
    """What stands at `place`; where the tokens end there it goes round, as a repetition does."""
    period = len(tokens) - place
    return [tokens[place + number % period] for number in range(count)]
