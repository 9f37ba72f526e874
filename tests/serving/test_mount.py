from pathlib import Path

import pytest

from tests.serving.given import mount, shift_probe, write_adapter
from tunery.messages import Adapter, Mounted, Refused
from tunery.models import probe
from tunery.models.decoder import Decoder
from tunery.serving.engine import Engine


def test_an_adapter_that_answers_as_trained_is_mounted(engine: Engine, probed: Adapter) -> None:
    assert mount(engine, probed) == Mounted(id="m")


def test_an_adapter_that_answers_otherwise_is_refused_with_the_difference(engine: Engine, probed: Adapter) -> None:
    shift_probe(probed, -0.25)
    answer = mount(engine, probed)
    assert isinstance(answer, Refused)
    assert (answer.kind, "0.25" in answer.message) == ("EngineUnavailable", True)


def test_a_difference_within_rounding_is_mounted(engine: Engine, probed: Adapter) -> None:
    shift_probe(probed, 0.005)
    assert mount(engine, probed) == Mounted(id="m")


def test_an_adapter_without_a_probe_is_mounted_if_its_output_is_finite(
    engine: Engine, adapters: list[Adapter], decoder: Decoder, tmp_path: Path
) -> None:
    assert mount(engine, adapters[0]) == Mounted(id="m")
    overflowing = write_adapter(tmp_path / "big", decoder.config, seed=9, strength=1e30)
    answer = mount(engine, overflowing)
    assert isinstance(answer, Refused)
    assert (answer.kind, "finite" in answer.message) == ("EngineUnavailable", True)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        '{"token_ids": [], "top_logprobs": {}}',
        '{"token_ids": [1], "top_logprobs": {"0": []}}',
        '{"token_ids": [1], "top_logprobs": {"1": [[1, -1.0]]}}',
        '{"token_ids": [99999], "top_logprobs": {"0": [[1, -1.0]]}}',
        '{"token_ids": [-5], "top_logprobs": {"0": [[1, -1.0]]}}',
        '{"token_ids": [1], "top_logprobs": {"0": [[99999, -1.0]]}}',
    ],
)
def test_a_probe_that_is_none_is_refused(engine: Engine, probed: Adapter, text: str) -> None:
    (Path(probed.directory) / probe.FILE).write_text(text)
    answer = mount(engine, probed)
    assert isinstance(answer, Refused)
    assert answer.kind == "InvalidRequest"


def test_a_missing_adapter_is_refused(engine: Engine, tmp_path: Path) -> None:
    answer = mount(engine, Adapter(digest="0", directory=str(tmp_path)))
    assert isinstance(answer, Refused)
    assert answer.kind == "EngineUnavailable"
