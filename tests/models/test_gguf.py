import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.models.tiny import write_base
from tunery.errors import InvalidRequest
from tunery.models.gguf import convert
from tunery.models.tokenizer import Tokenizer

ROW_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """As llama.cpp's converter lays out q and k."""
    shape = weight.shape
    return weight.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def write_gguf(
    path: Path,
    folder: Path,
    *,
    pre: str = "smollm",
    architecture: str = "llama",
    template: str = "{{ messages }}",
    **fields: Any,
) -> None:
    """The model of `folder` as a GGUF, its feed-forward weights in Q8_0."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    config, vocabulary = model.config, json.loads((folder / "tokenizer.json").read_text())["model"]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    tokens = sorted(vocabulary["vocab"], key=vocabulary["vocab"].get)
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges([" ".join(merge) for merge in vocabulary["merges"]])
    writer.add_eos_token_id(2)
    writer.add_chat_template(template)
    for key, value in fields.items():
        writer.add_string(key.replace("__", "."), value)
    for name, tensor in model.state_dict().items():
        add_tensor(writer, name.removesuffix(".weight"), tensor.numpy(), config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tensor(writer: gguf.GGUFWriter, name: str, values: np.ndarray, config: Any) -> None:
    if name.startswith("model.layers."):
        _, _, index, part = name.split(".", 3)
        name = f"blk.{index}.{ROW_NAMES[part]}"
        if part in ("self_attn.q_proj", "self_attn.k_proj"):
            heads = config.num_attention_heads if "q_proj" in part else config.num_key_value_heads
            values = interleaved(values, heads)
    else:
        name = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}[name]
    if "ffn_up" in name or "ffn_gate" in name:
        quantised = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(f"{name}.weight", quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    else:
        writer.add_tensor(f"{name}.weight", values)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf") / "source"
    write_base(folder, hidden_size=64, intermediate_size=96, head_dim=16, tie_word_embeddings=False)
    return folder


def test_weights_come_back_and_quantised_ones_nearly(source: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", source)
    convert(tmp_path / "model.gguf", tmp_path / "converted")
    before = AutoModelForCausalLM.from_pretrained(source).state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "converted").state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        if "gate_proj" in name or "up_proj" in name:
            assert 0 < (after[name] - tensor).abs().max() < 0.01
        else:
            assert torch.equal(after[name], tensor), name


def test_tokens_and_ends_come_back(source: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", source)
    convert(tmp_path / "model.gguf", tmp_path / "converted")
    text = "The quick 0123 fox<|im_end|> intent?\n"
    before, after = AutoTokenizer.from_pretrained(source), AutoTokenizer.from_pretrained(tmp_path / "converted")
    assert before(text).input_ids == after(text).input_ids
    assert Tokenizer.load(tmp_path / "converted").eos_ids == {0, 2}
    assert (tmp_path / "converted" / "chat_template.jinja").read_text() == "{{ messages }}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pre": "deepseek-llm"}, "pre-tokenizer 'deepseek-llm' isn't supported; supported: gpt-2, smollm"),
        ({"architecture": "mamba"}, "architecture 'mamba'"),
        ({"llama__rope__scaling__type": "yarn"}, "scaling 'yarn'"),
    ],
)
def test_what_it_cannot_convert_is_refused_and_leaves_no_folder(
    source: Path, tmp_path: Path, changes: Any, said: str
) -> None:
    write_gguf(tmp_path / "model.gguf", source, **changes)
    with pytest.raises(InvalidRequest, match=said):
        convert(tmp_path / "model.gguf", tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"PK\x03\x04 not at all" * 10)
    with pytest.raises(InvalidRequest, match="isn't a readable GGUF"):
        convert(tmp_path / "model.gguf", tmp_path / "converted")


@pytest.mark.model
def test_the_bundled_base_has_smollm2s_tokens(bundled: Path) -> None:
    """Ids as published for SmolLM2: digits one by one, no space put in front."""
    raw = tokenizers.Tokenizer.from_file(str(bundled / "tokenizer.json"))
    assert raw.encode("<|im_start|>user\n").ids == [1, 4093, 198]
    ids = raw.encode("In 1234, 56 ½ people").ids
    assert [raw.decode([i]) for i in ids] == ["In", " ", "1", "2", "3", "4", ",", " ", "5", "6", " ", "½", " people"]
