from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.models.tiny import save
from tunery.models.decoder import Decoder, DenseLinear, Model, attend_causally
from tunery.models.loader import load

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "head_dim": 8,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MODELS = {
    "llama, grouped heads, tied": LlamaForCausalLM(
        LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=True)
    ),
    "llama, untied": LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False)),
    "llama, wide heads": LlamaForCausalLM(LlamaConfig(**SIZES | {"head_dim": 16}, num_key_value_heads=1)),
    "llama, llama3 rope": LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=LLAMA3_ROPE)),
    "mistral": MistralForCausalLM(MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=None)),
    "qwen2, biases": Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=2)),
    "qwen3, head norms": Qwen3ForCausalLM(Qwen3Config(**SIZES, num_key_value_heads=2)),
}


def logits_of(decoder: Model, ids: Tensor) -> Tensor:
    with torch.inference_mode():
        return decoder.logits(decoder.hidden(ids, torch.arange(len(ids)), attend_causally))


def reference(model: PreTrainedModel, ids: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(ids[None]).logits[0]


YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 128}
SPECIAL = {
    "llama, gelu": LlamaForCausalLM(LlamaConfig(**SIZES, hidden_act="gelu")),
    "llama, yarn rope": LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=YARN)),
    "mistral, sliding window": MistralForCausalLM(MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=9)),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_what_the_decoder_lacks_runs_through_transformers(name: str, tmp_path: Path) -> None:
    model = save(SPECIAL[name], tmp_path)
    ids, loaded = torch.arange(60) * 13 % 97, load(tmp_path)
    assert not isinstance(loaded, Decoder)
    torch.testing.assert_close(logits_of(loaded, ids), reference(model, ids), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    model = save(MODELS[name], tmp_path)
    ids = torch.arange(60) * 13 % 97
    torch.testing.assert_close(logits_of(load(tmp_path), ids), reference(model, ids), rtol=1e-5, atol=1e-5)


def test_a_sharded_folder_loads_like_one_file(tmp_path: Path) -> None:
    model = MODELS["llama, untied"]
    save(model, tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    ids = torch.arange(20)
    assert torch.equal(logits_of(load(tmp_path / "shards"), ids), logits_of(load(tmp_path / "whole"), ids))


def test_half_precision_stays_close_to_single(tmp_path: Path) -> None:
    save(MODELS["llama, grouped heads, tied"], tmp_path)
    ids = torch.arange(40)
    half, single = logits_of(load(tmp_path, dtype=torch.bfloat16), ids), logits_of(load(tmp_path), ids)
    assert half.dtype == torch.bfloat16
    assert (half.float() - single).norm() / single.norm() < 0.05


def test_positions_count_not_places(tmp_path: Path) -> None:
    """Two copies of a sequence on one axis, each seeing itself only, give what each gives alone."""
    save(MODELS["llama, grouped heads, tied"], tmp_path)
    decoder = load(tmp_path)
    ids, positions = torch.arange(10), torch.arange(10)

    def attend_halves(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.cat([attend_causally(layer, q[h], k[h], v[h]) for h in (slice(0, 10), slice(10, 20))])

    with torch.inference_mode():
        both = decoder.logits(decoder.hidden(ids.repeat(2), positions.repeat(2), attend_halves))
    alone = logits_of(decoder, ids)
    torch.testing.assert_close(both, alone.repeat(2, 1), rtol=1e-5, atol=1e-5)


def test_linear_layers_can_be_replaced_when_loading(tmp_path: Path) -> None:
    save(MODELS["qwen2, biases"], tmp_path)
    shapes = []

    def make(weight: Tensor, bias: Tensor | None) -> DenseLinear:
        shapes.append((tuple(weight.shape), bias is not None))
        return DenseLinear(weight, bias)

    load(tmp_path, linear=make)
    block = [((64, 32), True), ((32, 32), False), ((112, 32), False), ((32, 56), False)]
    assert shapes == [*block * 3, ((97, 32), False)]


@pytest.mark.model
def test_the_bundled_base_gives_the_logits_of_transformers(bundled: Path) -> None:
    ids = torch.arange(400, 700)
    expected = reference(AutoModelForCausalLM.from_pretrained(bundled), ids)
    torch.testing.assert_close(logits_of(load(bundled), ids), expected, rtol=1e-4, atol=1e-4)
