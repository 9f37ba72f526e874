"""Reads a whole file once and says everything that is wrong with it. Memory doesn't grow with the file."""

from collections.abc import Callable

import msgspec

from tunery.examples.explain import explain
from tunery.examples.formats import Format
from tunery.examples.lines import LONGEST_LINE, Lines, Source, opened
from tunery.examples.located import Fault
from tunery.examples.rules import Finding, Level, finding
from tunery.examples.tally import Tally
from tunery.examples.typed import TypedReader, reader_for

FEWEST_EXAMPLES = 10
FEW_EXAMPLES = 50
FIRST_FINDINGS = 20
MOST_ERRORS = 100_000
"""After so many the check stops: more would fill the disk and help nobody."""
MOST_FAULTS_OF_A_LINE = 100
_DESCRIBED = 5
_SPACE = b" \t\r\n"
_SIGNATURES = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found out about a file."""

    format: Format | None
    """None if no line tells, or lines are of different formats."""
    examples: int
    """Sound examples."""
    trained_messages: int
    """Assistant messages of weight not 0 (chat), completions, or preferred answers."""
    bytes: int
    errors: int
    warnings: int
    first_findings: tuple[Finding, ...]
    """At most FIRST_FINDINGS, errors first."""

    @property
    def is_valid(self) -> bool:
        return self.errors == 0


def check(source: Source, *, on_finding: Callable[[Finding], None]) -> Summary:
    """Reads `source` to its end and calls `on_finding` for everything there is to say, warnings last.

    Any bytes may come in. An exception of `on_finding` ends the check, for callers that have heard enough.
    """
    with opened(source) as stream:
        return _Check(Lines(stream), on_finding).run()


def describe(summary: Summary) -> str:
    """The status_details of a file that isn't valid, in Azure's form; the empty string for a valid one."""
    if summary.is_valid:
        return ""
    errors = [each for each in summary.first_findings if each.level == "error"][:_DESCRIBED]
    more = summary.errors - len(errors)
    said = " ".join(_sentence(error) for error in errors)
    rest = f" And {_many(more, 'more error')}." if more else ""
    return f"Validation of jsonl file failed: {said}{rest}"


def _sentence(error: Finding) -> str:
    if error.line is None:
        return error.message
    column = "" if error.column is None else f", column {error.column}"
    return f"line {error.line}{column}: {error.message}"


class _Check:
    """One run over one file."""

    def __init__(self, lines: Lines, on_finding: Callable[[Finding], None]) -> None:
        self._lines = lines
        self._on_finding = on_finding
        self._count: dict[Level, int] = {"error": 0, "warning": 0}
        self._first: dict[Level, list[Finding]] = {"error": [], "warning": []}
        self._tally = Tally()
        self._mixed = False
        self._faulty_lines = 0
        self._reader: TypedReader | None = None
        self._blank_from: int | None = None
        self._next_line = 1

    def run(self) -> Summary:
        for batch in self._lines:
            if batch.too_long:
                self._too_long(batch.first)
            elif batch.first == 1 and (packed := _packed_as(batch.lines[0])):
                self._say(finding("not_jsonl", f"The file is {packed}; upload JSON Lines in UTF-8.", line=None))
                return self._summary()
            else:
                self._take(batch.first, batch.lines)
            if self._count["error"] >= MOST_ERRORS:
                message = f"The check stopped before line {self._next_line:,}, after {MOST_ERRORS:,} errors; mend them."
                self._say(finding("too_many_errors", message, line=None))
                return self._summary()
        self._conclude()
        return self._summary()

    def _take(self, first: int, lines: list[bytes]) -> None:
        """Halves the lines until every part is sound or one line."""
        if self._count["error"] >= MOST_ERRORS or self._add(first, lines):
            return
        self._next_line = first + 1
        if not b"".join(lines).strip(_SPACE):
            self._blank_from = self._blank_from or first
        elif len(lines) == 1:
            self._look_closely(first, lines[0])
        else:
            half = len(lines) // 2
            self._take(first, lines[:half])
            self._take(first + half, lines[half:])

    def _add(self, first: int, lines: list[bytes], *, trusted: bool = False) -> bool:
        """Counts the lines if all are sound beyond doubt; False if they have to be looked at closely."""
        examples = self._reader and self._reader.read(lines, trusted=trusted)
        if not examples:
            return False
        self._blank_until(first)
        self._tally.add(first, examples)
        return True

    def _look_closely(self, number: int, line: bytes) -> None:
        """Says what is wrong with the line, or counts it if it is sound after all."""
        self._blank_until(number)
        if self._reader is None:
            self._reader = reader_for(line)
            if self._add(number, [line]):
                return
        format_, faults = _faults_of(line)
        if format_ and self._reader is None:
            self._reader = TypedReader(format_)
        if format_ and self._reader and format_ != self._reader.format:
            self._mixed = True
            message = f"The line is a {format_} example, but the file began with {self._reader.format} ones; split it."
            faults.insert(0, Fault(None, "mixed_formats", message))
        if not faults and not self._add(number, [line], trusted=True):
            faults.append(Fault(None, "invalid_example", f"The line doesn't fit the {format_} format; compare them."))
        self._say_faults(number, faults)

    def _say_faults(self, number: int, faults: list[Fault]) -> None:
        self._faulty_lines += bool(faults)
        for at, rule, message in faults[:MOST_FAULTS_OF_A_LINE]:
            self._say(finding(rule, message, line=number, column=None if at is None else at + 1))
        if len(faults) > MOST_FAULTS_OF_A_LINE:
            more = len(faults) - MOST_FAULTS_OF_A_LINE
            message = f"The line has {_many(more, 'more fault')}; mend the listed ones."
            self._say(finding("more_faults", message, line=number))

    def _blank_until(self, number: int) -> None:
        """Says that the lines before `number` are empty, now that something follows them."""
        first, self._blank_from = self._blank_from, None
        if first is not None:
            which = "The line is empty" if first == number - 1 else f"Lines {first} to {number - 1} are empty"
            message = f"{which}; remove {'it' if first == number - 1 else 'them'}, or write the missing examples."
            self._say(finding("empty_line", message, line=first, count=number - first))

    def _too_long(self, number: int) -> None:
        self._blank_until(number)
        self._faulty_lines += 1
        message = f"The line is longer than {LONGEST_LINE:,} bytes; shorten or split the example."
        self._say(finding("line_too_long", message, line=number))

    def _conclude(self) -> None:
        examples = self._tally.examples + self._faulty_lines
        if examples == 0:
            self._say(finding("empty_file", "The file holds no example; write one JSON object a line.", line=None))
        elif examples < FEWEST_EXAMPLES:
            message = f"The file holds {_many(examples, 'example')}; at least {FEWEST_EXAMPLES} are needed."
            self._say(finding("too_few_examples", message, line=None))
        elif examples < FEW_EXAMPLES:
            message = f"The file holds {examples} examples; results get better from {FEW_EXAMPLES} on."
            self._say(finding("few_examples", message, line=None))
        for warning in self._tally.findings():
            self._say(warning)

    def _say(self, found: Finding) -> None:
        self._count[found.level] += 1
        if len(self._first[found.level]) < FIRST_FINDINGS:
            self._first[found.level].append(found)
        self._on_finding(found)

    def _summary(self) -> Summary:
        first = self._first["error"] + self._first["warning"]
        return Summary(
            format=self._reader.format if self._reader and not self._mixed else None,
            examples=self._tally.examples,
            trained_messages=self._tally.trained_messages,
            bytes=self._lines.bytes,
            errors=self._count["error"],
            warnings=self._count["warning"],
            first_findings=tuple(first[:FIRST_FINDINGS]),
        )


def _faults_of(line: bytes) -> tuple[Format | None, list[Fault]]:
    try:
        text = line.rstrip(b"\r\n").decode()
    except UnicodeDecodeError as error:
        message = f"Byte 0x{line[error.start]:02X} isn't UTF-8 there; save the file as UTF-8."
        return None, [Fault(len(line[: error.start].decode()), "not_utf8", message)]
    if text.startswith("\ufeff"):
        message = "A byte order mark stands before the line, as if two files were joined; remove it."
        return None, [Fault(0, "unexpected_bom", message)]
    return explain(text)


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _packed_as(line: bytes) -> str | None:
    return next((name for signature, name in _SIGNATURES.items() if line.startswith(signature)), None)
