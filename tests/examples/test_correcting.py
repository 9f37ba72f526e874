"""Corrected files: what is mended, what stays, and that nothing sound is ever touched."""

import json
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples.given import SYSTEM, assistant, call, chat, checked, sound_lines, user
from tests.examples.test_agreement import chats, written
from tunery.examples import MENDS, Correction, correct

GOOD = [line.encode() + b"\n" for line in sound_lines(12)]
EXAMPLE = {"messages": [user("one"), assistant("two")]}
LINE = json.dumps(EXAMPLE).encode()
UNMENDABLE = [b'{"messages": [\n', b"{broken}\n", b"\xff\xfe{}\n", b'{"messages": []}\n', b"hello\n", b'["a"]\n']


def corrected(content: bytes, *, leave_out: bool = False) -> tuple[bytes, Correction]:
    target = BytesIO()
    correction = correct(BytesIO(content), target, leave_out=leave_out)
    return target.getvalue(), correction


def among(line: bytes) -> bytes:
    return b"".join([*GOOD[:6], line, *GOOD[6:]])


@pytest.mark.parametrize(
    ("line", "mends"),
    [
        (b"\xef\xbb\xbf" + LINE + b"\n", ["byte_order_mark"]),
        (b"\n \n\r\n", ["empty_line"]),
        (LINE + b",\n", ["comma"]),
        (LINE.replace(b"}]", b"},]") + b"\n", ["comma"]),
        (LINE.replace(b'"one"', b'"one",') + b"\n", ["comma"]),
        (LINE + LINE + b"\n", ["shared_line"]),
        (LINE + b", " + LINE + b"\n", ["shared_line", "comma"]),
        (json.dumps(EXAMPLE, indent=2).encode() + b"\n", ["line_breaks"]),
        (LINE.replace(b"}]", b', "weight": None}]') + b"\n", ["word"]),
        (LINE.replace(b"one", b"o\tn\x01e") + b"\n", ["control_character"]),
    ],
)
def test_a_mendable_fault_is_mended_and_named(line: bytes, mends: list[str]) -> None:
    content, correction = corrected(among(line))
    assert correction.summary.is_valid, correction.summary.first_findings
    assert correction.unmended == 0
    assert [(change.line, change.mends) for change in correction.changes] == [(7, mends)]
    assert content.startswith(b"".join(GOOD[:6]))
    assert content.endswith(b"".join(GOOD[6:]))


def test_mended_examples_say_what_they_said() -> None:
    line = json.dumps(EXAMPLE, indent=2).replace("one", "o\tne").encode()
    content, _ = corrected(among(line + b"\n"))
    assert json.loads(content.splitlines()[6])["messages"][0]["content"] == "o\tne"


def test_arguments_that_are_an_object_become_its_text() -> None:
    made = call(arguments="{}")
    made["function"]["arguments"] = {"a": [1, "é"]}
    asks = {"role": "assistant", "tool_calls": [made]}
    line = chat(user(), asks, {"role": "tool", "tool_call_id": "c1", "content": "2"}, assistant())
    content, correction = corrected(among(line.encode() + b"\n"))
    (mended,) = json.loads(content.splitlines()[6])["messages"][1]["tool_calls"]
    assert json.loads(mended["function"]["arguments"]) == {"a": [1, "é"]}
    assert correction.mends == {"arguments": 1}
    assert correction.summary.is_valid


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_list_of_examples_becomes_lines(indent: int | None, mark: bytes) -> None:
    examples = [json.loads(line) for line in GOOD]
    content, correction = corrected(mark + json.dumps(examples, indent=indent).encode())
    assert [json.loads(line) for line in content.splitlines()] == examples
    assert correction.mends == {"list": 1}
    assert correction.summary.is_valid


def test_a_list_larger_than_a_line_may_be_becomes_lines_too() -> None:
    examples = [{"messages": [user(f"{number} " + "long " * 20_000), assistant()]} for number in range(40)]
    content, correction = corrected(json.dumps(examples).encode())
    assert correction.summary.examples == 40
    assert [json.loads(line) for line in content.splitlines()] == examples


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf_16_becomes_utf_8(encoding: str) -> None:
    text = b"".join(GOOD).decode()
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    content, correction = corrected((mark + text).encode(encoding))
    assert content.removeprefix(b"\xef\xbb\xbf").decode() == text
    assert correction.mends == {"utf_16": 1}


@pytest.mark.parametrize("line", UNMENDABLE)
def test_what_only_its_writer_can_mend_stays_as_it_was_or_is_left_out(line: bytes) -> None:
    kept, correction = corrected(among(line))
    assert kept == among(line)
    assert (correction.unmended, correction.mends) == (1, {})
    assert not correction.summary.is_valid
    left_out, correction = corrected(among(line), leave_out=True)
    assert left_out == b"".join(GOOD)
    assert correction.unmended == 1
    assert correction.summary.is_valid


def test_a_line_that_is_too_long_is_left_whole() -> None:
    long = b'{"messages": "' + b"x" * (3 << 20) + b'"}\n'
    assert corrected(among(long))[0] == among(long)
    assert corrected(among(long), leave_out=True)[0] == b"".join(GOOD)


def test_a_cut_line_takes_no_sound_one_along() -> None:
    cut = LINE[:-3] + b"\n"
    content, correction = corrected(among(cut + LINE + b",\n"), leave_out=True)
    assert content.splitlines()[6] == LINE
    assert (correction.unmended, correction.mends) == (1, {"comma": 1})


def test_too_few_examples_are_still_said() -> None:
    _, correction = corrected(LINE + b",\n" + LINE)
    errors = [finding.rule for finding in correction.summary.first_findings if finding.level == "error"]
    assert errors == ["too_few_examples"]


faulty = st.sampled_from(
    [
        *UNMENDABLE,
        b"\n",
        b" \r\n",
        b"\xef\xbb\xbf" + LINE + b"\n",
        LINE + b",\n",
        LINE * 3 + b"\n",
        LINE[:20] + b"\n",
        LINE[20:] + b"\n",
        json.dumps(EXAMPLE, indent=1).encode() + b"\n",
        LINE.replace(b"one", b"\t") + b"\n",
    ]
)
sound = chats().flatmap(written).map(lambda text: text.encode() + b"\n") | st.sampled_from(GOOD)


@given(st.lists(st.tuples(st.booleans(), sound, faulty), max_size=12), st.booleans(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_sound_lines_stay_byte_for_byte_and_the_rest_passes_or_is_named(
    given_lines: list[tuple[bool, bytes, bytes]], leave_out: bool, mark: bool
) -> None:
    lines = [one if is_sound else other for is_sound, one, other in given_lines]
    content, correction = corrected((b"\xef\xbb\xbf" if mark else b"") + b"".join(lines), leave_out=leave_out)
    summary, findings = checked(content)
    assert correction.summary == summary
    assert set(correction.mends) <= set(MENDS)
    rest = iter(content.removeprefix(b"\xef\xbb\xbf").splitlines(keepends=True))
    assert all(one in rest for is_sound, one, _ in given_lines if is_sound)
    named = {finding.line for finding in findings if finding.level == "error" and finding.line is not None}
    assert len(named) <= correction.unmended
    if leave_out:
        assert {finding.rule for finding in findings if finding.level == "error"} <= {"too_few_examples", "empty_file"}


@given(st.binary(max_size=200) | st.text(alphabet='[]{},:"\\ \n\t', max_size=80).map(str.encode), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_bytes_come_through(content: bytes, leave_out: bool) -> None:
    kept, correction = corrected(content, leave_out=leave_out)
    if not correction.mends and not leave_out:
        assert kept == content


def test_the_system_message_of_the_tests_is_sound() -> None:
    assert corrected(among(chat(SYSTEM, user(), assistant()).encode() + b"\n"))[1].mends == {}
