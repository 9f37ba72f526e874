"""The JSONL formats: read a line, say everything that is wrong with it. Knows no torch, no HTTP, no SQL.

    check    a whole file, every finding      -> Summary; describe(summary) for status_details
    correct  a faulty file, mended as far as that needs no guess -> Correction
    read     a checked file's examples        -> (line number, Chat | Completion | Preference)

Inside: `lines` bounds what is held in memory; `typed` takes sound lines straight into the types of `formats`; `explain`
tells what is wrong with the others, over `located` JSON; `conversation` has the rules that both share; `tally` and
`repeats` gather what is worth a warning; `rules` names every rule; `correcting` mends a file, with `values` and
`mending`; `seen` is what people are shown of a file.
"""

from tunery.examples.checking import Summary, check, describe
from tunery.examples.correcting import Change, Correction, correct
from tunery.examples.formats import Format
from tunery.examples.lines import picked
from tunery.examples.mending import MENDS
from tunery.examples.reading import Chat, Completion, Preference, Taken, read, repeated_lines, shared_lines
from tunery.examples.repeats import Pairs
from tunery.examples.rules import RULES, Finding, Rule

__all__ = [
    "MENDS",
    "RULES",
    "Change",
    "Chat",
    "Completion",
    "Correction",
    "Finding",
    "Format",
    "Pairs",
    "Preference",
    "Rule",
    "Summary",
    "Taken",
    "check",
    "correct",
    "describe",
    "picked",
    "read",
    "repeated_lines",
    "shared_lines",
]
