"""Whole files: endings, marks, empty and overlong lines, line numbers, grouped warnings, and the sentence on it all."""

import json
import random
from io import BytesIO
from pathlib import Path

import pytest

from tests.examples.given import SYSTEM, assistant, chat, checked, sound_lines, user
from tunery import examples
from tunery.examples import Finding, checking, conversation, located, repeats
from tunery.examples.lines import LONGEST_LINE, Lines

MARK = b"\xef\xbb\xbf"


def rules(content: bytes | list[str]) -> list[tuple[int | None, str]]:
    return [(finding.line, finding.rule) for finding in checked(content)[1]]


@pytest.mark.parametrize("mark", [b"", MARK], ids=["plain", "marked"])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("last", [b"", b"\n", b"\n\n \r\n\n"], ids=["open", "closed", "blank"])
def test_marks_endings_and_trailing_blank_lines_are_fine(mark: bytes, ending: bytes, last: bytes) -> None:
    content = mark + ending.join(line.encode() for line in sound_lines(50)) + last
    summary, findings = checked(content)
    assert findings == []
    assert (summary.format, summary.examples, summary.trained_messages) == ("chat", 50, 50)
    assert summary.bytes == len(content)


def test_every_faulty_line_is_named_wherever_it_stands() -> None:
    lines = sound_lines(3000)
    faulty = sorted(random.Random(7).sample(range(3000), 40))
    for place in faulty:
        lines[place] = lines[place].replace('"user"', '"usher"')
    summary, findings = checked(lines)
    assert [(finding.line, finding.rule) for finding in findings] == [(at + 1, "unrecognized_role") for at in faulty]
    assert (summary.errors, summary.examples) == (40, 2960)
    assert len(summary.first_findings) == 20


def test_columns_count_characters_and_not_the_mark() -> None:
    messages = [user("Grüß dich 😀"), {"role": "bot", "content": ""}, assistant()]
    line = json.dumps({"messages": messages}, ensure_ascii=False)
    _, findings = checked(MARK + "\n".join([line, *sound_lines()]).encode())
    assert [(finding.line, finding.column) for finding in findings[:1]] == [(1, line.index('"bot"') + 1)]


def test_a_run_of_empty_lines_is_one_finding() -> None:
    _, findings = checked([*sound_lines(25), "", "  ", "\r", *sound_lines(50)[25:], "", ""])
    assert [(finding.line, finding.count, finding.message) for finding in findings] == [
        (26, 3, "Lines 26 to 28 are empty; remove them, or write the missing examples.")
    ]


@pytest.mark.parametrize("before", [0, 60])
def test_an_overlong_line_is_left_out_and_lines_after_it_keep_their_numbers(before: int) -> None:
    lines = sound_lines(120)
    lines.insert(before, chat(user("x" * 5_000_000), assistant()))
    lines.insert(before + 3, "{}")
    assert rules(lines) == [(before + 1, "line_too_long"), (before + 4, "missing_messages_list")]


def test_the_longest_line_may_be_as_long_as_it_says() -> None:
    shorter = len(chat(SYSTEM, user(""), assistant()))
    fits = chat(SYSTEM, user("x" * (LONGEST_LINE - shorter)), assistant())
    assert len(fits) == LONGEST_LINE
    for ending in ("\n", "\r\n", ""):
        assert rules(("\n".join([*sound_lines(), fits]) + ending).encode()) == []
        assert rules(("\n".join([*sound_lines(), fits + " "]) + ending).encode()) == [(51, "line_too_long")]


class Dripping(BytesIO):
    """A stream that gives a few bytes at a time, as sockets do."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(size or 1, 7))


def test_batches_are_whole_lines_however_the_stream_gives_them() -> None:
    content = MARK + b"one\n\ntwo\r\nthree\nfour"
    for stream in (BytesIO(content), Dripping(content)):
        source = Lines(stream)
        numbered = [(batch.first + n, line) for batch in source for n, line in enumerate(batch.lines)]
        assert numbered == [(1, b"one\n"), (2, b"\n"), (3, b"two\r\n"), (4, b"three\n"), (5, b"four")]
        assert source.bytes == len(content)


def test_a_file_of_two_formats_has_none() -> None:
    lines = [json.dumps({"prompt": f"{n}", "completion": "x"}) for n in range(50)]
    assert checked(lines)[0].format == "completion"
    summary, findings = checked([*lines, *sound_lines(2)])
    assert [(finding.line, finding.rule) for finding in findings] == [(51, "mixed_formats"), (52, "mixed_formats")]
    assert summary.format is None


def test_the_format_is_known_by_a_faulty_line_too() -> None:
    summary, findings = checked([chat(), *sound_lines()])
    assert (summary.format, summary.errors, findings[0].rule) == ("chat", 1, "missing_messages_list")


def test_weights_and_several_answers_are_counted() -> None:
    lines = [
        chat(SYSTEM, user(f"{n}"), assistant(weight=0), user(), assistant(), user(), assistant(weight=1))
        for n in range(50)
    ]
    summary, findings = checked(lines)
    assert findings == []
    assert (summary.examples, summary.trained_messages) == (50, 100)


def test_faulty_lines_count_as_examples_for_the_fewest_that_are_needed() -> None:
    assert rules([*sound_lines(8), "{}", "{}"])[2:] == [(None, "few_examples")]


def test_warnings_are_grouped_with_their_count_and_first_lines() -> None:
    lines = [chat(user(f"{n}"), assistant()) for n in range(80)]
    (finding,) = checked(lines)[1]
    assert (finding.line, finding.count) == (1, 80)
    assert finding.message.startswith("No system message in 80 of the examples (lines 1, 2, 3, 4, 5, ...); add")


def test_copies_are_found_whatever_their_spelling() -> None:
    lines = sound_lines(60)
    spaced = lines[4].replace('{"role": "user", ', '{ "role":"us\\u0065r"  ,')
    turned = (
        '{"messages": ['
        + ", ".join(json.dumps(dict(reversed(message.items()))) for message in json.loads(lines[9])["messages"])
        + "]}"
    )
    (finding,) = checked([*lines, spaced, turned])[1]
    assert (finding.rule, finding.count, finding.line) == ("duplicate_examples", 2, 61)
    assert "lines 5 and 61, 10 and 62" in finding.message


def test_the_tools_are_part_of_the_question() -> None:
    def tools(name: str) -> list[object]:
        return [{"type": "function", "function": {"name": name}}]

    lines = [chat(SYSTEM, user("?"), assistant(str(n)), tools=tools(f"f{n}")) for n in range(50)]
    assert rules(lines) == []
    assert rules([*lines, chat(SYSTEM, user("?"), assistant("!"), tools=tools("f7"))]) == [
        (51, "contradicting_answers")
    ]


def test_contradictions_count_questions_and_not_answers() -> None:
    other = [chat(SYSTEM, user("What is 7?"), assistant(str(n))) for n in range(5)]
    (finding,) = checked([*sound_lines(50), *other])[1]
    assert (finding.rule, finding.count) == ("contradicting_answers", 1)


def test_repeats_are_forgotten_beyond_a_number_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "MOST_REMEMBERED", 60)
    assert rules([*sound_lines(60), *sound_lines(60)]) == [(None, "repeats_not_remembered")]
    assert rules(sound_lines(60)) == []


def test_who_has_heard_enough_may_stop() -> None:
    heard: list[Finding] = []

    def stop(finding: Finding) -> None:
        heard.append(finding)
        raise InterruptedError

    stream = BytesIO(b"{}\n" * 1_000_000)
    with pytest.raises(InterruptedError):
        examples.check(stream, on_finding=stop)
    assert len(heard) == 1
    assert stream.tell() < 1_000_000


def test_a_path_is_opened_and_a_stream_is_left_open(tmp_path: Path) -> None:
    content = "\n".join(sound_lines()).encode()
    (tmp_path / "a.jsonl").write_bytes(content)
    stream = BytesIO(content)
    found = [
        examples.check(source, on_finding=print) for source in (tmp_path / "a.jsonl", str(tmp_path / "a.jsonl"), stream)
    ]
    assert found[0] == found[1] == found[2]
    assert not stream.closed


def test_the_description_names_the_first_errors_and_how_many_more() -> None:
    summary, _ = checked([*sound_lines(), *["{}"] * 9])
    text = examples.describe(summary)
    assert text.startswith("Validation of jsonl file failed: line 51, column 1: The example has no messages list;")
    assert text.count("line 5") == 5
    assert text.endswith(" And 4 more errors.")


def test_the_description_of_a_file_as_a_whole_has_no_line() -> None:
    assert examples.describe(checked([])[0]) == (
        "Validation of jsonl file failed: The file holds no example; write one JSON object a line."
    )


def test_a_valid_file_needs_no_description() -> None:
    assert examples.describe(checked(sound_lines(12))[0]) == ""


def test_errors_come_before_warnings_in_the_first_findings() -> None:
    lines = [chat(user("?"), assistant()) for _ in range(60)] + ["{}"] * 30
    summary, _ = checked(lines)
    assert {finding.level for finding in summary.first_findings} == {"error"}
    assert (summary.errors, summary.warnings) == (30, 2)


def test_a_line_is_judged_the_same_wherever_it_stands() -> None:
    many_values = '{"messages":[' + '{"role":"user","content":"a"},' * 34_000 + '{"role":"assistant","content":"a"}]}'
    assert len(many_values) <= LONGEST_LINE
    assert rules([many_values, *sound_lines(50)]) == [(1, "no_system_message")]
    assert rules([*sound_lines(50), many_values]) == [(51, "no_system_message")]


def test_the_check_stops_after_more_errors_than_anybody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "MOST_ERRORS", 30)
    summary, findings = checked([*sound_lines(5), *["x"] * 100])
    assert [finding.line for finding in findings[:-1]] == list(range(6, 36))
    assert findings[-1].rule == "too_many_errors"
    assert findings[-1].message == "The check stopped before line 36, after 30 errors; mend them."
    assert summary.errors == 31


def test_the_rules_give_the_numbers_of_the_code() -> None:
    numbers = {
        "too_few_examples": checking.FEWEST_EXAMPLES,
        "few_examples": checking.FEW_EXAMPLES,
        "too_many_errors": checking.MOST_ERRORS,
        "repeats_not_remembered": repeats.MOST_REMEMBERED,
        "too_many_values": located.MOST_VALUES,
        "nested_too_deeply": conversation.DEEPEST_VALUE,
    }
    for rule, number in numbers.items():
        assert f"{number:,}" in examples.RULES[rule].meaning
    assert f"{located.LONGEST_INTEGER}" in examples.RULES["number_out_of_range"].meaning
    assert LONGEST_LINE == 1024**2
