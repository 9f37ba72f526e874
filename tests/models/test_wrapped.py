"""What transformers' code is refused for: never silently wrong."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.phi.modeling_phi import PhiMLP

from tests.models.tiny import write_other
from tunery.errors import InvalidRequest
from tunery.models.decoder import attend_causally
from tunery.models.loader import load


@pytest.mark.parametrize(
    ("architecture", "changes", "said"),
    [
        ("gemma2", {"head_dim": 8}, "'gemma2'.*soft-capping"),
        ("gpt_oss", {"num_local_experts": 4, "num_key_value_heads": 2, "head_dim": 8}, "'gpt_oss'.*sinks"),
        ("qwen3_next", {"num_key_value_heads": 2}, "'qwen3_next'.*linear_attention"),
        ("llama4_text", {"head_dim": 8, "num_local_experts": 2}, "'llama4_text'.*chunks"),
        ("falcon", {}, "'falcon'.*Only 0 of its 3 layers have attention that can be replaced"),
        ("mamba", {}, "'mamba'.*Only 0 of its 3 layers"),
    ],
)
def test_what_our_attention_cannot_express_is_refused_by_architecture_and_feature(
    tmp_path: Path, architecture: str, changes: dict[str, Any], said: str
) -> None:
    write_other(tmp_path / "base", architecture, **changes)
    with pytest.raises(InvalidRequest, match=said):
        load(tmp_path / "base")


def test_layers_that_mix_tokens_outside_of_attention_are_found_by_trial(tmp_path: Path) -> None:
    """Convolutions in a folder whose config.json doesn't name them by a kind that is known to us."""
    write_other(tmp_path, "lfm2", num_key_value_heads=2, layer_types=["full_attention", "conv", "conv"])
    with pytest.raises(InvalidRequest, match=r"layers of kind conv"):
        load(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"layer_types": None, "full_attn_idxs": [0]}))
    with pytest.raises(InvalidRequest, match="Only 1 of its 3 layers have attention"):
        load(tmp_path)


def test_a_model_whose_tokens_meet_elsewhere_is_found_by_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a model would with a convolution before its attention."""
    write_other(tmp_path, "phi")

    def mixed(self: PhiMLP, x: torch.Tensor) -> torch.Tensor:
        return plain(self, x + 0.1 * x.roll(1, dims=1))

    plain = PhiMLP.forward
    monkeypatch.setattr(PhiMLP, "forward", mixed)
    with pytest.raises(InvalidRequest, match=r"'phi'.*meet elsewhere than in plain attention"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"is_encoder_decoder": True}, "encoder"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic"),
        ({"num_hidden_layers": 4}, r"weights lack gpt_neox\.layers\.3"),
        ({"hidden_size": 64}, "another shape|size mismatch|mismatch"),
        ({"model_type": "no-such-model"}, "'no-such-model' can't be used"),
        ({"model_type": None}, "'None' can't be used"),
    ],
)
def test_a_folder_that_would_mean_something_else_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    write_other(tmp_path, "gpt_neox")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InvalidRequest, match=said):
        load(tmp_path)


def test_code_that_comes_with_a_model_never_runs(tmp_path: Path) -> None:
    write_other(tmp_path, "gpt_neox")
    canary = tmp_path / "canary"
    (tmp_path / "modeling_evil.py").write_text(f"open({str(canary)!r}, 'w')\n")
    path = tmp_path / "config.json"
    hostile = {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "modeling_evil.E", "AutoModelForCausalLM": "modeling_evil.M"},
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | hostile))
    with pytest.raises(InvalidRequest, match="'evil' can't be used"):
        load(tmp_path)
    assert not canary.exists()


def test_without_the_extra_it_says_which_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_other(tmp_path, "phi")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InvalidRequest, match=r"'phi'.*pip install tunery\[other-models\]"):
        load(tmp_path)


def test_a_text_longer_than_the_positions_is_refused(tmp_path: Path) -> None:
    write_other(tmp_path, "gpt2", max_position_embeddings=32)
    base = load(tmp_path)
    assert base.config.max_position_embeddings == 32
    ids = torch.zeros(33, dtype=torch.int64)
    with pytest.raises(InvalidRequest, match="32 tokens at most"):
        base.hidden(ids, torch.arange(33), attend_causally)


def test_wavelengths_that_change_with_the_longest_text_end_the_text(tmp_path: Path) -> None:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 4,
        "long_factor": [2.0] * 4,
        "factor": 8.0,
    }
    write_other(
        tmp_path,
        "phi3",
        num_key_value_heads=2,
        pad_token_id=0,
        original_max_position_embeddings=64,
        rope_parameters=rope,
    )
    assert load(tmp_path).config.max_position_embeddings == 64
