"""The examples of a checked file, as training takes them. Knows no tokens and no templates."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tunery.errors import InvalidRequest
from tunery.examples.formats import ChatLine, CompletionLine, Line
from tunery.examples.lines import Lines, Source, opened
from tunery.examples.repeats import Pairs, Repeats, shared
from tunery.examples.typed import TypedReader, reader_for


class Chat(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation to train on, in the words of the file: text parts and the deprecated function_call stay."""

    messages: list[dict[str, Any]]
    """Without nulls and without weight."""
    weights: list[int]
    """One for each message: 1 if it is trained, 0 if not, as for all messages but the assistant's."""
    tools: list[dict[str, Any]] | None = None
    """With their keys in the file's order, for a template writes them in that order. Functions come as tools."""


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt and the text to train on."""

    prompt: str
    completion: str


class Preference(msgspec.Struct, frozen=True, kw_only=True):
    """Two answers to one input. Both conversations begin with it, none of its messages is trained."""

    preferred: Chat
    non_preferred: Chat


Taken = Chat | Completion | Preference


def read(source: Source, *, after: int = 0) -> Iterator[tuple[int, Taken]]:
    """Line numbers and examples of a file that passed `check`, from behind line `after` on.

    Raises InvalidRequest at a line that isn't valid after all.
    """
    for number, line, text in _lines(source, after):
        if isinstance(line, CompletionLine):
            yield number, Completion(prompt=line.prompt, completion=line.completion)
        elif isinstance(line, ChatLine):
            yield number, _chat(msgspec.json.decode(text))
        else:
            yield number, _preference(msgspec.json.decode(text))


def shared_lines(training: str | Path, validation: str | Path) -> Pairs:
    """Examples of the validation file that stand in the training file too: count, and the first line numbers of each.

    Both files have passed `check`. Equal means equal values, whatever the spacing or the order of keys.
    """
    return shared(_numbered(training), _numbered(validation))


def repeated_lines(path: str | Path) -> tuple[Pairs, Pairs]:
    """Of a file that passed `check`: examples that are copies of earlier ones, and questions with different answers."""
    repeats = Repeats()
    for number, line in _numbered(path):
        repeats.add(number, [line])
    return repeats.found()


def _numbered(path: str | Path) -> Iterator[tuple[int, Line]]:
    return ((number, line) for number, line, _ in _lines(path))


def _lines(source: Source, after: int = 0) -> Iterator[tuple[int, Line, bytes]]:
    reader: TypedReader | None = None
    with opened(source) as stream:
        for batch in Lines(stream):
            if batch.too_long:
                raise _invalid(batch.first)
            for number, text in enumerate(batch.lines, start=batch.first):
                if number <= after or not text.strip():
                    continue
                reader = reader or reader_for(text)
                examples = reader and reader.read([text], trusted=True)
                if not examples:
                    raise _invalid(number)
                yield number, examples.lines[0], text


def _invalid(number: int) -> InvalidRequest:
    return InvalidRequest(f"Line {number} isn't a valid example; check the file and upload it again.")


def _preference(line: dict[str, Any]) -> Preference:
    asked = _chat(line["input"])

    def answered(output: list[dict[str, Any]]) -> Chat:
        answer = _chat({"messages": output})
        return Chat(
            messages=[*asked.messages, *answer.messages],
            weights=[*(0 for _ in asked.messages), *answer.weights],
            tools=asked.tools,
        )

    return Preference(
        preferred=answered(line["preferred_output"]), non_preferred=answered(line["non_preferred_output"])
    )


def _chat(line: dict[str, Any]) -> Chat:
    given = [{key: value for key, value in message.items() if value is not None} for message in line["messages"]]
    functions = [{"type": "function", "function": function} for function in line.get("functions") or ()]
    return Chat(
        messages=[{key: value for key, value in message.items() if key != "weight"} for message in given],
        weights=[message.get("weight", 1) if message["role"] == "assistant" else 0 for message in given],
        tools=[*(line.get("tools") or ()), *functions] or None,
    )
