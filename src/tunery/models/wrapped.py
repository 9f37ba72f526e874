"""Any other decoder: transformers' code for it, with our attention and our adapters put into its places.

transformers hands every layer's queries, keys and values, with their positions, to a function that it looks up by
name (its AttentionInterface); ours passes them to the caller's `Attend`. What an `Attend` can't express is refused
when the model is loaded, by name where it has one, and otherwise by a trial: a short tree of tokens must give the
logits that transformers' own attention gives. Knows neither trees nor caches. Needs the extra `other-models`.
"""

import copy
import json
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tunery.errors import InvalidRequest
from tunery.models import trial
from tunery.models.decoder import Attend, LowRank
from tunery.models.layout import Layout

_ATTENTION = "tunery"
_ATTEND = "tunery_attend"
_FAILURES = (OSError, ImportError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError)
"""What transformers raises for a folder or an architecture that it can't run."""


@dataclass(frozen=True, slots=True)
class WrappedConfig:
    """Sizes of a model, as its weights have them."""

    architecture: str
    vocab_size: int
    num_hidden_layers: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    layout: Layout


@dataclass(frozen=True, slots=True)
class _Call:
    """What one forward pass was asked for, on its way to the linear layers and blocks."""

    lora: LowRank | None = None
    recompute: bool = False


class WrappedModel:
    """A `Model`. What a call asks for is kept by thread, so one object serves many threads."""

    def __init__(self, model: Any, config: WrappedConfig, blocks: list[nn.Module]) -> None:
        """`model`: a PreTrainedModel with a language modelling head whose attention function is ours."""
        self.config = config
        self._model = model
        self._backbone = model.base_model
        self._head = _head(model)
        self._local = threading.local()
        for path in config.layout.targets:
            self._give_lora(path, model.get_submodule(path))
        for block in blocks:
            self._let_recompute(block)

    @property
    def device(self) -> torch.device:
        device: torch.device = self._model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self._model.dtype
        return dtype

    def hidden(
        self,
        token_ids: Tensor,
        positions: Tensor,
        attend: Attend,
        lora: LowRank | None = None,
        *,
        recompute: bool = False,
    ) -> Tensor:
        """See `Model.hidden`. Raises InvalidRequest for a position that the model doesn't have."""
        longest = self.config.max_position_embeddings
        if int(positions.max()) >= longest:
            raise InvalidRequest(f"The base model reads {longest} tokens at most; this text is longer.")
        with self._calling(_Call(lora, recompute)):
            found = self._backbone(
                input_ids=token_ids[None], position_ids=positions[None], use_cache=False, **{_ATTEND: attend}
            )
        hidden: Tensor = found.last_hidden_state[0]
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """See `Model.logits`."""
        logits: Tensor = self._head(inputs_embeds=hidden[None], use_cache=False).logits[0]
        return logits

    @contextmanager
    def _calling(self, call: _Call) -> Iterator[None]:
        before = getattr(self._local, "call", None)
        self._local.call = call
        try:
            yield
        finally:
            self._local.call = before

    def _give_lora(self, path: str, module: Any) -> None:
        plain = module.forward

        def forward(x: Tensor) -> Tensor:
            call: _Call | None = getattr(self._local, "call", None)
            if call is None or call.lora is None:
                return plain(x)  # type: ignore[no-any-return]
            rows = x.reshape(-1, x.shape[-1])
            return call.lora.add(0, path, rows, plain(rows)).view(*x.shape[:-1], -1)

        module.forward = forward

    def _let_recompute(self, block: Any) -> None:
        plain = block.forward

        def forward(*arguments: Any, **named: Any) -> Any:
            call: _Call = self._local.call
            if not call.recompute:
                return plain(*arguments, **named)

            def again(*arguments: Any) -> Any:
                with self._calling(call):
                    return plain(*arguments, **named)

            return checkpoint(again, *arguments, use_reentrant=False)

        block.forward = forward


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
    transformers.AttentionInterface.register(_ATTENTION, _attention)
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


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **given: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: [1, heads, T, D] -> [1, T, heads, D]; see its AttentionInterface."""
    refused = {
        "attention with a mask of its own": attention_mask is not None,
        "attention that sees what comes later": given.get("is_causal") is False,
        "attention soft-capping": given.get("softcap") is not None,
        "attention sinks": given.get("s_aux") is not None,
        "attention with a position bias": given.get("position_bias") is not None,
        "attention that isn't handed what it needs": _ATTEND not in given or not hasattr(module, "layer_idx"),
        "attention whose keys and values differ in size": key.shape[-1] != value.shape[-1],
    }
    for feature, there in refused.items():
        if there:
            raise InvalidRequest(f"{type(module).__name__} uses {feature}, which isn't supported.")
    usual = query.shape[-1] ** -0.5
    if scaling is not None and not math.isclose(scaling, usual):
        query = query * (scaling / usual)
    q, k, v = (side[0].transpose(0, 1) for side in (query, key, value))
    return given[_ATTEND](module.layer_idx, q, k, v, sliding_window)[None], None


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


def _head(model: Any) -> Any:
    """The same model and weights, but its backbone hands out what it is given: what comes after it is left."""
    head = copy.copy(model)
    head.__dict__["_modules"] = {**model._modules, model.base_model_prefix: _Given()}
    return head


class _Given(nn.Module):
    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> "_Handed":
        return _Handed((inputs_embeds,))


class _Handed(tuple[Tensor]):
    """A backbone's output with nothing in it but hidden states, whatever else a head looks for."""

    def __getattr__(self, name: str) -> Tensor | None:
        return self[0] if name == "last_hidden_state" else None
