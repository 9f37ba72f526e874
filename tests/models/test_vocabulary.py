"""SentencePiece's BPE as Llama 2, Mistral and Gemma have it, against tokenizers and transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.models import sentencepiece
from tests.models.tiny import TEMPLATE
from tunery.errors import InvalidRequest
from tunery.models import vocabulary
from tunery.models.tokenizer import Tokenizer

INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
    "{% else %}{{ '[INST] ' + m.content + ' [/INST]' }}{% endif %}{% endfor %}"
)
TEXTS = st.text(max_size=20) | st.sampled_from([" ", "  The quick", "Grüße 😀", "a\n b", "▁", "<s>", "<0x41>", ""])
many = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="session", params=sentencepiece.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def chatml(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chatml") / family
    sentencepiece.write(folder, family, TEMPLATE.read_text())
    return folder


@pytest.fixture(scope="session")
def inst(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template ends prompts in the middle of text, with no control token between question and answer."""
    folder = tmp_path_factory.mktemp("inst") / family
    sentencepiece.write(folder, family, INST)
    return folder


def whole(tokenizer: Tokenizer, ids: list[int]) -> bytes:
    return b"".join(map(tokenizer.token_bytes, ids))


@many
@given(text=TEXTS.filter(lambda text: "▁" not in text))
def test_texts_are_tokenised_as_by_tokenizers_and_come_back_whole(chatml: Path, text: str) -> None:
    tokenizer, theirs = Tokenizer.load(chatml), tokenizers.Tokenizer.from_file(str(chatml / "tokenizer.json"))
    theirs.encode_special_tokens = True
    ids = tokenizer.encode(text)
    assert ids == theirs.encode(text).ids
    assert tokenizer.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
    within = tokenizer.encode_continuation(text)
    assert whole(tokenizer, within) == text.encode()


def test_bytes_that_the_vocabulary_lacks_are_bytes(chatml: Path) -> None:
    tokenizer = Tokenizer.load(chatml)
    ids = tokenizer.encode_continuation("é😀")
    assert whole(tokenizer, ids) == "é😀".encode()
    assert tokenizer.token_bytes(5 + 0xE9) == b"\xe9"


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Which intent? 😀"},
    {"role": "assistant", "content": "weather  in Köln"},
    {"role": "user", "content": " two spaces"},
    {"role": "assistant", "content": "quick"},
]


def test_a_chat_cut_at_control_tokens_is_tokenised_as_by_transformers(chatml: Path) -> None:
    tokenizer = Tokenizer.load(chatml)
    theirs = AutoTokenizer.from_pretrained(chatml).apply_chat_template(CHAT, return_dict=False)
    assert [i for segment in tokenizer.chat_segments(CHAT, None) for i in segment.ids] == theirs


@many
@given(contents=st.lists(TEXTS, min_size=4, max_size=4))
def test_no_piece_of_a_chat_gets_a_space_of_its_own(inst: Path, contents: list[str]) -> None:
    """Cut where text goes on, the pieces are the text; only its first stretch may have the space of the tokenizer."""
    tokenizer = Tokenizer.load(inst)
    roles = ("user", "assistant", "user", "assistant")
    chat = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=True)]
    segments = tokenizer.chat_segments(chat, None)
    assert whole(tokenizer, segments[1].ids) == f" {contents[1]}</s>".replace("▁", " ").encode()
    assert tokenizer.chat_prompt(chat[:1], None) == segments[0].ids
    assert tokenizer.chat_prompt(chat[:3], None) == [i for segment in segments[:3] for i in segment.ids]


def test_a_completion_goes_on_where_its_prompt_ends(chatml: Path) -> None:
    tokenizer = Tokenizer.load(chatml)
    prompt, completion = tokenizer.completion_segments("Which", " intent?")
    assert prompt.ids == tokenizer.encode("Which")
    assert whole(tokenizer, completion.ids) == b" intent?</s>"


def changed(raw: tokenizers.Tokenizer, **parts: Any) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(json.dumps({**json.loads(raw.to_str()), **parts}))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "Lowercase"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "Whitespace"),
        ({"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}, "WordPiece"),
        ({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}, "WordLevel"),
    ],
)
def test_what_is_neither_family_is_refused_by_what_it_does(parts: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        vocabulary.read(changed(sentencepiece.train("llama2"), **parts))
