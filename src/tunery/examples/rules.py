"""Every rule of the JSONL formats: its id, whether breaking it stops the file, and what to do. Knows no file, no JSON.

Ids are the ones of OpenAI's cookbook (Chat_finetuning_data_prep) where it has a name for the fault.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

Level = Literal["error", "warning"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to say about a file. An error stops the file, a warning doesn't."""

    line: int | None
    """From 1; None when it concerns the file as a whole. The first line where `count` lines are meant."""
    column: int | None
    """Character of the line, from 1, byte order mark not counted; None when it concerns the whole line."""
    level: Level
    rule: str
    message: str
    """One or two sentences for a person: what, where in the line, what to do."""
    count: int = 1
    """How often, for findings that stand for many lines."""


class Rule(msgspec.Struct, frozen=True):
    level: Level
    meaning: str
    remedy: str


def finding(rule: str, message: str, *, line: int | None, column: int | None = None, count: int = 1) -> Finding:
    """A finding with its rule's level. Raises KeyError for a rule that isn't listed."""
    level = RULES[rule].level
    return Finding(line=line, column=column, level=level, rule=rule, message=message, count=count)


_FILE = {
    "empty_file": Rule("error", "The file holds no example.", "Upload a file with one JSON object a line."),
    "too_few_examples": Rule("error", "The file holds fewer than 10 examples.", "Add examples."),
    "not_jsonl": Rule(
        "error",
        "The file is packed (gzip, zip, zstd) or UTF-16, not JSON Lines in UTF-8.",
        "Unpack it, or save it as UTF-8.",
    ),
    "too_many_errors": Rule(
        "error", "The check stopped after 100,000 errors.", "Mend the listed ones and check again."
    ),
    "mixed_formats": Rule(
        "error",
        "The line has another format (chat, completion, preference) than the first line.",
        "Put each format into a file of its own.",
    ),
}

_TEXT = {
    "not_utf8": Rule("error", "The line isn't UTF-8.", "Save the file as UTF-8."),
    "unexpected_bom": Rule(
        "error",
        "A byte order mark stands before a line that isn't the first; usually files were joined.",
        "Remove the mark.",
    ),
    "line_too_long": Rule("error", "The line is longer than 1 MiB.", "Shorten or split the example."),
    "empty_line": Rule(
        "error",
        "An empty line stands between examples. JSON Lines has a value on every line, others refuse such a file, and "
        "the gap may be a lost example; empty lines at the end are fine.",
        "Remove the line, or write the missing example.",
    ),
    "invalid_json": Rule("error", "The line isn't one valid JSON value.", "Write each line with a JSON library."),
    "lone_surrogate": Rule(
        "error",
        "An escape from \\ud800 to \\udfff lacks its other half: it stands for no character.",
        "Write the character itself, or both halves.",
    ),
    "number_out_of_range": Rule(
        "error", "A number has more than 4300 digits or overflows a float.", "Write a smaller number, or a string."
    ),
    "nested_too_deeply": Rule(
        "error",
        "Lists and objects nest too deeply (60 levels in a schema or in arguments).",
        "Flatten the value.",
    ),
    "too_many_values": Rule(
        "error", "A line that isn't sound at first sight holds more than 100,000 JSON values.", "Split the example."
    ),
    "duplicate_key": Rule(
        "error", "An object has the same key twice: one of the two values would be lost.", "Keep one."
    ),
    "data_type": Rule("error", "A value has the wrong JSON type.", "Write the type that the finding names."),
    "more_faults": Rule("error", "The line has more faults than are listed.", "Mend the listed ones and check again."),
}

_EXAMPLE = {
    "missing_messages_list": Rule(
        "error",
        "The example has no messages list (chat), nor the keys of another format, or the list is empty.",
        'Write {"messages": [...]}, {"prompt": ..., "completion": ...} or {"input": ..., "preferred_output": ..., '
        '"non_preferred_output": ...}.',
    ),
    "example_missing_key": Rule("error", "A key that the format needs is missing.", "Add it."),
    "example_unrecognized_key": Rule("error", "The example has a key that its format doesn't know.", "Remove it."),
    "empty_text": Rule("error", "prompt or completion is empty.", "Write text, or remove the line."),
    "message_missing_key": Rule("error", "A message lacks a key that its role needs.", "Add it."),
    "message_unrecognized_key": Rule(
        "error",
        "A message has an unknown key, or one that belongs to another role. A known key that is null counts as absent.",
        "Remove it.",
    ),
    "unrecognized_role": Rule(
        "error",
        "The role isn't one of system, developer, user, assistant, tool and function, or not allowed there.",
        "Use one of them.",
    ),
    "missing_content": Rule(
        "error",
        "content is null or an empty list. Only an assistant message with tool_calls or function_call may do without.",
        "Write the text.",
    ),
    "unsupported_content": Rule(
        "error",
        "A content part isn't text: images, audio and files aren't supported by this service's base models.",
        "Remove the part, or replace it by text.",
    ),
    "invalid_weight": Rule("error", "weight isn't 0 or 1.", "Write 0 (not trained) or 1 (trained)."),
    "invalid_arguments": Rule(
        "error",
        "The arguments of a call aren't the text of a JSON object.",
        "Write the object as a string, {} if there are none.",
    ),
    "invalid_tool": Rule(
        "error",
        "A tool, function or call lacks its name or id, isn't of type function, or has an unknown key.",
        "Write it as in a chat completion request.",
    ),
    "tool_result_without_call": Rule(
        "error",
        "A tool or function message answers a call that no earlier assistant message made.",
        "Add the call, or correct the id or name.",
    ),
    "consecutive_assistant_messages": Rule(
        "error",
        "Two assistant messages follow each other. Azure's validator refuses this; mostly a user message got lost.",
        "Join the two, or put the missing message between them.",
    ),
    "example_missing_assistant_message": Rule(
        "error", "There is no assistant message, so nothing to train on.", "Add the answer."
    ),
    "last_message_not_assistant": Rule(
        "error",
        "The last message isn't the assistant's. Reinforcement data, which ends with the user, isn't supported.",
        "Add the assistant's answer.",
    ),
    "no_trained_message": Rule(
        "error", "Every assistant message has weight 0, so nothing is trained.", "Give one of them weight 1."
    ),
    "invalid_example": Rule("error", "The example doesn't fit its format.", "Compare it with the documented format."),
}

_WARNINGS = {
    "few_examples": Rule("warning", "The file holds fewer than 50 examples.", "Add some: results get better."),
    "no_system_message": Rule(
        "warning", "Examples have no system message.", "Add the one that requests will be sent with."
    ),
    "several_system_messages": Rule(
        "warning",
        "Examples have different system messages.",
        "Check that this is meant, and send the same later.",
    ),
    "no_user_message": Rule("warning", "Examples have no user message.", "Check that this is meant."),
    "empty_answer": Rule(
        "warning",
        "Assistant messages are empty: the model learns to say nothing.",
        "Write the answer, or set weight 0.",
    ),
    "unanswered_call": Rule(
        "warning", "A call isn't answered although the conversation goes on.", "Add the tool message."
    ),
    "duplicate_examples": Rule("warning", "Examples are repeated.", "Remove the copies unless they are meant."),
    "contradicting_answers": Rule(
        "warning", "Equal questions have different answers.", "Check that the answers are meant to vary."
    ),
    "repeats_not_remembered": Rule(
        "warning",
        "After 1,000,000 examples repeated ones are no longer looked for; everything else is.",
        "Nothing needs to be done.",
    ),
}

RULES: Mapping[str, Rule] = MappingProxyType(_FILE | _TEXT | _EXAMPLE | _WARNINGS)
