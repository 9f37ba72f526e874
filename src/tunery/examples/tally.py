"""What is worth a warning about a file as a whole: counted as lines go by, said once at the end. Knows no JSON."""

from collections.abc import Iterator, Sequence
from itertools import compress, islice

import msgspec

from tunery.examples.formats import AssistantMessage, ChatLine, Content, Line, Message, PreferenceLine
from tunery.examples.repeats import MOST_REMEMBERED, Pairs, Repeats
from tunery.examples.rules import Finding, finding
from tunery.examples.typed import Examples, Shape

_SHOWN = 5


class Occurrences(msgspec.Struct):
    """How often something was seen, and on which lines first."""

    count: int = 0
    lines: list[int] = []

    def add(self, numbers: Sequence[int], seen: Sequence[bool]) -> None:
        """Adds the lines of `numbers` for which `seen` is true."""
        if count := seen.count(True):
            self.count += count
            self.lines += islice(compress(numbers, seen), _SHOWN - len(self.lines))

    def said(self, rule: str, what: str, remedy: str) -> Iterator[Finding]:
        """The finding, if there is anything to say."""
        if self.count:
            named = ", ".join(map(str, self.lines)) + (", ..." if self.count > len(self.lines) else "")
            lines = f"{'line' if self.count == 1 else 'lines'} {named}"
            message = f"{what} in {self.count:,} of the examples ({lines}); {remedy}."
            yield finding(rule, message, line=self.lines[0], count=self.count)


class Tally:
    """Counts over the sound examples of a file."""

    def __init__(self) -> None:
        self.examples = 0
        self.trained_messages = 0
        self._repeats = Repeats()
        self._first_system: Content | None = None
        self._no_system = Occurrences()
        self._other_system = Occurrences()
        self._no_user = Occurrences()
        self._empty_answer = Occurrences()
        self._unanswered_call = Occurrences()

    def add(self, first: int, examples: Examples) -> None:
        """Counts examples on consecutive lines, the first of which has the number `first`."""
        lines, shapes, may_be_empty = examples
        numbers = range(first, first + len(lines))
        self.examples += len(lines)
        self.trained_messages += sum([shape.trained for shape in shapes])
        self._repeats.add(first, lines)
        self._add_shapes(numbers, shapes)
        conversations = [_conversation(line) for line in lines]
        self._add_system_messages(numbers, conversations, shapes)
        if may_be_empty:
            self._empty_answer.add(numbers, [_has_empty_answer(messages) for messages in conversations])

    def _add_shapes(self, numbers: Sequence[int], shapes: Sequence[Shape]) -> None:
        distinct = {id(shape): shape for shape in shapes}.values()
        if any(shape.lacks_system for shape in distinct):
            self._no_system.add(numbers, [shape.lacks_system for shape in shapes])
        if any(shape.lacks_user for shape in distinct):
            self._no_user.add(numbers, [shape.lacks_user for shape in shapes])
        if any(shape.unanswered_call for shape in distinct):
            self._unanswered_call.add(numbers, [shape.unanswered_call for shape in shapes])

    def _add_system_messages(
        self, numbers: Sequence[int], conversations: Sequence[Sequence[Message]], shapes: Sequence[Shape]
    ) -> None:
        systems = [
            None if shape.system_at is None else messages[shape.system_at].content
            for messages, shape in zip(conversations, shapes, strict=True)
        ]
        if self._first_system is None:
            self._first_system = next((system for system in systems if system), None)
        if systems.count(self._first_system) < len(systems):
            differs = [bool(system) and system != self._first_system for system in systems]
            self._other_system.add(numbers, differs)

    def findings(self) -> Iterator[Finding]:
        """The warnings, each once for the whole file."""
        yield from self._no_system.said(
            "no_system_message", "No system message", "add the one that requests will be sent with"
        )
        yield from self._other_system.said(
            "several_system_messages", "Another system message than the first", "check that it is meant"
        )
        yield from self._no_user.said("no_user_message", "No user message", "check that it is meant")
        yield from self._empty_answer.said(
            "empty_answer", "An empty assistant message", "it teaches to say nothing, so write its text"
        )
        yield from self._unanswered_call.said(
            "unanswered_call", "A call without result before the end", "add the tool message"
        )
        copies, contradictions = self._repeats.found()
        yield from _about_pairs(
            "duplicate_examples", copies, "Copies of earlier examples", "remove them unless they are meant"
        )
        yield from _about_pairs(
            "contradicting_answers", contradictions, "Questions with different answers", "check that they are meant"
        )
        if self._repeats.full:
            message = f"Repeated examples were looked for among the first {MOST_REMEMBERED:,} only."
            yield finding("repeats_not_remembered", message, line=None)


def _about_pairs(rule: str, pairs: Pairs, what: str, remedy: str) -> Iterator[Finding]:
    if pairs.count:
        named = ", ".join(f"{one} and {other}" for one, other in pairs.lines)
        more = ", ..." if pairs.count > len(pairs.lines) else ""
        message = f"{what}: {pairs.count:,} (lines {named}{more}); {remedy}."
        yield finding(rule, message, line=pairs.lines[0][1], count=pairs.count)


def _conversation(line: Line) -> Sequence[Message]:
    """The messages of a chat, or of a preference with its preferred output; none for a completion."""
    if isinstance(line, ChatLine):
        return line.messages
    return line.input.messages + line.preferred_output if isinstance(line, PreferenceLine) else ()


def _has_empty_answer(messages: Sequence[Message]) -> bool:
    return any(
        isinstance(message, AssistantMessage)
        and message.weight != 0
        and not (message.content or message.tool_calls or message.function_call)
        for message in messages
    )
