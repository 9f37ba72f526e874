import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.tiny import write_tokenizer
from tests.serving.given import ask
from tunery.messages import Calls, Piece
from tunery.models.tokenizer import Tokenizer
from tunery.serving.choice import Choice
from tunery.serving.grammar import Grammars
from tunery.serving.sampler import Scored

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
ARGUMENTS = '{"city": "Zürich"}'
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
END = 2


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return Tokenizer.load(folder)


def speak(
    tokenizer: Tokenizer, tokens: list[int], *, max_tokens: int = 1000, before: int | None = None, **request: object
) -> list[Piece]:
    """What a choice says when the model samples these tokens, one after another."""
    generate = ask("x", **request)
    grammar = Grammars(tokenizer).prepare(generate).result()
    guide = grammar.guide() if grammar else None
    choice = Choice(generate, tokenizer, number=0, max_tokens=max_tokens, before=before, guide=guide)
    pieces = []
    for token in tokens:
        pieces.append(choice.accept(token, Scored(-1.0, [])))
        if choice.finished:
            break
    return [piece for piece in pieces if piece]


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def calls_of(pieces: list[Piece]) -> list[tuple[str | None, str]]:
    """Names and arguments of the calls that the pieces' parts join to."""
    parts = [part for piece in pieces for part in piece.tool_calls]
    return [
        (next(part.name for part in same), "".join(part.arguments for part in same))
        for same in ([part for part in parts if part.index == index] for index in sorted({p.index for p in parts}))
    ]


def test_a_tool_call_is_taken_out_of_the_text(small: Tokenizer) -> None:
    pieces = speak(small, [*small.encode("Let me look.\n" + CALL), END], tools=TOOLS)
    assert text_of(pieces) == "Let me look."
    assert calls_of(pieces) == [("weather", ARGUMENTS)]
    assert pieces[-1].finish_reason == "tool_calls"


def test_the_parts_of_a_call_come_as_they_are_written(small: Tokenizer) -> None:
    parts = [part for piece in speak(small, [*small.encode(CALL), END], tools=TOOLS) for part in piece.tool_calls]
    assert (parts[0].name, parts[0].arguments) == ("weather", "")
    assert len(parts) > 5
    assert not any("\ufffd" in part.arguments for part in parts)


def test_several_tool_calls_come_one_after_another(small: Tokenizer) -> None:
    pieces = speak(small, [*small.encode(CALL + "\n" + CALL), END], tools=TOOLS)
    assert (text_of(pieces), calls_of(pieces)) == ("", [("weather", ARGUMENTS)] * 2)


def test_where_one_call_is_allowed_its_end_is_the_end(small: Tokenizer) -> None:
    pieces = speak(small, small.encode(CALL), tools=TOOLS, calls=Calls(parallel=False))
    assert calls_of(pieces) == [("weather", ARGUMENTS)]
    assert pieces[-1].finish_reason == "tool_calls"


def test_without_tools_the_same_text_is_text(small: Tokenizer) -> None:
    pieces = speak(small, [*small.encode(CALL), END])
    assert (text_of(pieces), pieces[-1].finish_reason, pieces[-1].tool_calls) == (CALL, "stop", [])


@pytest.mark.parametrize("text", ["a <tool", "\n<tool_call", "1 < 2", "a\n"])
def test_what_only_looks_like_a_call_stays_text(small: Tokenizer, text: str) -> None:
    pieces = speak(small, [*small.encode(text), END], tools=TOOLS)
    assert (text_of(pieces), pieces[-1].finish_reason) == (text, "stop")


def test_a_call_cut_by_max_tokens_is_told_as_far_as_it_came(small: Tokenizer) -> None:
    tokens = small.encode(CALL)
    pieces = speak(small, tokens, max_tokens=len(tokens) - 20, tools=TOOLS)
    ((name, arguments),) = calls_of(pieces)
    assert (name, text_of(pieces), pieces[-1].finish_reason) == ("weather", "", "length")
    assert ARGUMENTS.startswith(arguments)
    assert arguments != ARGUMENTS


def test_a_call_cut_before_its_name_is_text(small: Tokenizer) -> None:
    pieces = speak(small, small.encode('a\n<tool_call>\n{"name": "weat'), max_tokens=15, tools=TOOLS)
    assert pieces[-1].finish_reason == "length"
    assert text_of(pieces).startswith("a<tool_call>")
    assert not calls_of(pieces)


def test_a_stop_string_cuts_text_and_no_call(small: Tokenizer) -> None:
    tokens = [*small.encode("Let me look.\n" + CALL), END]
    pieces = speak(small, tokens, tools=TOOLS, stop=["city"])
    assert calls_of(pieces) == [("weather", ARGUMENTS)]
    pieces = speak(small, tokens, tools=TOOLS, stop=["look"])
    assert (text_of(pieces), calls_of(pieces), pieces[-1].finish_reason) == ("Let me ", [], "stop")


def test_log_probabilities_are_told_of_text_and_not_of_calls(small: Tokenizer) -> None:
    pieces = speak(small, [*small.encode("Let me look.\n" + CALL), END], tools=TOOLS, logprobs=0)
    scored = [token.token_bytes for piece in pieces for token in piece.logprobs]
    assert b"".join(scored) == b"Let me look."


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
