"""Reads a folder of any other architecture into a `WrappedModel`, with transformers. Needs the extra `other-models`.

What our attention can't express is refused, by name where it has one, and otherwise by a trial: a short tree of tokens
must give the logits that transformers' own attention gives. Never unpickles, never runs a folder's code, no network.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tunery.errors import InvalidRequest
from tunery.models import trial
from tunery.models.layout import Layout
from tunery.models.wrapped import WrappedConfig, WrappedModel, attention

_ATTENTION = "tunery"
_FAILURES = (OSError, ImportError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError)
"""What transformers raises for a folder or an architecture that it can't run."""


def load(folder: Path, device: torch.device, dtype: torch.dtype) -> WrappedModel:
    """Raises InvalidRequest, naming architecture and feature, for what can't be run exactly."""
    raw = json.loads((folder / "config.json").read_text("utf-8"))
    architecture = str(raw.get("model_type"))
    try:
        _refuse_by_config(raw)
        return _load(folder, architecture, device, dtype)
    except (InvalidRequest, *_FAILURES) as error:
        why = error.message if isinstance(error, InvalidRequest) else f"transformers says: {error!r}"[:500]
        raise InvalidRequest(f"{folder.name}: architecture '{architecture}' can't be used. {why}") from error


def _load(folder: Path, architecture: str, device: torch.device, dtype: torch.dtype) -> WrappedModel:
    model = _pretrained(folder, dtype).to(device).requires_grad_(False).eval()
    text = model.config.get_text_config()
    config = WrappedConfig(
        architecture=architecture,
        vocab_size=text.vocab_size,
        num_hidden_layers=text.num_hidden_layers,
        num_key_value_heads=0,
        head_dim=0,
        max_position_embeddings=_longest(text),
        layout=_layout(model),
    )
    expected = trial.expected_logits(model, config.vocab_size)
    model.set_attn_implementation(_ATTENTION)
    wrapped = WrappedModel(model, config, _blocks(model))
    heads, head_dim = trial.compare(wrapped, expected, _windows(text))
    wrapped.config = replace(config, num_key_value_heads=heads, head_dim=head_dim)
    return wrapped


def _pretrained(folder: Path, dtype: torch.dtype) -> Any:
    try:
        import transformers  # noqa: PLC0415 (an extra, and slow to import)
    except ImportError:
        raise InvalidRequest(
            "It runs through transformers, which isn't installed. Install the extra: pip install tunery[other-models]"
        ) from None
    transformers.AttentionInterface.register(_ATTENTION, attention)
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation="eager",
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    lacking = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if lacking:
        raise InvalidRequest(f"The weights lack {lacking[0]}, or have it in another shape.")
    return model


def _refuse_by_config(raw: Mapping[str, Any]) -> None:
    text = raw.get("text_config") or raw
    kinds = set(text.get("layer_types") or ()) - {"full_attention", "sliding_attention"}
    ropes = [rope.get("rope_type") or rope.get("type") for rope in _ropes(text)]
    refused = {
        "quantised weights": raw.get("quantization_config"),
        "code of its own": "auto_map" in raw and "model_type" not in raw,
        "an encoder": raw.get("is_encoder_decoder"),
        "cross attention": text.get("add_cross_attention"),
        "attention in chunks": text.get("attention_chunk_size"),
        "rotary positions that depend on the batch's longest text ('dynamic')": "dynamic" in ropes,
        f"layers of kind {', '.join(sorted(kinds))}": kinds,
    }
    for feature, there in refused.items():
        if there:
            raise InvalidRequest(f"It uses {feature}, which isn't supported.")


def _ropes(text: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Of all layers, or one for each kind of layer."""
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    return list(rope.values()) if rope and all(isinstance(value, dict) for value in rope.values()) else [rope]


def _longest(text: Any) -> int:
    """`longrope` changes its wavelengths beyond the original length, by the longest text of a batch: stop there."""
    if not isinstance(getattr(text, "max_position_embeddings", None), int):
        raise InvalidRequest("Its config.json says no longest text (max_position_embeddings).")
    lengths: list[int] = [text.max_position_embeddings]
    for rope in _ropes(text.to_dict()):
        if rope.get("rope_type") == "longrope":
            lengths.append(rope.get("original_max_position_embeddings") or text.original_max_position_embeddings)
    return min(lengths)


def _windows(text: Any) -> list[bool]:
    """Which layers config.json says see a window only."""
    kinds = getattr(text, "layer_types", None)
    if kinds is not None:
        return [kind == "sliding_attention" for kind in kinds]
    windowed = bool(getattr(text, "sliding_window", None)) and getattr(text, "use_sliding_window", True)
    return [windowed] * text.num_hidden_layers


def _layout(model: Any) -> Layout:
    """PEFT's "all-linear" rule: every nn.Linear and Conv1D but the output head."""
    from transformers.pytorch_utils import Conv1D  # noqa: PLC0415 (an extra)

    head = model.get_output_embeddings()
    linears = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }
    inside = f"{model.base_model_prefix}."
    outside = [path for path in linears if not path.startswith(inside)]
    if outside:
        raise InvalidRequest(f"{type(model).__name__} has a linear layer behind its last block, {outside[0]}.")
    return Layout(
        num_blocks=1,
        groups={path: (path,) for path in linears},
        features={path: _features(module) for path, module in linears.items()},
        paths={path: (path,) for path in linears},
        target_modules=_target_modules(model, list(linears)),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in linears.values()),
    )


def _features(module: Any) -> tuple[int, int]:
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    inputs, outputs = module.weight.shape
    return inputs, outputs


def _target_modules(model: Any, paths: list[str]) -> tuple[str, ...]:
    """Last parts of the names if they mean these layers alone, as PEFT reads them, or else the whole names."""
    short = {path.rsplit(".", 1)[-1] for path in paths}
    meant = [path for path, _ in model.named_modules() if path.rsplit(".", 1)[-1] in short]
    return tuple(sorted(short if set(meant) == set(paths) else paths))


def _blocks(model: Any) -> list[nn.Module]:
    from transformers.modeling_layers import GradientCheckpointingLayer  # noqa: PLC0415 (an extra)

    return [module for module in model.base_model.modules() if isinstance(module, GradientCheckpointingLayer)]
