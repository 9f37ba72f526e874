"""Reads a Hugging Face folder (config.json, safetensors) into a `Model`. Never unpickles, never runs its code."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tunery.errors import InvalidRequest
from tunery.models import wrapping
from tunery.models.decoder import (
    GROUPS,
    Decoder,
    DecoderConfig,
    DenseLinear,
    Layer,
    Linear,
    Model,
    RopeScaling,
)
from tunery.models.folders import require

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
"""Values of config.json's model_type whose models are our own decoder, save for what `_beyond_us` finds.

Biases and head norms are found by their weights. All others run through transformers.
"""

_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "rms_norm_eps",
    "max_position_embeddings",
)

_SIZES = {
    "vocabulary": ("vocab_size",),
    "hidden": ("hidden_size", "n_embd"),
    "inner": ("intermediate_size", "n_inner", "ffn_dim"),
    "layers": ("num_hidden_layers", "n_layer"),
    "heads": ("num_attention_heads", "n_head"),
}

MakeLinear = Callable[[Tensor, Tensor | None], Linear]
"""(weight [out, in], bias [out] or None) -> the layer; serving passes one that packs the weight first."""


def load(
    directory: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    linear: MakeLinear = DenseLinear,
    streamed: bool = False,
) -> Model:
    """The model in a folder, by config.json's model_type. `linear` is for our own decoder.

    So is `streamed`: layers are read each time they are asked for, so that one at a time is in memory.

    Raises InvalidRequest, naming the file, for what isn't in safetensors or can't be run exactly. Tested on the CPU
    only; nothing here is specific to it.
    """
    folder = Path(directory)
    require(folder)
    _choose_mkl_functions()
    if is_ours(folder):
        weights = _Weights(folder, torch.device(device), dtype)
        return _decoder(weights, linear, streamed=streamed)
    _shards(folder)
    return wrapping.load(folder, torch.device(device), dtype)


def _choose_mkl_functions() -> None:
    """Has MKL look at the processor while one thread computes.

    It does so in a process's first cos, exp or log, and on Intel's processors a second thread that comes in between is
    given functions of low accuracy: a relative error of 1e-4 in half of the rows (docs/log.md).
    """
    torch.ones(1).exp()


def _decoder(weights: "_Weights", linear: MakeLinear, *, streamed: bool) -> Decoder:
    folder = weights.folder
    config, tied = read_config(folder)
    embedding = weights["model.embed_tokens.weight"]
    if embedding.shape != (config.vocab_size, config.hidden_size):
        raise InvalidRequest(f"{folder.name}: the embedding's shape {tuple(embedding.shape)} isn't config.json's.")
    layers = _Layers(weights, linear, config.num_hidden_layers)
    return Decoder(
        config,
        embedding=embedding,
        layers=layers if streamed else list(layers),
        final_norm=weights["model.norm.weight"],
        head=linear(embedding if tied else weights["lm_head.weight"], None),
    )


def read_config(folder: Path) -> tuple[DecoderConfig, bool]:
    """The sizes of a model of our own decoder, and whether input and output embeddings are one matrix."""
    raw = _json(folder / "config.json")
    if feature := _beyond_us(raw):
        raise InvalidRequest(f"{folder.name}: {feature} isn't our own decoder's.")
    missing = [key for key in _REQUIRED if key not in raw]
    if missing:
        raise InvalidRequest(f"{folder.name}: config.json lacks {', '.join(missing)}.")
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    config = DecoderConfig(
        vocab_size=raw["vocab_size"],
        hidden_size=raw["hidden_size"],
        intermediate_size=raw["intermediate_size"],
        num_hidden_layers=raw["num_hidden_layers"],
        num_attention_heads=raw["num_attention_heads"],
        num_key_value_heads=raw.get("num_key_value_heads") or raw["num_attention_heads"],
        head_dim=raw.get("head_dim") or raw["hidden_size"] // raw["num_attention_heads"],
        rms_norm_eps=raw["rms_norm_eps"],
        rope_theta=rope.get("rope_theta") or raw.get("rope_theta") or 10_000.0,
        rope_scaling=_rope_scaling(rope),
        max_position_embeddings=raw["max_position_embeddings"],
    )
    return config, bool(raw.get("tie_word_embeddings", False))


def is_ours(folder: Path) -> bool:
    """Whether our own decoder runs the model, or else transformers' code."""
    return _beyond_us(_json(folder / "config.json")) is None


def read_sizes(folder: Path) -> tuple[DecoderConfig, bool]:
    """As `read_config`; of a model that runs through transformers, a Llama of about its size: for estimates only."""
    raw = _json(folder / "config.json")
    if _beyond_us(raw) is None:
        return read_config(folder)
    text = raw.get("text_config") or raw
    found: dict[str, Any] = {
        name: next((text[key] for key in keys if text.get(key)), None) for name, keys in _SIZES.items()
    }
    found["inner"] = found["inner"] or 4 * (found["hidden"] or 0)
    lacking = [name for name, value in found.items() if not isinstance(value, int) or value < 1]
    if lacking:
        raise InvalidRequest(f"{folder.name}: config.json doesn't say its sizes ({', '.join(lacking)}).")
    config = DecoderConfig(
        vocab_size=found["vocabulary"],
        hidden_size=found["hidden"],
        intermediate_size=found["inner"],
        num_hidden_layers=found["layers"],
        num_attention_heads=found["heads"],
        num_key_value_heads=text.get("num_key_value_heads") or found["heads"],
        head_dim=text.get("head_dim") or found["hidden"] // found["heads"],
        rms_norm_eps=1e-5,
        rope_theta=10_000.0,
        rope_scaling=None,
        max_position_embeddings=text.get("max_position_embeddings") or 1,
    )
    return config, bool(raw.get("tie_word_embeddings", False))


def _beyond_us(raw: Mapping[str, Any]) -> str | None:
    """What a model has that our own decoder hasn't."""
    if raw.get("model_type") not in ARCHITECTURES:
        return f"architecture '{raw.get('model_type')}'"
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in ("default", "llama3"):
        return f"rotary scaling '{kind}'"
    if raw.get("hidden_act", "silu") != "silu":
        return f"activation '{raw['hidden_act']}'"
    if raw.get("sliding_window") and raw.get("use_sliding_window", True):
        return "sliding-window attention"
    return None


def _rope_scaling(rope: Mapping[str, Any]) -> RopeScaling | None:
    if (rope.get("rope_type") or rope.get("type") or "default") == "default":
        return None
    return RopeScaling(
        factor=rope["factor"],
        low_freq_factor=rope["low_freq_factor"],
        high_freq_factor=rope["high_freq_factor"],
        original_max_position_embeddings=rope["original_max_position_embeddings"],
    )


class _Weights:
    """Tensors by Hugging Face name, each read when asked for, from one safetensors file or several."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.folder, self._device, self._dtype = folder, device, dtype
        self._file_of = _shards(folder)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._file_of:
            raise InvalidRequest(f"{self.folder.name}: the weights lack {name}.")
        tensor: Tensor = _reading(self._file_of[name], lambda file: file.get_tensor(name))
        return tensor.to(device=self._device, dtype=self._dtype)

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def find(self, name: str) -> Tensor | None:
        return self[name] if name in self._file_of else None


def _shards(folder: Path) -> dict[str, Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        return _indexed(folder, _json(index))
    single = folder / "model.safetensors"
    if not single.exists():
        raise InvalidRequest(f"{folder.name}: no model.safetensors. Other formats aren't read: they may run code.")
    return dict.fromkeys(_reading(single, lambda file: file.keys()), single)


def _indexed(folder: Path, index: dict[str, Any]) -> dict[str, Path]:
    """An index from elsewhere must not lead out of its folder, nor to a format that may run code."""
    files = index.get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise InvalidRequest(f"{folder.name}: model.safetensors.index.json isn't an index.")
    for file in set(files.values()):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise InvalidRequest(f"{folder.name}: {file} isn't readable safetensors beside the index.")
    return {name: folder / file for name, file in files.items()}


def _reading(path: Path, what: Callable[[Any], Any]) -> Any:
    try:
        with safe_open(path, framework="pt") as file:
            return what(file)
    except (OSError, SafetensorError) as error:
        raise InvalidRequest(f"{path.parent.name}: {path.name} isn't readable safetensors: {error}.") from None


class _Layers(Sequence[Layer]):
    """Read when they are asked for."""

    def __init__(self, weights: _Weights, linear: MakeLinear, count: int) -> None:
        self._weights, self._linear, self._count = weights, linear, count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Layer: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Layer]: ...
    def __getitem__(self, index: int | slice) -> Layer | Sequence[Layer]:
        numbers = range(self._count)[index]
        if isinstance(numbers, range):
            return [self[number] for number in numbers]
        return _layer(self._weights, f"model.layers.{numbers}.", self._linear)


def _layer(weights: _Weights, prefix: str, linear: MakeLinear) -> Layer:
    def grouped(group: str, block: str) -> Linear:
        names = [f"{prefix}{block}.{target}" for target in GROUPS[group]]
        weight = torch.cat([weights[f"{name}.weight"] for name in names])
        biased = f"{names[0]}.bias" in weights
        return linear(weight, torch.cat([weights[f"{name}.bias"] for name in names]) if biased else None)

    return Layer(
        attention_norm=weights[f"{prefix}input_layernorm.weight"],
        qkv=grouped("qkv", "self_attn"),
        q_norm=weights.find(f"{prefix}self_attn.q_norm.weight"),
        k_norm=weights.find(f"{prefix}self_attn.k_norm.weight"),
        o=grouped("o", "self_attn"),
        ffn_norm=weights[f"{prefix}post_attention_layernorm.weight"],
        gate_up=grouped("gate_up", "mlp"),
        down=grouped("down", "mlp"),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InvalidRequest(
            f"{path.parent.name}: no {path.name}. A model is a folder in Hugging Face's layout."
        ) from None
    except ValueError as error:
        raise InvalidRequest(f"{path.parent.name}: {path.name} isn't JSON: {error}.") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{path.parent.name}: {path.name} isn't a JSON object.")
    return value
