"""The fast path: sound lines straight into types, None for whatever has to be looked at closely. Knows no file."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeGuard

import msgspec
import numpy as np

from tunery.examples.conversation import (
    SIMPLE,
    Turn,
    UntrainedMessage,
    answer_faults,
    are_arguments,
    is_shallow,
    order_faults,
    turn_of,
    unanswered_calls,
)
from tunery.examples.formats import (
    AssistantMessage,
    ChatLine,
    CompletionLine,
    Format,
    FunctionSpec,
    Line,
    Message,
    PreferenceInput,
    PreferenceLine,
)

_ENCODER = msgspec.json.Encoder()
_KINDS: Mapping[Format, type[Line]] = MappingProxyType(
    {"chat": ChatLine, "completion": CompletionLine, "preference": PreferenceLine}
)


class Shape(NamedTuple):
    """What the roles of an example's messages tell, whatever their texts."""

    trained: int
    """Assistant messages with loss (of the preferred output); 1 for a completion."""
    system_at: int | None = None
    lacks_system: bool = False
    lacks_user: bool = False
    unanswered_call: bool = False


class Examples(NamedTuple):
    """Sound lines. `shapes` has one for each."""

    lines: list[Line]
    shapes: list[Shape]
    may_be_empty: bool
    """False if no string in these lines is empty."""


class TypedReader:
    """Reads lines of one format."""

    def __init__(self, format_: Format) -> None:
        self.format = format_
        self._decode = msgspec.json.Decoder(_KINDS[format_]).decode
        self._shapes = _Shapes()

    def read(self, lines: Sequence[bytes], *, trusted: bool = False) -> Examples | None:
        """The examples on some lines; None if one isn't valid, or may have a key twice and isn't `trusted` not to."""
        try:
            decoded: list[Line] = list(map(self._decode, lines))
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return None
        marks = _marks(b"".join(lines))
        if _are_chats(decoded) and _are_plain(decoded, marks):
            shapes = [self._shapes[tuple(map(type, line.messages))] for line in decoded]
        elif trusted or marks.quotes == _marks(_ENCODER.encode_lines(decoded)).quotes:
            shapes = [self._shape_of(line) for line in decoded]
        else:
            return None
        return Examples(decoded, shapes, marks.has_empty) if _are_sound_shapes(shapes) else None

    def _shape_of(self, line: Line) -> Shape | None:
        """The line's shape; None if its messages don't make a valid example."""
        if isinstance(line, CompletionLine):
            return Shape(trained=1)
        if isinstance(line, PreferenceLine):
            return _preference_shape(line)
        if not _are_sound_tools(line):
            return None
        messages = line.messages
        if all([_is_simple(message) for message in messages]):
            return self._shapes[tuple([UntrainedMessage if each.weight == 0 else type(each) for each in messages])]
        return _conversation_shape([turn_of(message) for message in messages]) if _are_sound(messages) else None


def reader_for(line: bytes) -> TypedReader | None:
    """The reader of the format that this line has; None if it isn't valid in any."""
    readers = map(TypedReader, _KINDS)
    return next((reader for reader in readers if reader.read([line], trusted=True)), None)


class _Shapes(dict[tuple[type[Any], ...], Shape | None]):
    """Shapes of conversations of simple messages, by the messages' types; None for an invalid order."""

    def __missing__(self, kinds: tuple[type[Any], ...]) -> Shape | None:
        shape = _conversation_shape([SIMPLE[kind] for kind in kinds])
        if len(kinds) <= 64 and len(self) < 1000:
            self[kinds] = shape
        return shape


class _Marks(NamedTuple):
    quotes: int
    """Quotes that aren't escaped: those that begin or end a string, but for hidden ones."""
    may_hide_quotes: bool
    """Whether a string may end in a backslash, the closing quote of which looks escaped."""
    has_empty: bool
    """Whether a string may be empty."""


def _marks(text: bytes) -> _Marks:
    """Counts quotes, to notice repeated keys: decoding loses one of the two, its quotes stay in the text.

    With text content no valid message has fewer than 8 (role, its value, content, its value), so lines with 8 for each
    message and 2 for "messages" hold nothing else. Other lines are compared with what they encode to. Hidden quotes
    can't cover a repeated key up: of its own two at least one counts, and encoding hides as many as the text or more.
    """
    codes = np.frombuffer(text, np.uint8)
    quote, backslash = codes == ord('"'), codes == ord("\\")
    unescaped = quote[1:] > backslash[:-1]
    empty = unescaped[:-1] & quote[2:]
    after_two = quote[4:] & backslash[3:-1] & backslash[2:-2]
    hidden = after_two & (backslash[1:-3] <= backslash[:-4])
    return _Marks(int(np.count_nonzero(unescaped)), bool(hidden.any()), bool(empty.any()))


def _are_sound_shapes(shapes: list[Shape | None]) -> TypeGuard[list[Shape]]:
    return None not in shapes


def _are_chats(lines: Sequence[Line]) -> TypeGuard[list[ChatLine]]:
    return type(lines[0]) is ChatLine


def _are_plain(lines: Sequence[ChatLine], marks: _Marks) -> bool:
    """Whether all messages have role and text and nothing else, and no key stands twice."""
    if marks.may_hide_quotes:
        return False
    contents = [message.content for line in lines for message in line.messages]
    if marks.quotes != 8 * len(contents) + 2 * len(lines):
        return False
    return set(map(type, contents)) == {str}


def _is_simple(message: Message) -> bool:
    """Whether the turn of the message follows from its type and weight."""
    return (
        type(message) in SIMPLE
        and not (message.tool_calls or message.function_call)
        and message.content is not None
        and message.content is not msgspec.UNSET
    )


def _conversation_shape(turns: Sequence[Turn]) -> Shape | None:
    if order_faults(turns) or answer_faults(turns):
        return None
    roles = [turn.role for turn in turns]
    system_at = next((place for place, role in enumerate(roles) if role in ("system", "developer")), None)
    return Shape(
        trained=sum(turn.trained for turn in turns),
        system_at=system_at,
        lacks_system=system_at is None,
        lacks_user="user" not in roles,
        unanswered_call=unanswered_calls(turns) > 0,
    )


def _preference_shape(line: PreferenceLine) -> Shape | None:
    asked = [turn_of(message) for message in line.input.messages]
    if order_faults(asked) or not (_are_sound(line.input.messages) and _are_sound_tools(line.input)):
        return None
    for output in (line.non_preferred_output, line.preferred_output):
        turns = [turn_of(message) for message in output]
        if not _are_sound(output) or order_faults([*asked, *turns], start=len(asked)) or answer_faults(turns):
            return None
    shape = _conversation_shape([*asked, *turns])
    return shape and shape._replace(trained=sum(turn.trained for turn in turns))


def _are_sound(messages: Iterable[Message]) -> bool:
    """Assistant messages have content or calls, and calls have arguments that are JSON."""
    for message in messages:
        if type(message) is AssistantMessage:
            calls = [call.function for call in message.tool_calls or ()]
            if message.function_call:
                calls.append(message.function_call)
            if not calls and (message.content is None or message.content is msgspec.UNSET):
                return False
            if not all(are_arguments(call.arguments) for call in calls):
                return False
    return True


def _are_sound_tools(line: ChatLine | PreferenceInput) -> bool:
    specs: list[FunctionSpec] = [tool.function for tool in line.tools or ()]
    if isinstance(line, ChatLine):
        specs += line.functions or ()
    return all(is_shallow(spec.parameters) for spec in specs)
