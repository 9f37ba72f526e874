"""Calls as a template writes them, read back from the answer's bytes."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving.test_text import split
from tunery.models.tokenizer import Tokenizer
from tunery.serving.calls import CallReader

TEXTS = st.text(max_size=8) | st.sampled_from(["}\n</tool_call>", '"}}', "<tool_call>", "\\", "a\n", "é😀"])
VALUES = st.recursive(TEXTS | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner))
ARGUMENTS = st.lists(st.dictionaries(TEXTS, VALUES, max_size=3), max_size=3)
CUTS = st.lists(st.integers(0, 400), max_size=12)


def written(tokenizer: Tokenizer, content: str, arguments: list[dict[str, Any]]) -> bytes:
    """What training teaches a model to say."""
    calls = [{"function": {"name": f"f{number}", "arguments": json.dumps(a)}} for number, a in enumerate(arguments)]
    answer = {"role": "assistant", "content": content, **({"tool_calls": calls} if calls else {})}
    segment = tokenizer.chat_segments([{"role": "user", "content": "U"}, answer], None)[1]
    return b"".join(map(tokenizer.token_bytes, segment.ids[:-1]))


def read(parts: list[bytes]) -> tuple[bytes, dict[int, tuple[str, str]]]:
    reader, text, calls = CallReader(), b"", dict[int, tuple[str, str]]()
    for part in parts:
        said, added = reader.feed(part)
        text += said
        for call in added:
            name, arguments = calls.get(call.index, (call.name or "", ""))
            calls[call.index] = name, arguments + call.arguments
    return text + reader.finish(), calls


@settings(max_examples=300, deadline=None)
@given(content=TEXTS.filter(lambda text: "<tool_call>" not in text), arguments=ARGUMENTS, cuts=CUTS)
def test_calls_are_read_back_as_they_were_trained_however_the_bytes_are_split(
    tokenizer: Tokenizer, content: str, arguments: list[dict[str, Any]], cuts: list[int]
) -> None:
    text, calls = read(split(written(tokenizer, content, arguments), cuts))
    assert text == content.encode("utf-8", "replace")
    assert [name for name, _ in calls.values()] == [f"f{number}" for number in range(len(arguments))]
    assert [json.loads(said) for _, said in calls.values()] == json.loads(json.dumps(arguments))


@given(text=st.lists(st.sampled_from(["\n", "<tool", "_call>", "<", "a", "\n<tool_call"]), max_size=9), cuts=CUTS)
def test_text_without_a_call_stays_whole(text: list[str], cuts: list[int]) -> None:
    data = "".join(text).replace("<tool_call>", "").encode()
    assert read(split(data, cuts)) == (data, {})
