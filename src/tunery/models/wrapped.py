"""Any other decoder: transformers' code for it, with our attention and our adapters put into its places.

transformers hands every layer's queries, keys and values, with their positions, to a function that it looks up by
name (its AttentionInterface); ours passes them to the caller's `Attend`, and refuses what an `Attend` can't express.
Knows neither trees nor caches, nor where the model came from (wrapping.py).
"""

import copy
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tunery.errors import InvalidRequest
from tunery.models.decoder import Attend, LowRank
from tunery.models.layout import Layout

_ATTEND = "tunery_attend"


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
        rows: Tensor | None = None,
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
        return hidden if rows is None else hidden[rows]

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


def attention(
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
