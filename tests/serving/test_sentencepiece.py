"""Answers of bases with SentencePiece's BPE: streamed as they would be decoded whole, held to forms like others."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.models import sentencepiece
from tests.models.tiny import TEMPLATE
from tests.serving.given import ask
from tests.serving.test_choice import speak, text_of
from tests.serving.test_grammar import CALL, chat, guided, tool
from tunery.messages import JsonForm
from tunery.models.tokenizer import Tokenizer


@pytest.fixture(scope="module", params=sentencepiece.FAMILIES)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = tmp_path_factory.mktemp("sp") / request.param
    sentencepiece.write(folder, request.param, TEMPLATE.read_text())
    return Tokenizer.load(folder)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(tokens=st.lists(st.integers(5, 420), min_size=1, max_size=30))
def test_joined_pieces_are_the_tokens_decoded_whole(tokenizer: Tokenizer, tokens: list[int]) -> None:
    data = b"".join(map(tokenizer.token_bytes, tokens))
    assert text_of(speak(tokenizer, [*tokens, 2])) == tokenizer.decode(tokens)
    assert text_of(speak(tokenizer, [*tokens, 2], before=10)) == data.decode("utf-8", "replace")


def test_a_grammar_takes_the_tokens_of_an_answer(tokenizer: Tokenizer) -> None:
    form = JsonForm(schema={"type": "object"}, strict=True)
    generate = ask(None, messages=[{"role": "user", "content": "a"}], json_form=form)
    assert guided(tokenizer, generate, json.dumps({"Köln": ["😀", 1, None]}, ensure_ascii=False))
    assert not guided(tokenizer, generate, "[1]")
    assert guided(tokenizer, chat(tools=[tool("weather", strict=False)]), "The quick.\n" + CALL)
