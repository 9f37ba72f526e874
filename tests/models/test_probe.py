from pathlib import Path

import pytest
import torch

from tests.models.test_lora import trained
from tunery.errors import InvalidRequest
from tunery.models.decoder import attend_causally
from tunery.models.loader import load
from tunery.models.probe import TOLERANCE, TOP, Probe, measure

IDS = list(range(20))


def logits_of(tiny: Path, scale: float) -> dict[int, torch.Tensor]:
    """By place, with an adapter whose effect is scaled."""
    adapter, decoder = trained(tiny), load(tiny)
    adapter.scale *= scale
    with torch.inference_mode():
        hidden = decoder.hidden(torch.tensor(IDS), torch.arange(len(IDS)), attend_causally, adapter)
        return dict(enumerate(decoder.logits(hidden)))


def test_a_probe_comes_back_from_its_file(tiny: Path, tmp_path: Path) -> None:
    probe = measure(load(tiny), trained(tiny), IDS)
    probe.write(tmp_path)
    assert Probe.load(tmp_path) == probe
    assert max(probe.top_logprobs) == len(IDS) - 1
    assert all(len(top) == TOP for top in probe.top_logprobs.values())


def test_the_same_computation_agrees_and_another_does_not(tiny: Path) -> None:
    """A server that forgot the adapter, or half its scale, is found out."""
    probe = measure(load(tiny), trained(tiny), IDS)
    assert probe.largest_difference(logits_of(tiny, 1.0)) < 1e-4
    for scale in (0.0, 0.5):
        assert probe.largest_difference(logits_of(tiny, scale)) > TOLERANCE


def test_a_short_prompt_has_a_probe_too(tiny: Path) -> None:
    assert list(measure(load(tiny), None, [5]).top_logprobs) == [0]


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "probe.json").write_text('{"token_ids": [1]')
    with pytest.raises(InvalidRequest, match=r"probe\.json is damaged"):
        Probe.load(tmp_path)
