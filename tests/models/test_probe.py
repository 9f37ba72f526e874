import itertools
from pathlib import Path

import pytest
import torch

from tests.models.test_lora import trained
from tunery.errors import InvalidRequest
from tunery.models.decoder import attend_causally
from tunery.models.loader import load
from tunery.models.probe import MOST_PLACES, TOLERANCE, TOP, Probe, measure

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
    assert probe.agreement(logits_of(tiny, 1.0)).largest_difference < 1e-4
    for scale in (0.0, 0.5):
        assert probe.agreement(logits_of(tiny, scale)).largest_difference > TOLERANCE


def test_a_short_prompt_has_a_probe_too(tiny: Path) -> None:
    assert list(measure(load(tiny), None, [5]).top_logprobs) == [0]


@pytest.mark.parametrize("length", [1, 2, 20, MOST_PLACES, 65, 200])
def test_a_prompt_is_looked_at_from_end_to_end_and_a_long_one_evenly(tiny: Path, length: int) -> None:
    places = sorted(measure(load(tiny), None, [5] * length).top_logprobs)
    assert (len(places), places[0], places[-1]) == (min(length, MOST_PLACES), 0, length - 1)
    gaps = [after - before for before, after in itertools.pairwise(places)]
    assert max(gaps, default=0) - min(gaps, default=0) <= 1


def test_agreement_counts_places_and_measures_nats() -> None:
    probe = Probe(token_ids=[5, 6], top_logprobs={0: [(1, -1.0), (2, -2.0)], 1: [(3, -0.5)]})
    unsure, sure = torch.tensor([0.0, 1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 0.0, 50.0])
    found = probe.agreement({0: unsure, 1: sure})
    assert (found.places, found.same_token) == (2, 2)
    logprobs = torch.log_softmax(unsure, -1)
    expected = [abs(float(logprobs[1]) + 1), abs(float(logprobs[2]) + 2), 0.5]
    assert found.mean_difference == pytest.approx(sum(expected) / 3)
    assert found.largest_difference == pytest.approx(max(expected))
    assert probe.agreement({0: sure, 1: sure}).same_token == 1


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "probe.json").write_text('{"token_ids": [1]')
    with pytest.raises(InvalidRequest, match=r"probe\.json is damaged"):
        Probe.load(tmp_path)
