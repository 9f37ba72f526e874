"""Small models with random weights, made in the test, in the folder layout of real ones."""

import json
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

import tunery.models
from tunery.models.lora import WRITTEN, Lora

TEMPLATE = Path(tunery.models.__file__).with_name("chatml.jinja")
CORPUS = ["The quick brown fox jumps over the lazy dog. 0123456789", 'Which intent? {"name": "weather"}\n' * 3]


def write_tokenizer(folder: Path) -> int:
    """A byte-level BPE tokenizer with SmolLM2's control tokens and our chat template. Returns its vocabulary's size."""
    raw = tokenizers.Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    raw.decoder = decoders.ByteLevel()
    control = [AddedToken(t, special=True, normalized=False) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=control, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(CORPUS, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    raw.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "bos_token": "<|im_start|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(TEMPLATE.read_text())
    return raw.get_vocab_size()


def save(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Random weights, larger than at a usual start, so that errors show."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            centre = 1.0 if "norm" in name else 0.0
            parameter.copy_(centre + 0.15 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return model.eval()


def write_base(folder: Path, **changes: Any) -> PreTrainedModel:
    """A whole base: tokenizer and a Llama of 2 layers with grouped heads. Returns transformers' model of it."""
    vocab_size = write_tokenizer(folder)
    sizes = {
        "vocab_size": vocab_size,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    model = save(LlamaForCausalLM(LlamaConfig(**sizes | changes)), folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    return model


OTHERS: dict[str, dict[str, Any]] = {
    "gpt_neox": {"pad_token_id": 0},
    "phi": {"num_key_value_heads": 2},
    "granite": {"num_key_value_heads": 2, "attention_multiplier": 0.3, "logits_scaling": 3.0},
    "starcoder2": {"num_key_value_heads": 2, "sliding_window": 9},
    "gemma3_text": {
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 9,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "gpt2": {},
}
"""Architectures that aren't our own decoder's: biases, fused and transposed layers, scales, windows."""


def write_other(folder: Path, architecture: str, **changes: Any) -> PreTrainedModel:
    """A whole base of an architecture of `OTHERS`, 3 layers. Returns transformers' model of it."""
    sizes = {
        "vocab_size": write_tokenizer(folder),
        "hidden_size": 32,
        "intermediate_size": 56,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    config = AutoConfig.for_model(architecture, **sizes | OTHERS.get(architecture, {}) | changes)
    model = save(AutoModelForCausalLM.from_config(config), folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    return model


def as_written(adapter: Lora) -> Lora:
    """With the numbers that its file has: who reads that computes the same."""
    return adapter.to("cpu", WRITTEN).to("cpu", torch.float32)
