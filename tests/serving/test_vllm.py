"""What Tunery does around vLLM; tests/conformance/vllm.py runs the real one."""

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving.given import Running, ask, base_in, mount, run, shift_probe, steps, write_adapter
from tests.serving.reference_core import ReferenceCore
from tests.serving.test_server import converse_in
from tunery import serve
from tunery.bases import BaseModel
from tunery.errors import InvalidRequest
from tunery.messages import Adapter, Cancel, JsonForm, Mounted, Ping, Pong, Refused
from tunery.models.decoder import Decoder
from tunery.models.probe import TOLERANCE, Probe
from tunery.models.tokenizer import Tokenizer
from tunery.serving.engine import Engine
from tunery.serving.server import Connection
from tunery.serving.vllm import engine as vllm_engine
from tunery.serving.vllm import options, sampling
from tunery.serving.vllm.engine import VllmEngine
from tunery.settings import Settings


@pytest.fixture
def core(decoder: Decoder) -> ReferenceCore:
    return ReferenceCore(decoder)


@pytest.fixture
def vllm(base: BaseModel, decoder: Decoder, tokenizer: Tokenizer, core: ReferenceCore) -> VllmEngine:
    return VllmEngine(base, decoder.config, tokenizer, core, tolerance=TOLERANCE)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"max_tokens": 0},
        {"max_tokens": 0, "echo": True},
        {"max_tokens": 0, "echo": True, "logprobs": 2},
        {"echo": True, "logprobs": 0},
        {"echo": True, "n": 2},
        {"logprobs": 3},
        {"stop": ["e", "zz"]},
        {"presence_penalty": 1.0, "frequency_penalty": 0.5},
        {"logit_bias": {7: 100.0}},
        {"max_tokens": None},
        {"prompt": None, "prompts": ["The", "quick", [5, 6]], "n": 2, "best_of": 3},
    ],
)
def test_it_says_what_our_engine_says(
    vllm: VllmEngine, engine: Engine, adapters: list[Adapter], asked: dict[str, Any]
) -> None:
    for adapter in (None, adapters[0]):
        generate = ask(**asked, adapter=adapter)
        (there,), (here,) = run(vllm, generate), run(engine, generate)
        assert there.texts == here.texts
        assert [there.finish_reason(n) for n in range(len(here.texts))] == [
            here.finish_reason(n) for n in range(len(here.texts))
        ]
        assert there.done.completion_tokens == here.done.completion_tokens
        told, expected = ([one for piece in running.pieces for one in piece.logprobs] for running in (there, here))
        assert [(one.token, [t for t, _, _ in one.top]) for one in told] == [
            (one.token, [t for t, _, _ in one.top]) for one in expected
        ]
        assert [one.logprob for one in told] == pytest.approx([one.logprob for one in expected], abs=1e-4)


def test_adapters_ride_together_and_each_answers_for_itself(
    vllm: VllmEngine, engine: Engine, adapters: list[Adapter]
) -> None:
    generates = [ask(prompt, adapter=adapter) for prompt in ("The quick", "0123") for adapter in (None, *adapters)]
    together = [running.text() for running in run(vllm, *generates)]
    assert together == [run(engine, generate)[0].text() for generate in generates]


def test_what_is_cancelled_is_aborted_and_says_nothing_more(
    vllm: VllmEngine, core: ReferenceCore, adapters: list[Adapter]
) -> None:
    gone, stays = (Running(vllm, ask(adapter=adapters[0], n=2, max_tokens=50)) for _ in range(2))
    while not gone.pieces:
        vllm.step()
    vllm.cancel(gone.request)
    said = len(gone.answers)
    for _ in steps(vllm):
        pass
    assert (len(gone.answers), core.jobs) == (said, {})
    assert stays.done


def test_a_choice_that_a_stop_string_ends_is_aborted(vllm: VllmEngine, core: ReferenceCore) -> None:
    (whole,) = run(vllm, ask(max_tokens=12))
    (cut,) = run(vllm, ask(max_tokens=200, stop=[whole.text()[2:4]]))
    assert cut.text() == whole.text()[: whole.text().index(whole.text()[2:4])]
    assert (cut.finish_reason(), core.jobs) == ("stop", {})


def test_no_account_and_no_adapter_shares_a_salt_with_another(
    vllm: VllmEngine, core: ReferenceCore, adapters: list[Adapter]
) -> None:
    asked = [ask(owner=owner, adapter=adapter) for owner in "ab" for adapter in (None, *adapters)]
    run(vllm, *asked, *asked)
    assert len({job.salt for job in core.asked}) == len(asked)


def test_the_least_recently_used_adapter_goes_and_comes_back_under_a_new_number(
    monkeypatch: pytest.MonkeyPatch, base: BaseModel, decoder: Decoder, tokenizer: Tokenizer, adapters: list[Adapter]
) -> None:
    monkeypatch.setattr(vllm_engine, "MOST_LOADED", 2)
    core = ReferenceCore(decoder)
    vllm = VllmEngine(base, decoder.config, tokenizer, core, tolerance=TOLERANCE)
    first, second, third = adapters
    for adapter in (first, second, first, third, second):
        assert run(vllm, ask(adapter=adapter))[0].done
    assert core.numbers == [1, 2, 3, 4]
    assert set(core.loaded) == {3, 4}


def test_more_adapters_at_once_than_there_is_room_for_all_get_their_turn(
    monkeypatch: pytest.MonkeyPatch, base: BaseModel, decoder: Decoder, tokenizer: Tokenizer, adapters: list[Adapter]
) -> None:
    monkeypatch.setattr(vllm_engine, "MOST_LOADED", 1)
    vllm = VllmEngine(base, decoder.config, tokenizer, ReferenceCore(decoder), tolerance=TOLERANCE)
    assert all(running.done for running in run(vllm, *(ask(adapter=adapter) for adapter in (*adapters, *adapters))))


@pytest.mark.parametrize("change", [{"digest": "0" * 64}, {"directory": "/nowhere"}])
def test_a_folder_that_isnt_the_digests_never_reaches_vllm(
    vllm: VllmEngine, core: ReferenceCore, adapters: list[Adapter], change: dict[str, str]
) -> None:
    known = {"digest": adapters[0].digest, "directory": adapters[0].directory}
    wrong, right = run(vllm, ask(adapter=Adapter(**known | change)), ask(adapter=adapters[1]))
    assert wrong.refused.kind == "EngineUnavailable"
    assert right.done
    assert len(core.numbers) == 1


def test_an_adapter_of_a_larger_rank_than_the_engine_was_started_for_is_refused(
    decoder: Decoder, vllm: VllmEngine, tmp_path: Path
) -> None:
    answer = mount(vllm, write_adapter(tmp_path / "wide", decoder.config, seed=1, rank=17))
    assert isinstance(answer, Refused)
    assert (answer.kind, "17" in answer.message) == ("OperationNotSupported", True)


@pytest.mark.parametrize(("shift", "mounts"), [(0.0, True), (0.005, True), (-0.25, False), (0.25, False)])
def test_an_adapter_is_mounted_if_it_answers_as_trained(
    vllm: VllmEngine,
    probed: Adapter,
    shift: float,
    mounts: bool,
) -> None:
    shift_probe(probed, shift)
    answer = mount(vllm, probed)
    assert isinstance(answer, Mounted if mounts else Refused)


def test_an_adapter_whose_output_isnt_finite_is_refused(decoder: Decoder, vllm: VllmEngine, tmp_path: Path) -> None:
    answer = mount(vllm, write_adapter(tmp_path / "big", decoder.config, seed=9, strength=1e30))
    assert isinstance(answer, Refused)
    assert "finite" in answer.message


def test_what_vllm_refuses_is_an_error_of_that_request_alone(vllm: VllmEngine, core: ReferenceCore) -> None:
    core.refuses = "logit_bias"
    refused, other = run(vllm, ask(logit_bias={1: 5.0}), ask())
    assert (refused.refused.kind, refused.refused.message) == ("OperationNotSupported", "no logit_bias here")
    assert other.done


def test_an_answer_that_leaves_its_form_is_refused(vllm: VllmEngine) -> None:
    form = JsonForm(schema={"type": "object"}, strict=False)
    (running,) = run(vllm, ask(json_form=form))  # this core follows no grammar
    assert "form" in running.refused.message


def test_an_answer_that_vllm_ends_too_early_is_refused(vllm: VllmEngine, core: ReferenceCore) -> None:
    core.ends_after = 3
    (running,) = run(vllm, ask())
    assert running.refused.kind == "EngineUnavailable"


def test_a_prompt_that_fills_the_context_cant_be_scored(vllm: VllmEngine, base: BaseModel) -> None:
    full = ask([5] * base.context_length, max_tokens=0, echo=True)
    assert run(vllm, full)[0].done
    (running,) = run(vllm, ask([5] * base.context_length, max_tokens=0, echo=True, logprobs=1))
    assert (running.refused.kind, running.refused.param) == ("OperationNotSupported", "logprobs")


def test_a_full_queue_is_refused_with_a_time_to_come_back(vllm: VllmEngine) -> None:
    many = [Running(vllm, ask(n=1)) for _ in range(vllm_engine.MAX_WAITING + 1)]
    vllm.step()
    assert many[-1].refused.kind == "TooManyRequests"
    assert not any(isinstance(running.last, Refused) for running in many[:-1])


def test_the_socket_drives_it_as_it_drives_our_engine(vllm: VllmEngine, core: ReferenceCore) -> None:
    one, other = Connection(None), Connection(None)
    asked = (one, ask(id="same")), (other, ask(id="same")), (one, Ping(id="p")), (one, Cancel(id="same"))
    assert converse_in(vllm, *asked) == [(one, Pong(id="p"))]
    assert (list(one.requests), list(other.requests), vllm.busy) == ([], ["same"], True)
    converse_in(vllm, (other, None))
    assert not vllm.busy


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, {"temperature": 0.0, "top_p": 1.0, "seed": None, "logit_bias": None, "logprobs": None}),
        ({"temperature": 0.7, "top_p": 0.5}, {"temperature": 0.7, "top_p": 0.5}),
        ({"temperature": 0.7, "top_p": 0.0}, {"temperature": 0.0, "top_p": 1.0}),
        ({"presence_penalty": 1.0, "frequency_penalty": -2.0}, {"presence_penalty": 1.0, "frequency_penalty": -2.0}),
        ({"logit_bias": {3: -100.0}}, {"logit_bias": {3: -100.0}}),
    ],
)
def test_a_request_in_vllms_words(asked: dict[str, Any], expected: dict[str, Any]) -> None:
    params = sampling.of_choice(ask(**asked), number=0, max_tokens=9, scored=False, ends=[2, 0], grammar=None)
    assert expected.items() <= params.items()
    assert (params["max_tokens"], params["stop_token_ids"], params["ignore_eos"]) == (9, [0, 2], True)
    assert "stop" not in params


@given(st.integers(), st.lists(st.integers(0, 500), unique=True, max_size=20))
def test_each_choice_has_a_seed_of_its_own_that_vllm_can_hold(seed: int, numbers: list[int]) -> None:
    seeds = [sampling.seed_of_choice(seed, number) for number in numbers]
    assert seeds == [sampling.seed_of_choice(seed, number) for number in numbers]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= one < 2**63 for one in seeds)


@given(st.lists(st.floats(-20, 0), min_size=8, max_size=8), st.lists(st.floats(-20, 0), min_size=3, max_size=3))
def test_what_few_tokens_show_of_a_difference_is_never_more_than_it_is(told: list[float], trained: list[float]) -> None:
    probe = Probe(token_ids=[1], top_logprobs={0: list(enumerate(trained))})
    most_likely = sorted(enumerate(told), key=lambda pair: -pair[1])[:4]
    shown = probe.least_difference({0: dict(most_likely)})
    assert shown <= max(abs(told[token] - logprob) for token, logprob in enumerate(trained)) + 1e-9


@pytest.mark.parametrize("name", ["model", "trust_remote_code", "max_lora_rank", "logprobs_mode"])
def test_options_that_break_a_promise_are_refused(base: BaseModel, name: str) -> None:
    with pytest.raises(InvalidRequest, match=name):
        options.engine_arguments(base, device="cpu", options={name: True})


def test_other_options_reach_vllm(base: BaseModel) -> None:
    given = options.engine_arguments(base, device="cuda", options={"tensor_parallel_size": 2, "max_loras": 4})
    assert (given["tensor_parallel_size"], given["max_loras"], given["dtype"]) == (2, 4, "bfloat16")
    with pytest.raises(InvalidRequest, match="dtype"):
        options.engine_arguments(base, device="cuda", options={"dtype": "fp8"})


def test_the_largest_rank_is_the_next_that_vllm_knows() -> None:
    assert options.largest_rank(base_in(Path("x"), lora_rank=20)) == 32
    with pytest.raises(InvalidRequest, match="513"):
        options.largest_rank(base_in(Path("x"), lora_rank=513))


def test_the_setting_chooses_the_engine_and_wants_an_interpreter(base: BaseModel, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="vllm_python"):
        serve.engine_command(Settings(home=tmp_path, engine="vllm"))
    chosen = serve.engine_command(Settings(engine="vllm", vllm_python=sys.executable, vllm_options={"max_loras": 4}))
    assert "tunery.serving.vllm" in chosen(base, None)
    assert '{"max_loras":4}' in chosen(base, None)
    assert "tunery.serving.vllm" not in serve.engine_command(Settings())(base, None)
    assert "VLLM_NO_USAGE_STATS=1" in chosen(base, None)
