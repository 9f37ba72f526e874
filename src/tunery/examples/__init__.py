"""The JSONL formats: read a line, say everything that is wrong with it. Knows no torch, no HTTP, no SQL.

    check    a whole file, every finding      -> Summary; describe(summary) for status_details
    read     a checked file's examples        -> (line number, Chat | Completion | Preference)

Inside: `lines` bounds what is held in memory; `typed` takes sound lines straight into the types of `formats`; `explain`
tells what is wrong with the others, over `located` JSON; `conversation` has the rules that both share; `tally` and
`repeats` gather what is worth a warning; `rules` names every rule.
"""

from tunery.examples.checking import Summary, check, describe
from tunery.examples.formats import Format
from tunery.examples.reading import Chat, Completion, Preference, Taken, read, shared_lines
from tunery.examples.repeats import Pairs
from tunery.examples.rules import RULES, Finding, Rule

__all__ = [
    "RULES",
    "Chat",
    "Completion",
    "Finding",
    "Format",
    "Pairs",
    "Preference",
    "Rule",
    "Summary",
    "Taken",
    "check",
    "describe",
    "read",
    "shared_lines",
]
