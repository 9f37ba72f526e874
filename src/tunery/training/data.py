"""From the files of an order to tokenised examples. Knows no model and no batches' shapes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from random import Random

import numpy as np

from tunery import examples
from tunery.errors import InvalidRequest
from tunery.messages import Note, TrainingOrder
from tunery.models.tokenizer import Segment, Tokenizer
from tunery.training.batches import Example

_SHOWN = 5
SAMPLED = 2000
"""Examples of a file that a plan is made from at most."""
MOST_LINES = 200_000

_Line = tuple[int, examples.Taken]


class Fit(Enum):
    """How much of an example's trained text lies within what its base trains on."""

    WHOLE = "whole"
    CUT = "cut"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Data:
    training: list[Example]
    validation: list[Example]
    notes: list[Note]
    together: int
    """Examples of a line: 1, or 2 where a line is a pair (the preferred answer, then the other)."""


def read(order: TrainingOrder, tokenizer: Tokenizer) -> Data:
    """Raises InvalidRequest, naming file and line, for what can't be trained."""
    training, notes = _read_file(order, tokenizer, "training_file")
    validation: list[Example] = []
    if order.validation_file is not None:
        validation, more = _read_file(order, tokenizer, "validation_file")
        notes += more
        notes += _shared(order.training_file, order.validation_file)
    return Data(training, validation, notes, _together(order))


def sample(order: TrainingOrder, tokenizer: Tokenizer) -> Data:
    """Like `read`, of SAMPLED examples of each file, drawn evenly from its first MOST_LINES; without notes."""
    training, _ = _read_file(order, tokenizer, "training_file", sampled=True)
    validation: list[Example] = []
    if order.validation_file is not None:
        validation, _ = _read_file(order, tokenizer, "validation_file", sampled=True)
    return Data(training, validation, [], _together(order))


def _together(order: TrainingOrder) -> int:
    return 1 if order.dpo is None else 2


def _read_file(
    order: TrainingOrder, tokenizer: Tokenizer, param: str, *, sampled: bool = False
) -> tuple[list[Example], list[Note]]:
    path, longest = getattr(order, param), order.base.longest_example
    found: list[Example] = []
    cut: dict[int, None] = {}
    try:
        for line, example in drawn(examples.read(path), order.seed, SAMPLED) if sampled else examples.read(path):
            for segments in segments_of(tokenizer, example, preferences=order.dpo is not None):
                tokenised, whole = _example(line, segments, longest)
                cut |= {} if whole else {line: None}
                found.append(tokenised)
    except InvalidRequest as error:
        raise InvalidRequest(error.message, param=param, code=f"invalid_{param}") from None
    if not found:
        raise InvalidRequest(f"The {_spoken(param)} holds no examples.", param=param, code=f"invalid_{param}")
    notes = _cut_note(list(cut), param, longest)
    return found, notes if order.dpo is None else notes + _equal_note(found, param)


def drawn(lines: Iterable[_Line], seed: int, count: int) -> list[_Line]:
    """`count` of the first MOST_LINES, each with the same chance (algorithm R, Vitter 1985), in the file's order."""
    random = Random(seed)  # noqa: S311 (no secret)
    kept: list[_Line] = []
    for place, line in enumerate(islice(lines, MOST_LINES)):
        if len(kept) < count:
            kept.append(line)
        elif (chosen := random.randrange(place + 1)) < count:
            kept[chosen] = line
    return sorted(kept, key=lambda line: line[0])


def segments_of(tokenizer: Tokenizer, example: examples.Taken, *, preferences: bool) -> list[list[Segment]]:
    """Of each text that the line gives to train on."""
    if isinstance(example, examples.Preference) != preferences:
        wanted, other = ("preference", "chat or completion") if preferences else ("chat or completion", "preference")
        raise InvalidRequest(f"The file holds {other} examples; this job's method is trained on {wanted} examples.")
    if isinstance(example, examples.Completion):
        return [tokenizer.completion_segments(example.prompt, example.completion)]
    chats = [example] if isinstance(example, examples.Chat) else [example.preferred, example.non_preferred]
    return [tokenizer.chat_segments(chat.messages, chat.tools, chat.weights) for chat in chats]


def joined(line: int, segments: Sequence[Segment]) -> Example:
    """The whole example, however long it is and whatever is trained of it."""
    ids = np.array([i for segment in segments for i in segment.ids], dtype=np.int64)
    trained = np.array([segment.trained for segment in segments for _ in segment.ids], dtype=np.bool_)
    return Example(line, ids, trained)


def fit_of(example: Example, longest: int) -> Fit:
    if not example.trained[1:longest].any():
        return Fit.NOTHING
    return Fit.WHOLE if int(np.flatnonzero(example.trained)[-1]) < longest else Fit.CUT


def _example(line: int, segments: Sequence[Segment], longest: int) -> tuple[Example, bool]:
    """The example, and whether all of it fits."""
    whole = joined(line, segments)
    fit = fit_of(whole, longest)
    if not whole.trained[1:].any():
        raise InvalidRequest(f"Line {line} has no text to train on.")
    if fit is Fit.NOTHING:
        raise InvalidRequest(
            f"Line {line} has {len(whole.ids)} tokens and its first trained one lies beyond the {longest} that an "
            "example may have; shorten what comes before the answer, or take the line out."
        )
    return Example(line, whole.ids[:longest], whole.trained[:longest]), fit is Fit.WHOLE


def _cut_note(lines: list[int], param: str, longest: int) -> list[Note]:
    if not lines:
        return []
    many = f"{len(lines)} example{'s' if len(lines) > 1 else ''} of the {_spoken(param)}"
    message = f"{many} had more than {longest} tokens; what lay beyond was cut off: {_lines(lines)}."
    return [Note(level="warning", message=message)]


def _equal_note(found: Sequence[Example], param: str) -> list[Note]:
    pairs = zip(found[::2], found[1::2], strict=True)
    lines = [chosen.line for chosen, rejected in pairs if np.array_equal(chosen.ids, rejected.ids)]
    if not lines:
        return []
    many = f"{len(lines)} pair{'s' if len(lines) > 1 else ''} of the {_spoken(param)}"
    message = f"{many} had twice the same answer, from which nothing is learnt: {_lines(lines)}."
    return [Note(level="warning", message=message)]


def _shared(training: str, validation: str) -> list[Note]:
    pairs = examples.shared_lines(training, validation)
    if not pairs.count:
        return []
    message = (
        f"{pairs.count} example{'s' if pairs.count > 1 else ''} of the validation file also stand in the training "
        "file, so validation results look better than they are: "
        f"{_lines([line for _, line in pairs.lines], pairs.count)} of the validation file."
    )
    return [Note(level="warning", message=message)]


def _lines(lines: Sequence[int], count: int | None = None) -> str:
    shown = ", ".join(str(line) for line in lines[:_SHOWN])
    more = (count or len(lines)) > min(len(lines), _SHOWN)
    return f"line{'s' if len(lines) > 1 else ''} {shown}{' and others' if more else ''}"


def _spoken(param: str) -> str:
    return param.replace("_", " ")
