"""Lines made to crash, hang or fill the memory: they are findings like any other."""

import gzip
import subprocess
import sys
import tracemalloc
from io import BufferedReader, RawIOBase

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples.given import assistant, call, chat, checked, faults, sound_lines, tool, user
from tunery import examples


class Endless(RawIOBase):
    """One line that doesn't end, of `size` bytes."""

    def __init__(self, size: int) -> None:
        self.left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = min(len(buffer), self.left)
        buffer[:count] = b"x" * count
        self.left -= count
        return count


def with_parameters(value: str) -> str:
    return chat(user(), assistant(), tools=[tool(parameters={"a": 7})]).replace("7", value)


def with_arguments(text: str) -> str:
    return chat(user(), assistant(None, tool_calls=[call(arguments=text)]))


NESTS = {
    "lists": "[" * 900_000,
    "objects": '{"a":' * 200_000,
    "in tools": chat(user(), assistant(), tools=[tool(parameters={"a": 7})])
    .replace("7", "[" * 999 + "]" * 999)
    .encode(),
    "in arguments": chat(user(), assistant(None, tool_calls=[call(arguments="[" * 900_000)])).encode(),
    "in an argument": chat(
        user(), assistant(None, tool_calls=[call(arguments='{"a":' + "[" * 99 + "]" * 99 + "}")])
    ).encode(),
}


@pytest.mark.parametrize("line", NESTS.values(), ids=NESTS)
def test_deep_nesting_is_refused(line: str) -> None:
    assert [finding.level for finding in faults(line)] == ["error"]


NUMBERS = ["9" * 1_000_000, "-" + "9" * 1_000_000, "0." + "9" * 1_000_000, "1e999999999", "1e-999999999", "9" * 4300]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:6])
@pytest.mark.parametrize("place", ["weight", "parameters"])
def test_huge_numbers_end_in_a_finding_or_a_value(number: str, place: str) -> None:
    if place == "weight":
        assert len(faults(chat(user(), assistant(weight=7)).replace("7", number))) == 1
    else:
        line = with_parameters(number)
        expected = [] if number.startswith(("0.", "1e-")) or len(number) == 4300 else ["number_out_of_range"]
        assert [finding.rule for finding in faults(line) if finding.level == "error"] == expected


BOMBS = """
nothing = b"{}"
lists = b"[" + b"[]," * 340_000 + b"[]]"
objects = b'{"messages":[' + b'{"":1},' * 140_000 + b"1]}"
messages = b'{"messages":[' + b'{"role":"user","content":""},' * 36_000 + b'{"role":"assistant","content":""}]}'
keys = b"{" + b'"a":1,' * 170_000 + b'"a":1}'
spec = b'{"type":"function","function":{"name":"a","parameters":{"a":['
tools = b'{"messages":[{"role":"assistant","content":""}],"tools":[' + spec
parameters = tools + b'{"":1},' * 140_000 + b"1]}}}]}"
call = b'{"id":"a","type":"function","function":{"name":"a","arguments":"{'
calls = b'{"messages":[{"role":"assistant","tool_calls":[' + call
arguments = calls + b'\\\\"a\\\\":[' + b"{}," * 300_000 + b'1]}"}}]}]}'
"""


def test_a_line_of_a_megabyte_takes_less_than_a_hundred_of_memory() -> None:
    script = rf"""
import io, re
from tunery import examples
{BOMBS}
for bomb in (nothing, lists, objects, messages, keys, parameters, arguments):
    assert len(bomb) < 1 << 20
    examples.check(io.BytesIO(bomb), on_finding=lambda finding: None)
    print(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
"""
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    kilobytes = [int(line) for line in output.split()]
    assert len(kilobytes) == 7
    assert kilobytes[-1] - kilobytes[0] < 100_000


def test_one_line_of_half_a_gigabyte_is_never_held() -> None:
    tracemalloc.start()
    summary = examples.check(BufferedReader(Endless(512_000_000)), on_finding=lambda _: None)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    assert (summary.bytes, summary.first_findings[0].rule) == (512_000_000, "line_too_long")


@pytest.mark.parametrize(
    "packed", [gzip.compress(b"{}\n" * 9999), "{}\n".encode("utf-16"), b"PK\x03\x04..."], ids=["gzip", "utf-16", "zip"]
)
def test_packed_files_get_one_finding(packed: bytes) -> None:
    summary, findings = checked(packed)
    assert [finding.rule for finding in findings] == ["not_jsonl"]
    assert not summary.is_valid


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes_end_in_findings(content: bytes) -> None:
    summary, findings = checked(content)
    assert summary.errors == sum(finding.level == "error" for finding in findings) > 0


@given(st.binary(max_size=60), st.integers(0, 59))
@settings(max_examples=100, deadline=None)
def test_any_bytes_in_a_line_end_in_findings_about_lines(content: bytes, at: int) -> None:
    line = sound_lines(60)[at].encode()
    damaged = line[: at * 2] + content + line[at * 2 + len(content) :]
    for finding in faults(damaged):
        assert finding.column is None or 1 <= finding.column <= len(damaged) + 1
