"""Which sequences of messages can be trained on. Knows neither JSON nor files.

The fast path makes `Turn`s out of typed messages, the explaining one out of whatever a faulty line holds.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from tunery.examples.formats import (
    AssistantMessage,
    DeveloperMessage,
    FunctionMessage,
    Message,
    SystemMessage,
    ToolMessage,
    UserMessage,
)
from tunery.examples.located import quoted

DEEPEST_VALUE = 60
"""Levels of a tool's parameters, and of a call's arguments."""


class Call(NamedTuple):
    """A call, as its result names it: ("tool", id) or, in the deprecated form, ("function", name)."""

    kind: str
    key: str


class Turn(NamedTuple):
    """What the order of messages depends on."""

    role: str
    trained: bool = False
    """An assistant's, and not of weight 0."""
    calls: tuple[Call, ...] = ()
    answers: Call | None = None


class Disorder(NamedTuple):
    """A broken rule about the message at `place`, from 0 (None: the conversation as a whole)."""

    place: int | None
    rule: str
    message: str


class UntrainedMessage:
    """Stands for the type of an assistant message of weight 0."""


SIMPLE: Mapping[type[Any], Turn] = MappingProxyType(
    {
        SystemMessage: Turn("system"),
        DeveloperMessage: Turn("developer"),
        UserMessage: Turn("user"),
        AssistantMessage: Turn("assistant", trained=True),
        UntrainedMessage: Turn("assistant"),
    }
)
"""Turns of messages that have content and no calls, by their types."""


def turn_of(message: Message) -> Turn:
    if isinstance(message, AssistantMessage):
        calls = [Call("tool", call.id) for call in message.tool_calls or ()]
        if message.function_call:
            calls.append(Call("function", message.function_call.name))
        return Turn("assistant", message.weight != 0, tuple(calls))
    if isinstance(message, ToolMessage):
        return Turn("tool", answers=Call("tool", message.tool_call_id))
    if isinstance(message, FunctionMessage):
        return Turn("function", answers=Call("function", message.name))
    return SIMPLE[type(message)]


def order_faults(turns: Sequence[Turn], start: int = 0) -> list[Disorder]:
    """What is wrong with how the turns from `start` on follow each other and the ones before."""
    faults: list[Disorder] = []
    made: set[Call] = set()
    previous = ""
    for index, turn in enumerate(turns):
        role = turn.role
        if role == "assistant":
            if previous == role and index >= start:
                message = "follows another assistant message; join the two, or put the missing message between them."
                faults.append(Disorder(index, "consecutive_assistant_messages", message))
            if turn.calls:
                made.update(turn.calls)
        elif turn.answers is not None and turn.answers not in made and index >= start:
            kind, key = turn.answers
            message = f"answers the {kind} call {quoted(key)}, which no earlier assistant message makes; add the call."
            faults.append(Disorder(index, "tool_result_without_call", message))
        previous = role
    return faults


def answer_faults(turns: Sequence[Turn]) -> list[Disorder]:
    """What keeps the turns from ending in an answer to train on."""
    if turns[-1].role != "assistant":
        if not any(turn.role == "assistant" for turn in turns):
            message = "There is no assistant message, so no assistant answer to train on; add one at the end."
            return [Disorder(None, "example_missing_assistant_message", message)]
        message = (
            f"is the last one and from the {turns[-1].role}, so there is no assistant answer to train on; add it. "
            "Reinforcement data, which ends with the user, isn't supported."
        )
        return [Disorder(len(turns) - 1, "last_message_not_assistant", message)]
    if not any(turn.trained for turn in turns):
        message = "Every assistant message has weight 0, so nothing is trained; give one of them weight 1."
        return [Disorder(None, "no_trained_message", message)]
    return []


def unanswered_calls(turns: Sequence[Turn]) -> int:
    """How many calls lack a result although the conversation goes on after them."""
    made = [call for turn in turns[:-1] for call in turn.calls]
    answered = {turn.answers for turn in turns}
    return sum(call not in answered for call in made)


def is_shallow(value: Any, levels: int = DEEPEST_VALUE) -> bool:
    """Whether lists and objects nest no deeper than this."""
    if not isinstance(value, dict | list):
        return True
    if levels == 0:
        return False
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, dict | list) and not is_shallow(inner, levels - 1):
            return False
    return True


def are_arguments(text: str) -> bool:
    """Whether the text is a JSON object, as a call's arguments have to be."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return isinstance(value, dict) and is_shallow(value)
