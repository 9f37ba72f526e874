"""Looks into a file: lengths in tokens and which of them bear loss, lines of two files, a corrected copy.

A process of its own answers one question and ends: `python -m tunery.training.inspection`, question in by stdin, answer
out by stdout. Reads examples with the functions that training reads them with. Imports no torch, so it starts at once.
"""

import sys
import traceback
from collections.abc import Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from tunery import examples
from tunery.errors import InvalidRequest, TuneryError
from tunery.examples import seen
from tunery.messages import Failed
from tunery.models import conversation
from tunery.models.tokenizer import Segment, Tokenizer
from tunery.training.batches import Example
from tunery.training.data import Fit, drawn, fit_of, joined, segments_of

Ints = npt.NDArray[np.integer[Any]]
COUNTED = 10_000
"""Examples at most, drawn from the file's first lines like those of an estimate."""
_SHOWN = 20
_SEED = 0


def main() -> int:
    try:
        answer: seen.Answer | Failed = answered(msgspec.json.decode(sys.stdin.buffer.read(), type=seen.Question))
    except TuneryError as error:
        answer = Failed(code=error.code, message=error.message, param=error.param)
    except Exception as error:  # the outermost place: nobody above could tell the service
        traceback.print_exc()
        answer = Failed(code="internal_error", message=repr(error))
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    return 0


def answered(question: seen.Question) -> seen.Answer:
    """Raises InvalidRequest, naming the line, for what the base can't read."""
    if isinstance(question, seen.FindShared):
        return seen.Shared(pairs=examples.shared_lines(question.file, question.other))
    if isinstance(question, seen.CorrectFile):
        with Path(question.file).open("rb") as source, Path(question.target).open("r+b") as target:
            return seen.Corrected(correction=examples.correct(source, target, leave_out=question.leave_out))
    tokenizer = Tokenizer.load(question.base.directory)
    if isinstance(question, seen.CountTokens):
        return _statistics(question, tokenizer)
    lines = islice(examples.read(question.file, after=question.after), question.limit)
    return seen.Shown(
        examples=[_seen(line, example, tokenizer, question.base.longest_example) for line, example in lines]
    )


class _Measured(NamedTuple):
    line: int
    tokens: int
    trained: int
    fit: Fit
    head: Ints
    """Tokens that the base trains on."""


def _statistics(question: seen.CountTokens, tokenizer: Tokenizer) -> seen.Statistics:
    counted = drawn(examples.read(question.file), _SEED, COUNTED)
    if not counted:
        raise InvalidRequest("The file holds no examples.")
    longest = question.base.longest_example
    found = [
        _measured(joined(line, segments), longest)
        for line, example in counted
        for segments in _segments(tokenizer, example)
    ]
    lengths = np.array([each.tokens for each in found])
    shared, common = _shared([each.head for each in found])
    duplicates, contradictions = examples.repeated_lines(question.file)
    return seen.Statistics(
        counted=len(counted),
        sequences=len(found),
        tokens=int(lengths.sum()),
        trained_tokens=sum(each.trained for each in found),
        shared_tokens=shared,
        common_prefix_tokens=common,
        shortest=int(lengths.min()),
        median=int(np.median(lengths)),
        longest=int(lengths.max()),
        longest_line=found[int(lengths.argmax())].line,
        histogram=_histogram(lengths),
        longest_example=longest,
        cut=_lines(found, Fit.CUT),
        untrainable=_lines(found, Fit.NOTHING),
        duplicates=duplicates,
        contradictions=contradictions,
    )


def _measured(example: Example, longest: int) -> _Measured:
    trained = int(np.count_nonzero(example.targets < longest))
    head = example.ids[:longest].astype(np.int32)
    return _Measured(example.line, len(example.ids), trained, fit_of(example, longest), head)


def _segments(tokenizer: Tokenizer, example: examples.Taken) -> list[list[Segment]]:
    return segments_of(tokenizer, example, preferences=isinstance(example, examples.Preference))


def _shared(sequences: list[Ints]) -> tuple[int, int]:
    """Tokens that sequences have in common with another before them (in a tree they are there once); with all."""
    ordered = sorted(sequences, key=lambda ids: ids.astype(">u4").tobytes())
    alike = [_alike(one, other) for one, other in pairwise(ordered)]
    return sum(alike), min(alike, default=0)


def _alike(one: Ints, other: Ints) -> int:
    size = min(len(one), len(other))
    differing = np.flatnonzero(one[:size] != other[:size])
    return int(differing[0]) if len(differing) else size


def _histogram(lengths: Ints) -> list[seen.Bin]:
    """Bars of equal width, which is a round number."""
    span = int(lengths.max()) - int(lengths.min()) + 1
    width = next(
        width for power in range(20) for width in (10**power, 2 * 10**power, 5 * 10**power) if width * seen.BINS >= span
    )
    first = int(lengths.min()) // width
    counts = np.bincount(lengths // width - first)
    return [
        seen.Bin(least=(first + bar) * width, most=(first + bar + 1) * width - 1, count=int(count))
        for bar, count in enumerate(counts)
    ]


def _lines(found: Sequence[_Measured], wanted: Fit) -> seen.Lines:
    lines = list(dict.fromkeys(each.line for each in found if each.fit is wanted))
    return seen.Lines(count=len(lines), first=lines[:_SHOWN])


def _seen(line: int, example: examples.Taken, tokenizer: Tokenizer, longest: int) -> seen.Seen:
    if isinstance(example, examples.Completion):
        turns = [
            seen.Turn(role="prompt", text=example.prompt, trained=False),
            seen.Turn(role="completion", text=example.completion, trained=True),
        ]
        conversations, tools = [turns], None
    else:
        chats = [example] if isinstance(example, examples.Chat) else [example.preferred, example.non_preferred]
        conversations, tools = [_turns(chat) for chat in chats], chats[0].tools
    read = _segments(tokenizer, example)
    return seen.Seen(
        line=line,
        sequences=[
            seen.Sequence(turns=turns, stretches=_stretches(segments, tokenizer, longest))
            for turns, segments in zip(conversations, read, strict=True)
        ],
        tools=[tool["function"]["name"] for tool in tools or ()],
    )


def _turns(chat: examples.Chat) -> list[seen.Turn]:
    return [_turn(message, weight) for message, weight in zip(chat.messages, chat.weights, strict=True)]


def _turn(message: dict[str, Any], weight: int) -> seen.Turn:
    calls = [call["function"] for call in message.get("tool_calls", ())]
    calls += [message["function_call"]] if "function_call" in message else []
    return seen.Turn(
        role=message["role"],
        text=conversation.canonical(message)["content"],
        trained=weight != 0,
        calls=[f"{call['name']}({call['arguments']})" for call in calls],
    )


def _stretches(segments: Sequence[Segment], tokenizer: Tokenizer, longest: int) -> list[seen.Stretch]:
    parts: list[tuple[list[int], bool, bool]] = []
    done = 0
    for segment in segments:
        room = max(0, longest - done)
        done += len(segment.ids)
        parts += [(segment.ids[:room], segment.trained, False), (segment.ids[room:], False, True)]
    parts = [part for part in parts if part[0]]
    texts = tokenizer.decode_parts([ids for ids, _, _ in parts])
    return [
        seen.Stretch(text=text, tokens=len(ids), trained=trained, cut=cut)
        for text, (ids, trained, cut) in zip(texts, parts, strict=True)
    ]


if __name__ == "__main__":
    sys.exit(main())
