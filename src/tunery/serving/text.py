"""From an answer's bytes to text that is safe to send: whole characters, no stop string.

Knows nothing of tokens, models or requests.
"""

import codecs
from collections.abc import Sequence
from typing import AnyStr


class TextStream:
    """Turns the bytes of one answer, however they are split, into pieces of text.

    The joined pieces never depend on the split: they equal the whole answer decoded as UTF-8 (invalid bytes as U+FFFD)
    up to the stop string that is complete first. Text that may still become a stop string is held back.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = [string for string in stop if string]
        self._held = ""
        self.released = 0
        """Characters given out so far."""
        self.stopped = False
        """A stop string was found; what comes after it is ignored."""

    @property
    def decoded(self) -> int:
        """Characters known so far, given out or held back."""
        return self.released + len(self._held)

    def push(self, data: bytes) -> str:
        """Takes the next bytes and returns the text that may go out now."""
        self._take(self._decoder.decode(data))
        return self._release(self._safe_length())

    def finish(self) -> str:
        """Returns what was held back, the rest of an unfinished character as U+FFFD."""
        self._take(self._decoder.decode(b"", True))
        return self._release(len(self._held))

    def _take(self, text: str) -> None:
        if self.stopped:
            return
        self._held += text
        ends = [(self._held.index(string) + len(string), string) for string in self._stop if string in self._held]
        if ends:
            first_end = min(end for end, _ in ends)
            # Of two that end together the longer began earlier: nothing of it may go out.
            start = first_end - max(len(string) for end, string in ends if end == first_end)
            self._held = self._held[:start]
            self.stopped = True

    def _safe_length(self) -> int:
        if self.stopped:
            return len(self._held)
        return len(self._held) - max((overlap(self._held, string) for string in self._stop), default=0)

    def _release(self, length: int) -> str:
        text, self._held = self._held[:length], self._held[length:]
        self.released += length
        return text


def overlap(text: AnyStr, string: AnyStr) -> int:
    """The longest proper prefix of `string` that `text` ends with, in characters (of bytes: in bytes)."""
    longest = min(len(text), len(string) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(string[:length])), 0)
