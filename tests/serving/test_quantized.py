"""An engine whose weights are rounded to int8: it answers and says how far from the weights as trained."""

from pathlib import Path

import msgspec
import pytest

from tests.models.tiny import write_base
from tests.serving.given import ask, base_in, mount, run, write_adapter
from tunery.bases import BaseModel
from tunery.errors import EngineUnavailable, InvalidRequest
from tunery.messages import Adapter, Mount, Mounted, Refused
from tunery.models import probe
from tunery.models.decoder import Decoder
from tunery.models.probe import Probe
from tunery.models.tokenizer import Tokenizer
from tunery.serving import commands
from tunery.serving.compiled import linear_for
from tunery.serving.engine import Engine
from tunery.weights import Agreement

pytest.importorskip("numba")


@pytest.fixture(scope="module")
def quantized(base: BaseModel) -> Engine:
    return Engine.load(base, quantization="int8")


def agreement(engine: Engine, adapter: Adapter | None) -> Agreement:
    answers: list[object] = []
    engine.mount(Mount(id="m", adapter=adapter), answers.append)
    while engine.busy:
        engine.step()
    (answer,) = answers
    assert isinstance(answer, Mounted)
    assert answer.agreement is not None
    return answer.agreement


def shifted(adapter: Adapter, by: float) -> None:
    """As if the trainer had seen other log probabilities everywhere."""
    taken = Probe.load(adapter.directory)
    top = {place: [(token, value + by) for token, value in top] for place, top in taken.top_logprobs.items()}
    msgspec.structs.replace(taken, top_logprobs=top).write(Path(adapter.directory))


def test_an_adapter_is_measured_against_the_trainers_float32_probe(quantized: Engine, probed: Adapter) -> None:
    found = agreement(quantized, probed)
    assert found.places == len(Probe.load(probed.directory).token_ids)
    assert 0 < found.mean_difference < found.largest_difference < 1
    assert 0 < found.same_token <= found.places


def test_a_base_alone_is_measured_against_itself_before_it_was_quantised(quantized: Engine, base: BaseModel) -> None:
    found = agreement(quantized, None)
    assert found.places == min(len(probe.prompt(Tokenizer.load(base.directory))), probe.MOST_PLACES)
    assert 0 < found.mean_difference < found.largest_difference < 1


def test_a_probe_of_few_places_as_earlier_versions_wrote_it_is_measured_too(quantized: Engine, probed: Adapter) -> None:
    taken = Probe.load(probed.directory)
    few = {place: taken.top_logprobs[place] for place in (1, 3)}
    msgspec.structs.replace(taken, top_logprobs=few).write(Path(probed.directory))
    assert agreement(quantized, probed).places == 2


def test_what_float32_weights_would_be_refused_for_is_reported_of_int8_ones(
    quantized: Engine, engine: Engine, probed: Adapter
) -> None:
    shifted(probed, -0.25)
    assert isinstance(mount(engine, probed), Refused)
    assert 0.2 < agreement(quantized, probed).mean_difference < 0.5


def test_a_difference_that_no_rounding_makes_is_refused(quantized: Engine, probed: Adapter) -> None:
    shifted(probed, -3.0)
    answer = mount(quantized, probed)
    assert isinstance(answer, Refused)
    assert (answer.kind, "on average" in answer.message) == ("EngineUnavailable", True)


def test_an_adapter_from_elsewhere_is_mounted_unmeasured_and_refused_if_its_output_isnt_finite(
    quantized: Engine, adapters: list[Adapter], decoder: Decoder, tmp_path: Path
) -> None:
    assert mount(quantized, adapters[0]) == Mounted(id="m")
    answer = mount(quantized, write_adapter(tmp_path / "big", decoder.config, seed=9, strength=1e30))
    assert isinstance(answer, Refused)
    assert "finite" in answer.message


def test_the_weights_as_trained_report_nothing_of_a_base(engine: Engine) -> None:
    answers: list[object] = []
    engine.mount(Mount(id="m", adapter=None), answers.append)
    engine.step()
    assert answers == [Mounted(id="m")]


def test_adapters_and_the_base_answer_in_one_batch(quantized: Engine, adapters: list[Adapter]) -> None:
    asked = [ask("The quick", adapter=adapter) for adapter in (None, *adapters)]
    alone = [run(quantized, each)[0].text() for each in asked]
    assert [each.text() for each in run(quantized, *(ask("The quick", adapter=a) for a in (None, *adapters)))] == alone
    assert len(set(alone)) > 1


def test_only_the_cpu_has_int8_weights() -> None:
    with pytest.raises(InvalidRequest, match="int8 weights run on the CPU"):
        linear_for("cuda", "int8")


def test_a_base_that_runs_through_transformers_is_refused(tmp_path: Path) -> None:
    write_base(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"model_type": "llama"', '"model_type": "gpt2"'))
    with pytest.raises(InvalidRequest, match="runs through transformers"):
        Engine.load(base_in(tmp_path), quantization="int8")


def test_vllm_is_not_started_for_them(base: BaseModel, tmp_path: Path) -> None:
    (tmp_path / "python").touch()
    command = commands.vllm(str(tmp_path / "python"), threads=1, device="cpu", options={})
    assert command(base, None)
    with pytest.raises(EngineUnavailable, match="vLLM"):
        command(base, "int8")
