import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving.given import Running, ask, run, steps
from tunery.bases import BaseModel
from tunery.messages import Adapter, Generate, JsonForm
from tunery.models.decoder import Decoder
from tunery.models.tokenizer import Tokenizer
from tunery.serving.drafts import FIRST_DRAFT, LENGTHS, LONGEST_DRAFT, PromptLookup
from tunery.serving.engine import Engine, Limits

TOKENS = st.lists(st.integers(0, 2), max_size=40)
MakeEngine = Callable[[int], Engine]


@given(TOKENS, st.lists(TOKENS, max_size=3), st.integers(1, LONGEST_DRAFT))
def test_a_draft_is_what_followed_the_last_tokens_when_they_stood_there_before(
    tokens: list[int], later: list[list[int]], most: int
) -> None:
    lookup = PromptLookup()
    for more in ([], *later):
        tokens = [*tokens, *more]
        draft = lookup.draft(tokens, most)
        assert len(draft) <= min(most, FIRST_DRAFT)
        length = next((length for length in LENGTHS if stood_before(tokens, length)), None)
        if length is None:
            assert draft == []
        else:
            place = max(stood_before(tokens, length))
            assert draft == (tokens[place:] * most)[: min(most, FIRST_DRAFT)]


def stood_before(tokens: list[int], length: int) -> list[int]:
    """Where tokens are that follow the same run as the next one will."""
    if len(tokens) < length:
        return []
    return [place for place in range(length, len(tokens)) if tokens[place - length : place] == tokens[-length:]]


def test_drafts_grow_while_they_come_true_and_shrink_while_they_don_t() -> None:
    lookup, tokens = PromptLookup(), [1, 2, 3] * 5
    lengths = []
    for accepted in (2, 4, 7, 3, 0, 1):
        lengths.append(len(lookup.draft(tokens, 100)))
        lookup.judge(lengths[-1], accepted)
    assert lengths == [2, 4, 7, 7, 3, 1]
    assert len(lookup.draft(tokens, 100)) == FIRST_DRAFT


@pytest.fixture
def make(base: BaseModel, decoder: Decoder, tokenizer: Tokenizer) -> MakeEngine:
    return lambda draft_rows: Engine(base, decoder, tokenizer, Limits(draft_rows=draft_rows))


def requests(adapters: list[Adapter]) -> list[Generate]:
    """Prompts and answers that repeat themselves, in every way in which a token can be chosen."""
    prompt = "dog. fox dog. fox dog."
    number = JsonForm(
        schema={"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}, strict=True
    )
    return [
        ask(prompt, max_tokens=60),
        ask(prompt, max_tokens=60, adapter=adapters[0]),
        ask(prompt, max_tokens=60, temperature=1.0, seed=5, n=2),
        ask(prompt, max_tokens=60, temperature=0.7, top_p=0.8, seed=6, best_of=3),
        ask(prompt, max_tokens=60, logprobs=2, echo=True),
        ask(prompt, max_tokens=60, presence_penalty=0.5, frequency_penalty=0.3, logit_bias={5: 2.0}),
        ask(prompt, max_tokens=60, stop=["o"]),
        ask(prompt, max_tokens=60, json_form=number),
    ]


def test_drafts_change_no_piece_of_any_answer(make: MakeEngine, adapters: list[Adapter]) -> None:
    for generate in requests(adapters):
        (plain,), (drafted,) = run(make(1), generate), run(make(8), generate)
        assert drafted.texts == plain.texts
        assert [drafted.finish_reason(i) for i in range(generate.n)] == [
            plain.finish_reason(i) for i in range(generate.n)
        ]
        assert drafted.done.completion_tokens == plain.done.completion_tokens
        assert tokens_of(drafted) == tokens_of(plain)


def tokens_of(running: Running) -> list[tuple[bytes, float]]:
    return [
        (token.token_bytes, pytest.approx(token.logprob, abs=1e-4))
        for piece in running.pieces
        for token in piece.logprobs
    ]


def test_text_that_repeats_takes_fewer_steps_than_tokens(make: MakeEngine, tokenizer: Tokenizer) -> None:
    (fox,) = {*tokenizer.encode("fox")[-1:]}
    generate = ask("The quick", max_tokens=60, logit_bias={fox: 100.0})
    counts = []
    for engine in (make(1), make(8)):
        running = Running(engine, generate)
        counts.append(sum(1 for _ in steps(engine)))
        assert running.done.completion_tokens == 60
    assert counts[0] >= 60
    assert counts[1] < 15


def test_drafts_leave_no_wrong_token_in_the_cache_for_those_that_begin_alike(make: MakeEngine) -> None:
    engine, order = make(8), random.Random(2)
    for _ in range(12):
        start = "dog. fox " * order.randrange(1, 9)
        first = ask(start, max_tokens=order.randrange(1, 40), temperature=1.0, seed=order.randrange(4))
        (answered,) = run(engine, first)
        again = ask(start + answered.text(), max_tokens=12)
        (cached,), (fresh,) = run(engine, again), run(make(1), again)
        assert cached.texts == fresh.texts
    assert engine.usage.free_blocks + engine.usage.cached_blocks == engine.usage.blocks
