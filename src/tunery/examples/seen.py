"""What is in a file, as training reads it: the questions to the process that knows the models, and its answers."""

import msgspec

from tunery.bases import BaseModel
from tunery.examples.correcting import Correction
from tunery.examples.repeats import Pairs

BINS = 24


class CountTokens(msgspec.Struct, frozen=True, kw_only=True, tag="count"):
    """How long are the examples of a checked file?"""

    base: BaseModel
    file: str


class ShowExamples(msgspec.Struct, frozen=True, kw_only=True, tag="show"):
    """What is trained of some examples of a checked file?"""

    base: BaseModel
    file: str
    after: int
    """Examples to skip."""
    limit: int


class FindShared(msgspec.Struct, frozen=True, kw_only=True, tag="share"):
    """Which examples of the other file stand in this one too?"""

    file: str
    other: str


class CorrectFile(msgspec.Struct, frozen=True, kw_only=True, tag="correct"):
    """Write a corrected copy into an empty file that is there already."""

    file: str
    target: str
    leave_out: bool
    """Lines that can't be mended."""


Question = CountTokens | ShowExamples | FindShared | CorrectFile


class Bin(msgspec.Struct, frozen=True, kw_only=True):
    """A bar of a histogram: how many sequences have `least` to `most` tokens."""

    least: int
    most: int
    count: int


class Lines(msgspec.Struct, frozen=True, kw_only=True):
    count: int
    first: list[int]
    """Line numbers of the first few."""


class Statistics(msgspec.Struct, frozen=True, kw_only=True, tag="statistics"):
    """Tokens of a file's examples, as this base reads them. A preference gives two sequences: one for each answer."""

    counted: int
    """Examples that the numbers are of: all, or a sample drawn evenly."""
    sequences: int
    tokens: int
    trained_tokens: int
    shared_tokens: int
    """Of `tokens`: those that another counted sequence has before it, at the same beginning."""
    common_prefix_tokens: int
    """With which every sequence begins."""
    shortest: int
    median: int
    longest: int
    longest_line: int
    histogram: list[Bin]
    longest_example: int
    """Tokens that the base trains on; what lies beyond is cut off."""
    cut: Lines
    """Whose trained tokens reach beyond."""
    untrainable: Lines
    """Whose trained tokens all lie beyond, or that have none: a job refuses the file for them."""
    duplicates: Pairs
    """Of the whole file: examples that are copies of earlier ones."""
    contradictions: Pairs
    """Of the whole file: equal questions with different answers."""


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """A message, or a completion's prompt or text, in the words of the file."""

    role: str
    text: str
    trained: bool
    calls: list[str] = []
    """Of an assistant message, as `name(arguments)`."""


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """Neighbouring tokens as the model reads them, control tokens and all."""

    text: str
    tokens: int
    trained: bool
    """Whether loss falls on them."""
    cut: bool = False
    """Beyond what the base trains on."""


class Sequence(msgspec.Struct, frozen=True, kw_only=True):
    """What is trained on at once."""

    turns: list[Turn]
    stretches: list[Stretch]


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a file."""

    line: int
    sequences: list[Sequence]
    """One; of a preference the preferred one, then the other."""
    tools: list[str]
    """Names of the functions that may be called."""


class Shown(msgspec.Struct, frozen=True, kw_only=True, tag="shown"):
    examples: list[Seen]


class Shared(msgspec.Struct, frozen=True, kw_only=True, tag="shared"):
    pairs: Pairs


class Corrected(msgspec.Struct, frozen=True, kw_only=True, tag="corrected"):
    correction: Correction


Answer = Statistics | Shown | Shared | Corrected
