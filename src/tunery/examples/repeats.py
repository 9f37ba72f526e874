"""Which examples are equal, or have the same question: by hash, so that no text is kept. Knows no JSON and no rules.

Python's own hash is keyed by a secret of the process: nobody can aim collisions, and it means nothing elsewhere.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, TypeGuard, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from tunery.examples.formats import ChatLine, CompletionLine, Line, PreferenceLine

MOST_REMEMBERED = 1_000_000
"""Examples; 16 bytes each, and some 45 at the end, when they are compared."""
_SHOWN = 3
L = TypeVar("L", bound=Line)


class Pairs(msgspec.Struct, frozen=True):
    count: int
    lines: tuple[tuple[int, int], ...]
    """The first few: two line numbers each."""


class Repeats:
    """Remembers examples, and tells at the end which were repeated."""

    def __init__(self) -> None:
        self.full = False
        self._questions = array("q")
        self._answers = array("q")
        self._runs = array("I")
        """Indices at which examples on consecutive lines begin ..."""
        self._run_lines = array("I")
        """... and the numbers of those lines."""
        self._next_line = 0

    def add(self, first: int, examples: Sequence[Line]) -> None:
        """Remembers examples on consecutive lines, the first of which has the number `first`."""
        room = MOST_REMEMBERED - len(self._answers)
        self.full = self.full or room < len(examples)
        if room == 0:
            return
        if first != self._next_line:
            self._runs.append(len(self._answers))
            self._run_lines.append(first)
        self._next_line = first + len(examples)
        questions, answers = fingerprints(examples[:room])
        self._questions.fromlist(questions)
        self._answers.fromlist(answers)

    def found(self) -> tuple[Pairs, Pairs]:
        """Repeated examples (count of the copies) and questions with different answers (count of the questions)."""
        questions = np.frombuffer(self._questions, np.int64)
        answers = np.frombuffer(self._answers, np.int64)
        order = np.lexsort((answers, questions))
        same_question = _equals_next(questions[order])
        same_answer = _equals_next(answers[order])
        copies = np.flatnonzero(same_question & same_answer)
        differing = np.flatnonzero(same_question & ~same_answer)
        contradictions = len(np.unique(questions[order[differing]]))
        return self._pairs(len(copies), order, copies), self._pairs(contradictions, order, differing)

    def _pairs(self, count: int, order: npt.NDArray[np.intp], places: npt.NDArray[np.intp]) -> Pairs:
        """Examples at some places of `order`, each with the one after it."""
        pairs = _first_pairs(*np.sort([order[places], order[places + 1]], axis=0))
        return Pairs(count, tuple((self._line(one), self._line(other)) for one, other in pairs))

    def _line(self, index: int) -> int:
        run = bisect_right(self._runs, index) - 1
        return self._run_lines[run] + index - self._runs[run]


def fingerprints(lines: Sequence[Line]) -> tuple[list[int], list[int]]:
    """Hashes (64 bits, signed) of the questions - all before the last message, or the prompt - and of the answers.

    Equal for equal content, whatever the spacing, the order of keys or the escapes. All lines are of one format.
    """
    if _are_all(lines, ChatLine):
        questions = [hash(line.messages[:-1]) for line in lines]
        if any([line.tools or line.functions for line in lines]):
            tools = [_hash_of_tools(line.tools, line.functions) for line in lines]
            questions = [question ^ each for question, each in zip(questions, tools, strict=True)]
        return questions, [hash(line.messages[-1]) for line in lines]
    if _are_all(lines, CompletionLine):
        return [hash(line.prompt) for line in lines], [hash(line.completion) for line in lines]
    if _are_all(lines, PreferenceLine):
        questions = [hash(line.input.messages) ^ _hash_of_tools(line.input.tools, ()) for line in lines]
        return questions, [hash((line.preferred_output, line.non_preferred_output)) for line in lines]
    return [], []


def shared(training: Iterable[tuple[int, Line]], validation: Iterable[tuple[int, Line]]) -> Pairs:
    """Validation examples that are training examples too, with the line numbers (training, validation) of some.

    Compares the first MOST_REMEMBERED examples of each.
    """
    known, known_lines = _keys(training)
    asked, asked_lines = _keys(validation)
    order = np.argsort(known, kind="stable")
    place = np.searchsorted(known[order], asked)
    place[place == len(known)] = 0
    hits = np.flatnonzero(known[order][place] == asked) if len(known) else np.array([], dtype=np.intp)
    return Pairs(len(hits), _first_pairs(known_lines[order[place[hits]]], asked_lines[hits]))


def _keys(examples: Iterable[tuple[int, Line]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
    keys, lines = array("q"), array("I")
    for number, line in islice(examples, MOST_REMEMBERED):
        (question,), (answer,) = fingerprints([line])
        keys.append(hash((question, answer)))
        lines.append(number)
    return np.frombuffer(keys, np.int64), np.frombuffer(lines, np.uint32)


def _hash_of_tools(*tools: Any) -> int:
    return hash(msgspec.json.encode([each or () for each in tools], order="sorted")) if any(tools) else 0


def _are_all(lines: Sequence[Line], kind: type[L]) -> TypeGuard[Sequence[L]]:
    return bool(lines) and type(lines[0]) is kind


def _equals_next(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return np.asarray(values[1:] == values[:-1], dtype=np.bool_)


def _first_pairs(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> tuple[tuple[int, int], ...]:
    first = np.argsort(right, kind="stable")[:_SHOWN]
    return tuple((int(one), int(other)) for one, other in zip(left[first], right[first], strict=True))
