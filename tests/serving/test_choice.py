import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.tiny import write_tokenizer
from tests.serving.given import ask
from tunery.messages import Piece, ToolCall
from tunery.models.tokenizer import Tokenizer
from tunery.serving.choice import Choice
from tunery.serving.sampler import Scored

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
WEATHER = ToolCall(name="weather", arguments='{"city": "Zürich"}')
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
END = 2


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return Tokenizer.load(folder)


def speak(tokenizer: Tokenizer, tokens: list[int], *, max_tokens: int = 1000, **request: object) -> list[Piece]:
    """What a choice says when the model samples these tokens, one after another."""
    choice = Choice(ask("x", **request), tokenizer, number=0, max_tokens=max_tokens)
    pieces = []
    for token in tokens:
        pieces.append(choice.accept(token, Scored(-1.0, [])))
        if choice.finished:
            break
    return [piece for piece in pieces if piece]


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_a_tool_call_is_taken_out_of_the_text(small: Tokenizer) -> None:
    pieces = speak(small, [*small.encode("Let me look.\n" + CALL), END], tools=TOOLS)
    assert text_of(pieces) == "Let me look."
    assert [call for piece in pieces for call in piece.tool_calls] == [WEATHER]
    assert pieces[-1].finish_reason == "tool_calls"


def test_several_tool_calls_come_together(small: Tokenizer) -> None:
    pieces = speak(small, [*small.encode(CALL + "\n" + CALL), END], tools=TOOLS)
    assert (text_of(pieces), pieces[-1].tool_calls) == ("", [WEATHER, WEATHER])


def test_without_tools_the_same_text_is_text(small: Tokenizer) -> None:
    pieces = speak(small, [*small.encode(CALL), END])
    assert (text_of(pieces), pieces[-1].finish_reason, pieces[-1].tool_calls) == (CALL, "stop", [])


@pytest.mark.parametrize("text", ["<tool_call>{broken</tool_call>", "a <tool", "<tool_call>", "1 < 2"])
def test_what_only_looks_like_a_call_stays_text(small: Tokenizer, text: str) -> None:
    pieces = speak(small, [*small.encode(text), END], tools=TOOLS)
    assert (text_of(pieces), pieces[-1].finish_reason) == (text, "stop")


def test_a_call_cut_by_max_tokens_stays_text(small: Tokenizer) -> None:
    tokens = small.encode(CALL)
    pieces = speak(small, tokens, max_tokens=len(tokens) - 1, tools=TOOLS)
    assert text_of(pieces) == small.decode(tokens[:-1])
    assert pieces[-1].finish_reason == "length"


def test_a_character_of_several_tokens_comes_whole(small: Tokenizer) -> None:
    tokens = small.encode("a😀b")
    assert len(tokens) > 3
    assert [piece.text for piece in speak(small, [*tokens, END])] == ["a", "😀", "b", ""]


@settings(max_examples=200, deadline=None)
@given(
    tokens=st.lists(st.integers(3, 300), min_size=1, max_size=40),
    stop=st.lists(st.text(alphabet="ab the", min_size=1, max_size=3), max_size=2),
)
def test_tokens_and_text_go_out_together(small: Tokenizer, tokens: list[int], stop: list[str]) -> None:
    pieces = speak(small, [*tokens, END], stop=stop, logprobs=0)
    scored = [token for piece in pieces for token in piece.logprobs]
    data = b"".join(token.token_bytes for token in scored)
    assert data == b"".join(map(small.token_bytes, tokens[: len(scored)]))
    if pieces[-1].finish_reason == "stop" and text_of(pieces) == small.decode(tokens):
        assert len(scored) == len(tokens)
    assert data.decode("utf-8", "replace").startswith(text_of(pieces))
    without_last = b"".join(token.token_bytes for token in scored[:-1]).decode("utf-8", "ignore")
    assert len(without_last) <= len(text_of(pieces))


@settings(max_examples=200, deadline=None)
@given(tokens=st.lists(st.integers(3, 300), min_size=1, max_size=40))
def test_joined_pieces_are_the_decoded_tokens(small: Tokenizer, tokens: list[int]) -> None:
    assert text_of(speak(small, [*tokens, END])) == small.decode(tokens)


def test_max_tokens_ends_with_length_unless_the_text_ends_by_itself(small: Tokenizer) -> None:
    tokens = small.encode("The quick")
    assert speak(small, [*tokens, END], max_tokens=len(tokens))[-1].finish_reason == "length"
    assert speak(small, [*tokens, END], max_tokens=len(tokens) + 1)[-1].finish_reason == "stop"
