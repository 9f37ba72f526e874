from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunery.serving.text import TextStream

LETTERS = st.text(alphabet="aab\né€😀", max_size=30)
STOPS = st.lists(st.text(alphabet="ab\né", min_size=1, max_size=4), max_size=4)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    borders = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(borders)]


def reference(text: str, stop: list[str]) -> str:
    """Read the text letter by letter and stop where it first ends with a stop string."""
    for end in range(1, len(text) + 1):
        found = [string for string in stop if text[:end].endswith(string)]
        if found:
            return text[: end - max(map(len, found))]
    return text


def stream(parts: list[bytes], stop: list[str]) -> list[str]:
    text = TextStream(stop)
    pieces = []
    for part in parts:
        pieces.append(text.push(part))
        if text.stopped:
            break
    return [*pieces, text.finish()]


@given(LETTERS, STOPS, st.lists(st.integers(0, 200), max_size=12))
def test_any_split_gives_the_text_up_to_the_first_stop_string(text: str, stop: list[str], cuts: list[int]) -> None:
    pieces = stream(split(text.encode(), cuts), stop)
    assert "".join(pieces) == reference(text, stop)


@given(st.binary(max_size=40), st.lists(st.integers(0, 200), max_size=12))
def test_any_bytes_decode_as_they_would_in_one_go(data: bytes, cuts: list[int]) -> None:
    assert "".join(stream(split(data, cuts), [])) == data.decode("utf-8", "replace")


@given(st.text(alphabet="aé€😀", max_size=20), st.lists(st.integers(0, 200), max_size=12))
def test_no_piece_of_valid_text_holds_a_replacement_character(text: str, cuts: list[int]) -> None:
    assert all("\ufffd" not in piece for piece in stream(split(text.encode(), cuts), []))


def test_unfinished_character_appears_only_at_the_end() -> None:
    text = TextStream()
    assert text.push("€".encode()[:2]) == ""
    assert text.finish() == "\ufffd"


def test_text_goes_out_at_once_when_it_cannot_become_a_stop_string() -> None:
    text = TextStream(["\n\n"])
    assert text.push(b"one\n") == "one"
    assert text.push(b"two") == "\ntwo"


@pytest.mark.parametrize("parts", [[b"abc"], [b"a", b"b", b"c"], [b"ab", b"c"]])
def test_stop_string_complete_first_wins_however_the_text_is_split(parts: list[bytes]) -> None:
    assert "".join(stream(parts, ["abc", "b"])) == "a"
