import itertools
import random
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from transformers import PreTrainedModel

from tests.serving.given import Running, ask, run, steps, write_adapter
from tests.waiting import PATIENCE
from tunery.bases import BaseModel
from tunery.messages import Adapter, Done, Generate, Piece, Started
from tunery.models.decoder import Decoder
from tunery.models.lora import Lora
from tunery.models.tokenizer import Tokenizer
from tunery.serving.engine import Engine, Limits
from tunery.serving.prefix import BLOCK_SIZE
from tunery.serving.sampler import Chooser

PROMPTS = ["The quick", "0123", "Which intent?", "x", "dog. " * 30]

MakeEngine = Callable[..., Engine]


@pytest.fixture
def make(base: BaseModel, decoder: Decoder, tokenizer: Tokenizer) -> MakeEngine:
    return lambda **limits: Engine(base, decoder, tokenizer, Limits(**limits))


def alone(engine: Engine, generate: Generate) -> list[str]:
    return run(engine, generate)[0].texts


def reference_tokens(model: PreTrainedModel, tokenizer: Tokenizer, prompt: str, count: int) -> str:
    ids = torch.tensor([tokenizer.encode(prompt)])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)
    answer = out[0, ids.shape[1] :].tolist()
    return tokenizer.decode(list(itertools.takewhile(lambda token: token not in tokenizer.eos_ids, answer)))


def test_greedy_text_is_that_of_transformers(
    engine: Engine, reference: tuple[Path, PreTrainedModel], tokenizer: Tokenizer
) -> None:
    for prompt in PROMPTS:
        assert alone(engine, ask(prompt)) == [reference_tokens(reference[1], tokenizer, prompt, 12)]


def mixture(adapters: list[Adapter]) -> list[Generate]:
    """Every prompt with every adapter, some greedy and some drawn."""
    pairs = itertools.product(PROMPTS, [None, *adapters])
    return [
        ask(prompt, adapter=adapter, temperature=float(number % 2), seed=number, max_tokens=5 + number)
        for number, (prompt, adapter) in enumerate(pairs)
    ]


@pytest.mark.parametrize(
    "limits",
    [{}, {"step_tokens": 16}, {"cache_tokens": 320}, {"max_rows": 3}, {"adapter_bytes": 1}],
    ids=["default", "small chunks", "small cache", "few rows", "one adapter at a time"],
)
def test_a_request_gets_the_same_text_alone_and_among_others(
    engine: Engine, make: MakeEngine, adapters: list[Adapter], limits: dict[str, int]
) -> None:
    generates = mixture(adapters)
    expected = [alone(engine, generate) for generate in generates]
    busy = make(**limits)
    order = random.Random(1)
    waiting = list(range(len(generates)))
    order.shuffle(waiting)
    running: dict[int, Running] = {}
    while waiting or busy.busy:
        for _ in range(order.randrange(3) if busy.busy else 1):
            if waiting:
                number = waiting.pop()
                running[number] = Running(busy, generates[number])
        busy.step()
    assert [running[number].texts for number in range(len(generates))] == expected
    assert_idle(busy)


def assert_idle(engine: Engine) -> None:
    """Nothing is held any more: every block is free or cached, no adapter pinned."""
    assert not engine.busy
    assert engine.usage.free_blocks + engine.usage.cached_blocks == engine.usage.blocks
    assert not engine.usage.pinned_adapters


def test_what_is_cached_changes_no_answer_and_is_counted(make: MakeEngine, adapters: list[Adapter]) -> None:
    """Accounts never share, so an account of its own for each request is a cache that is off."""
    engine = make()
    conversation = "dog. fox " * 20
    asked = [
        {"prompt": conversation + end, "adapter": adapter, "temperature": drawn, "seed": 3}
        for end, adapter, drawn in itertools.product(("", "The quick", "0123"), [None, *adapters], (0.0, 1.0))
    ]
    fresh = [run(engine, ask(owner=f"account-{number}", **one))[0] for number, one in enumerate(asked)]
    cached = [run(engine, ask(owner="a", **one))[0] for one in asked]
    assert [one.texts for one in cached] == [one.texts for one in fresh]
    assert {one.done.cached_tokens for one in fresh} == {0}
    assert [one.done.cached_tokens > 0 for one in cached] == [False, True] * 4 + [True] * 16
    assert_idle(engine)


def test_the_next_turn_finds_the_answer_before_it_cached(engine: Engine, tokenizer: Tokenizer) -> None:
    (first,) = run(engine, ask("The quick brown fox", max_tokens=40, logprobs=0, logit_bias={2: -100.0}))
    said = tokenizer.encode("The quick brown fox") + _ids_of(
        [token for piece in first.pieces for token in piece.logprobs], tokenizer
    )
    (second,) = run(engine, ask(said))
    assert second.done.cached_tokens == (len(said) - 1) // BLOCK_SIZE * BLOCK_SIZE


def test_adapters_and_base_answer_differently(engine: Engine, adapters: list[Adapter]) -> None:
    texts = [alone(engine, ask("The quick", adapter=adapter))[0] for adapter in [None, *adapters]]
    assert len(set(texts)) == 4


def test_equal_seeds_give_equal_texts_and_other_seeds_others(engine: Engine) -> None:
    drawn = [alone(engine, ask(temperature=1.0, seed=seed, n=3)) for seed in (5, 5, 6)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 3


def test_without_a_seed_each_answer_is_drawn_anew(engine: Engine) -> None:
    assert len({alone(engine, ask(temperature=1.0))[0] for _ in range(5)}) > 1


def test_choices_of_a_prompt_share_its_computation(engine: Engine, tokenizer: Tokenizer) -> None:
    prompt = tokenizer.encode("dog. " * 20)
    Running(engine, ask(prompt, n=5, temperature=1.0, max_tokens=3, seed=1))
    engine.step()
    assert engine.usage.blocks - engine.usage.free_blocks == -(-len(prompt) // BLOCK_SIZE)
    engine.step()
    assert engine.usage.running == 5
    assert engine.usage.blocks - engine.usage.free_blocks == len(prompt) // BLOCK_SIZE + 5


def test_pieces_join_to_the_text_and_end_once(engine: Engine) -> None:
    (running,) = run(engine, ask("ab", n=3, temperature=1.0, seed=3, max_tokens=30))
    for index in range(3):
        pieces = [piece for piece in running.pieces if piece.index == index]
        assert [piece.finish_reason is not None for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        assert not any("\ufffd" in piece.text for piece in pieces[:-1]) or "\ufffd" in running.text(index)


def test_index_counts_prompts_then_samples(engine: Engine) -> None:
    (running,) = run(engine, ask(None, prompts=["ab", "cd"], n=2, echo=True, max_tokens=0))
    assert running.texts == ["ab", "ab", "cd", "cd"]


def test_usage_counts_prompts_once_and_every_choice(engine: Engine, tokenizer: Tokenizer) -> None:
    (running,) = run(engine, ask(None, prompts=["ab", "The"], n=2, best_of=3, max_tokens=4, temperature=1.0, seed=1))
    prompt_tokens = len(tokenizer.encode("ab")) + len(tokenizer.encode("The"))
    assert running.answers[0] == Started(id=running.done.id, prompt_tokens=prompt_tokens)
    assert running.done.prompt_tokens == prompt_tokens
    assert running.done.completion_tokens == 2 * 3 * 4
    assert {piece.index for piece in running.pieces} == {0, 1, 2, 3}


def test_best_of_returns_the_most_likely_per_token_best_first(engine: Engine) -> None:
    common = {"temperature": 1.0, "seed": 11, "max_tokens": 6, "logprobs": 0}
    (every,) = run(engine, ask(n=5, **common))
    (best,) = run(engine, ask(n=2, best_of=5, **common))

    def mean(index: int) -> float:
        tokens = [token for piece in every.pieces if piece.index == index for token in piece.logprobs]
        return sum(token.logprob for token in tokens) / len(tokens)

    ranked = sorted(range(5), key=mean, reverse=True)
    assert best.texts == [every.text(index) for index in ranked[:2]]


def test_best_of_scores_an_answer_that_ends_at_once_by_its_end(engine: Engine) -> None:
    """Bias makes every choice end at once although the model finds that unlikely: no answer is free of charge."""
    (running,) = run(engine, ask(best_of=3, logit_bias={2: 100.0}, temperature=1.0, seed=1))
    assert running.texts == [""]
    (first,) = [prompt.choices[0] for prompt in running.request.prompts]
    assert first.mean_logprob < -1.0


def test_echo_and_logprobs_are_those_of_transformers(
    make: MakeEngine, reference: tuple[Path, PreTrainedModel], tokenizer: Tokenizer
) -> None:
    prompt = "Which intent? The quick brown fox jumps over the lazy dog."
    (running,) = run(make(step_tokens=16), ask(prompt, echo=True, logprobs=3, max_tokens=5))
    scored = [token for piece in running.pieces for token in piece.logprobs]
    prompt_ids = tokenizer.encode(prompt)
    assert running.text().startswith(prompt)
    assert b"".join(token.token_bytes for token in scored).decode("utf-8", "replace") == running.text()
    ids = prompt_ids + _ids_of(scored[len(prompt_ids) :], tokenizer)
    logprobs = reference[1](torch.tensor([ids])).logits[0].log_softmax(-1)
    assert scored[0].logprob is None
    for place, token in enumerate(scored[1:], start=1):
        assert token.logprob == pytest.approx(logprobs[place - 1, ids[place]].item(), abs=1e-4)
        best = logprobs[place - 1].topk(3)
        assert [value for _, _, value in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert [data for _, data, _ in token.top] == [tokenizer.token_bytes(other) for other in best.indices.tolist()]


def _ids_of(scored: list, tokenizer: Tokenizer) -> list[int]:
    by_bytes = {tokenizer.token_bytes(token): token for token in range(tokenizer.vocab_size)}
    return [by_bytes[token.token_bytes] for token in scored]


def test_prompt_scores_survive_a_preemption(make: MakeEngine) -> None:
    generates = [ask("dog. " * 25, echo=True, logprobs=1, max_tokens=40), ask("fox " * 20, echo=True, logprobs=1)]
    expected = [run(make(), generate)[0] for generate in generates]
    for running, alone_ in zip(run(make(cache_tokens=256), *generates), expected, strict=True):
        assert running.text() == alone_.text()
        ours, theirs = ([t.logprob for p in r.pieces for t in p.logprobs] for r in (running, alone_))
        assert ours[1:] == pytest.approx(theirs[1:], abs=1e-4)


def test_max_tokens_zero_echoes_the_prompt(engine: Engine) -> None:
    (running,) = run(engine, ask("The quick", echo=True, max_tokens=0, logprobs=0))
    assert (running.text(), running.finish_reason()) == ("The quick", "length")
    assert running.done.completion_tokens == 0


def test_max_tokens_zero_without_echo_is_empty(engine: Engine) -> None:
    (running,) = run(engine, ask("The quick", max_tokens=0))
    assert (running.text(), running.finish_reason()) == ("", "length")


def test_token_ids_and_their_text_are_the_same_prompt(engine: Engine, tokenizer: Tokenizer) -> None:
    assert alone(engine, ask(tokenizer.encode("The quick"), echo=True)) == alone(engine, ask("The quick", echo=True))


def test_an_empty_prompt_is_the_beginning_of_a_document(engine: Engine, tokenizer: Tokenizer) -> None:
    (empty,) = run(engine, ask("", echo=True, logprobs=0))
    assert [empty.text()] == alone(engine, ask([tokenizer.text_end_id]))
    assert len([token for piece in empty.pieces for token in piece.logprobs]) == empty.done.completion_tokens


@pytest.mark.parametrize("cache_tokens", [64, 70, 79])
def test_the_longest_answer_fits_a_cache_of_any_size(make: MakeEngine, cache_tokens: int) -> None:
    (running,) = run(make(cache_tokens=cache_tokens), ask(max_tokens=None, logit_bias={0: -100.0, 2: -100.0}))
    assert running.done.prompt_tokens + running.done.completion_tokens == 64


def test_no_max_tokens_goes_on_to_the_end_of_the_context(engine: Engine, tokenizer: Tokenizer) -> None:
    ban_end = dict.fromkeys(tokenizer.eos_ids, -100.0)
    (running,) = run(engine, ask("The quick", max_tokens=None, logit_bias=ban_end))
    assert running.finish_reason() == "length"
    assert running.done.prompt_tokens + running.done.completion_tokens == 256


def test_end_token_stops_and_is_no_part_of_the_answer(engine: Engine) -> None:
    (running,) = run(engine, ask("The quick", logit_bias={2: 100.0}, logprobs=1))
    assert (running.text(), running.finish_reason()) == ("", "stop")
    assert running.done.completion_tokens == 0
    assert running.pieces[-1].logprobs == []


def test_stop_string_cuts_text_and_log_probabilities(engine: Engine) -> None:
    (whole,) = run(engine, ask("The quick", max_tokens=30))
    stop = whole.text()[8:11]
    (cut,) = run(engine, ask("The quick", max_tokens=30, stop=[stop], logprobs=0))
    assert cut.text() == whole.text()[: whole.text().index(stop)]
    assert cut.finish_reason() == "stop"
    scored = b"".join(token.token_bytes for piece in cut.pieces for token in piece.logprobs)
    assert scored.decode("utf-8", "replace").startswith(cut.text())


def test_logit_bias_forces_a_token(engine: Engine, tokenizer: Tokenizer) -> None:
    (token,) = tokenizer.encode("x")
    assert alone(engine, ask(logit_bias={token: 100.0}, max_tokens=4)) == ["xxxx"]


def test_frequency_penalty_counts_generated_tokens_only(engine: Engine, tokenizer: Tokenizer) -> None:
    (token,) = tokenizer.encode("x")
    text = alone(engine, ask([token] * 60, logit_bias={token: 100.0}, frequency_penalty=2.0, max_tokens=40))[0]
    assert text == "x" * 40


def test_chat_is_rendered_with_the_template_of_the_base(engine: Engine, tokenizer: Tokenizer) -> None:
    messages = [{"role": "user", "content": "Which intent?"}]
    (chat,) = run(engine, ask(None, messages=messages))
    (prompt,) = run(engine, ask(tokenizer.chat_prompt(messages, None)))
    assert chat.text() == prompt.text()
    assert chat.done.prompt_tokens == prompt.done.prompt_tokens


@pytest.mark.parametrize(
    ("changes", "kind", "param", "said"),
    [
        ({"prompts": [[1, 5000]]}, "InvalidRequest", "prompt", "5000"),
        ({"prompts": [[-1]]}, "InvalidRequest", "prompt", "-1"),
        ({"prompts": [[]]}, "InvalidRequest", "prompt", "empty"),
        ({"logit_bias": {5000: 1.0}}, "InvalidRequest", "logit_bias", "5000"),
        ({"prompts": [[5] * 250], "max_tokens": 7}, "ContextOverflow", "max_tokens", "250"),
        ({"prompts": [[5] * 256], "max_tokens": None}, "ContextOverflow", "prompt", "256"),
        ({"prompts": [[5] * 300], "max_tokens": 0}, "ContextOverflow", "prompt", "300"),
    ],
)
def test_what_cannot_be_answered_is_refused(engine: Engine, changes: dict, kind: str, param: str, said: str) -> None:
    bad, good = run(engine, ask(**changes), ask("The quick"))
    assert (bad.refused.kind, bad.refused.param) == (kind, param)
    assert said in bad.refused.message
    assert len(bad.answers) == 1
    assert good.done


def test_the_whole_context_may_be_used(engine: Engine) -> None:
    (running,) = run(engine, ask([5] * 250, max_tokens=6))
    assert running.done


def test_a_full_queue_refuses_who_fills_it_and_takes_another(make: MakeEngine) -> None:
    engine = make(max_rows=1, max_waiting_tokens=100)
    running = [Running(engine, ask([5] * 40)) for _ in range(4)]
    other = Running(engine, ask([5] * 40, owner="b"))
    for _ in steps(engine):
        pass
    assert [isinstance(one.last, Started | Piece) for one in running].count(True) == 0
    refused = [one for one in running if one.answers[0] is one.last]
    assert {one.refused.kind for one in refused} == {"TooManyRequests"}
    assert all(1 <= one.refused.retry_after <= 60 for one in refused)
    assert other.done


def test_a_full_queue_refuses(make: MakeEngine) -> None:
    engine = make(max_rows=1, max_waiting=2)
    running = run(engine, *(ask() for _ in range(5)))
    refused = [one for one in running if not isinstance(one.answers[0], Started)]
    assert [one.refused.kind for one in refused] == ["TooManyRequests"] * len(refused)
    assert 0 < len(refused) < 5
    assert_idle(engine)


def test_cancelling_frees_everything_at_once(engine: Engine, adapters: list[Adapter]) -> None:
    cancelled = Running(engine, ask("dog. " * 20, n=3, temperature=1.0, adapter=adapters[0], max_tokens=100))
    waiting = Running(engine, ask("The quick"))
    going_on = Running(engine, ask("0123"))
    engine.step()
    engine.step()
    engine.cancel(cancelled.request)
    said = len(cancelled.answers)
    engine.cancel(waiting.request)
    for _ in steps(engine):
        pass
    assert len(cancelled.answers) == said
    assert going_on.done
    assert_idle(engine)


def test_cancelling_before_the_first_step(engine: Engine) -> None:
    running = Running(engine, ask())
    engine.cancel(running.request)
    assert not engine.busy
    assert running.answers == []


def test_an_adapter_that_vanished_is_refused_and_others_go_on(engine: Engine, decoder: Decoder, tmp_path: Path) -> None:
    adapter = Adapter(digest="0" * 64, directory=str(tmp_path / "nowhere"))
    bad, good = run(engine, ask(adapter=adapter), ask())
    assert bad.refused.kind == "EngineUnavailable"
    assert good.done
    assert_idle(engine)


def test_more_adapters_than_memory_holds_are_all_answered(make: MakeEngine, decoder: Decoder, tmp_path: Path) -> None:
    adapters = [write_adapter(tmp_path / str(seed), decoder.config, seed=seed, rank=1) for seed in range(100)]
    room = 10 * Path(tmp_path / "0" / "adapter_model.safetensors").stat().st_size
    engine = make(adapter_bytes=room)
    asked = [ask("The quick", adapter=adapter, max_tokens=3) for adapter in adapters]
    together = [one.texts for one in run(engine, *asked)]
    again = [run(engine, one)[0].texts for one in reversed(asked)]
    assert together == again[::-1]
    assert_idle(engine)


def test_an_adapter_is_loaded_while_others_decode(
    engine: Engine, adapters: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    load, may_end = Lora.load, threading.Event()

    def slow(*given: object) -> Lora:
        assert may_end.wait(PATIENCE)
        return load(*given)

    monkeypatch.setattr(Lora, "load", slow)
    waiting, decoding = Running(engine, ask(adapter=adapters[0])), Running(engine, ask("0123"))
    while not any(isinstance(answer, Done) for answer in decoding.answers):
        engine.step()
    assert not waiting.pieces
    may_end.set()
    for _ in steps(engine):
        pass
    assert waiting.done


def test_broken_numbers_end_one_request_only(
    engine: Engine, decoder: Decoder, tmp_path: Path, adapters: list[Adapter]
) -> None:
    overflowing = write_adapter(tmp_path / "big", decoder.config, seed=9, strength=1e30)
    expected = alone(engine, ask("0123", adapter=adapters[0]))
    bad, good = run(engine, ask("The quick", adapter=overflowing), ask("0123", adapter=adapters[0]))
    assert bad.refused.kind == "EngineUnavailable"
    assert "finite" in bad.refused.message
    assert good.texts == expected
    assert_idle(engine)


def test_an_unexpected_error_ends_one_request_only(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    choose = Chooser.choose

    def fail_when_marked(self: Chooser, logits: torch.Tensor, allowed: torch.Tensor | None) -> int:
        if self.logit_bias:
            raise ZeroDivisionError
        return choose(self, logits, allowed)

    monkeypatch.setattr(Chooser, "choose", fail_when_marked)
    bad, good = run(engine, ask(logit_bias={5: 1.0}, n=2), ask())
    assert bad.refused.kind == "TuneryError"
    assert "ZeroDivisionError" in caplog.text
    assert good.done
    assert_idle(engine)


def test_a_context_longer_than_the_cache_is_cut_to_it(
    reference: tuple[Path, PreTrainedModel], make: MakeEngine
) -> None:
    (running,) = run(make(cache_tokens=64), ask([5] * 60, max_tokens=10))
    assert running.refused.kind == "ContextOverflow"
    assert "64" in running.refused.message


def test_messages_of_a_request_carry_its_id(engine: Engine) -> None:
    (running,) = run(engine, ask(id="mine"))
    assert {answer.id for answer in running.answers} == {"mine"}
    assert all(isinstance(answer, Piece) for answer in running.answers[1:-1])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(running.pieces[0]), type=Piece) == running.pieces[0]
