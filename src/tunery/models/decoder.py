"""What training and serving ask of a base model, and a decoder of the Llama family over frozen weights that gives it.

It works on one flat axis of tokens: no batch, no padding. It doesn't know which tokens see which (the caller's
`Attend` decides: a tree mask, a KV cache), nor which adapter a token belongs to (the caller's `LowRank`), nor where
the weights came from (loader.py). Llama, Mistral, Qwen2 and Qwen3 differ only in which weights are there.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tunery.models.layout import Layout
from tunery.models.operations import Nothing, Operation, RmsNorm, SwiGlu, apply, linear, rotate


class Attend(Protocol):
    """Which tokens see which: a tree's mask, a KV cache."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int | None = None, /) -> Tensor:
        """q [T, heads, D], k [T, kv_heads, D], v [T, kv_heads, D] -> [T, heads, D], scaled by D ** -0.5.

        q and k already carry their positions. With a window a token sees itself and the window - 1 before it.
        """
        ...


Linear = Callable[[Tensor], Tensor]
"""x [T, in] -> [T, out]"""

GROUPS = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "o": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
"""Linear layers that share their input run as one: the group's output is its members' outputs side by side."""
NOTHING, SWIGLU = Nothing(), SwiGlu()
TARGETS = tuple(target for members in GROUPS.values() for target in members)
_PARENTS = {t: "self_attn" if group in ("qkv", "o") else "mlp" for group, members in GROUPS.items() for t in members}


class LowRank(Protocol):
    """What is added to each group of linear layers: one trained adapter, or many gathered by row."""

    def add(self, block: int, group: str, x: Tensor, y: Tensor, /) -> Tensor:
        """x [T, in] and the base's fresh y [T, out] of a group of the model's `Layout` -> y with the low-rank term."""
        ...

    def project(
        self, block: int, group: str, linear: Linear, x: Tensor, *, before: Operation, onto: Tensor | None
    ) -> Tensor:
        """linear(before(x)) with the low-rank term, + onto [T, out]."""
        x = apply(before, x)
        y = self.add(block, group, x, linear(x))
        return y if onto is None else onto + y


class ModelConfig(Protocol):
    """What caches, adapters and checks need to know of a model."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def num_hidden_layers(self) -> int: ...
    @property
    def num_key_value_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def max_position_embeddings(self) -> int:
        """Tokens of the longest sequence that it can read."""
        ...

    @property
    def layout(self) -> Layout: ...


class Model(Protocol):
    """A base model: this module's `Decoder`, or transformers' code for any other architecture (wrapped.py)."""

    @property
    def config(self) -> ModelConfig: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...

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
        """token_ids [T], positions [T] (int64, on the model's device) -> [T, hidden_size].

        With `rows` only these are returned, and computed once the last attention is over; `lora` then has to treat all
        rows alike. With `recompute` the backward pass computes each block again: a third more time, a fraction of the
        memory.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """[rows, hidden_size] -> [rows, vocab_size]. Pass only the rows whose logits are wanted."""
        ...


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3's stretch of the rotary wavelengths; fields as in config.json (arXiv 2407.21783, section 3.4)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of a model; field names are those of transformers' LlamaConfig."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    max_position_embeddings: int

    def features(self, target: str) -> tuple[int, int]:
        """(inputs, outputs) of one linear layer, by its name in `GROUPS`."""
        heads, kv_heads = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        return {
            "q_proj": (self.hidden_size, heads),
            "k_proj": (self.hidden_size, kv_heads),
            "v_proj": (self.hidden_size, kv_heads),
            "o_proj": (heads, self.hidden_size),
            "gate_proj": (self.hidden_size, self.intermediate_size),
            "up_proj": (self.hidden_size, self.intermediate_size),
            "down_proj": (self.intermediate_size, self.hidden_size),
        }[target]

    @cached_property
    def layout(self) -> Layout:
        blocks = range(self.num_hidden_layers)
        return Layout(
            num_blocks=self.num_hidden_layers,
            groups=GROUPS,
            features={target: self.features(target) for target in TARGETS},
            paths={t: tuple(f"model.layers.{i}.{_PARENTS[t]}.{t}" for i in blocks) for t in TARGETS},
            target_modules=tuple(sorted(TARGETS)),
        )


@dataclass(frozen=True)
class Layer:
    """One block's weights; q_norm and k_norm (per head, Qwen3) may be absent."""

    attention_norm: Tensor
    qkv: Linear
    q_norm: Tensor | None
    k_norm: Tensor | None
    o: Linear
    ffn_norm: Tensor
    gate_up: Linear
    down: Linear


class DenseLinear:
    """A frozen matrix [out, in] with an optional bias [out]."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight = weight
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Decoder:
    """Token ids -> hidden states -> logits. Holds no state between calls, so one object serves many threads."""

    def __init__(
        self,
        config: DecoderConfig,
        *,
        embedding: Tensor,
        layers: Sequence[Layer],
        final_norm: Tensor,
        head: Linear,
    ) -> None:
        self.config = config
        self.embedding = embedding
        self.layers = layers
        self.final_norm = final_norm
        self.head = head
        self._inverse_frequencies = inverse_frequencies(config).to(embedding.device)

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

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
        """See `Model.hidden`; before the last norm."""
        cos, sin = self.rotary(positions)
        x = self.embedding[token_ids]
        for index in range(len(self.layers)):
            wanted = rows if index == len(self.layers) - 1 else None
            if recompute:
                x = checkpoint(self._block, index, x, cos, sin, attend, lora, wanted, use_reentrant=False)
            else:
                x = self._block(index, x, cos, sin, attend, lora, wanted)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """See `Model.logits`."""
        return self.head(apply(self._norm(self.final_norm), hidden))

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [T, 1, head_dim / 2] of positions [T]."""
        angles = torch.outer(positions.to(torch.float32), self._inverse_frequencies)
        return angles.cos().to(self.dtype).unsqueeze(1), angles.sin().to(self.dtype).unsqueeze(1)

    def _block(
        self,
        index: int,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        attend: Attend,
        lora: LowRank | None,
        rows: Tensor | None,
    ) -> Tensor:
        layer = self.layers[index]
        mixed = self._mixed(index, layer, x, cos, sin, attend, lora)
        if rows is not None:
            x, mixed = x[rows], mixed[rows]
        x = _project(lora, index, "o", layer.o, mixed, onto=x)
        gate_up = _project(lora, index, "gate_up", layer.gate_up, x, before=self._norm(layer.ffn_norm))
        return _project(lora, index, "down", layer.down, gate_up, before=SWIGLU, onto=x)

    def _mixed(
        self, index: int, layer: Layer, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend, lora: LowRank | None
    ) -> Tensor:
        """What each token gathers from those it sees, [T, heads * D]."""
        c = self.config
        qkv = _project(lora, index, "qkv", layer.qkv, x, before=self._norm(layer.attention_norm))
        qkv = qkv.view(len(x), c.num_attention_heads + 2 * c.num_key_value_heads, c.head_dim)
        q, k, v = torch.split(qkv, [c.num_attention_heads, c.num_key_value_heads, c.num_key_value_heads], dim=1)
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = apply(self._norm(layer.q_norm), q), apply(self._norm(layer.k_norm), k)
        return attend(index, rotate(q, cos, sin), rotate(k, cos, sin), v).flatten(1)

    def _norm(self, weight: Tensor) -> RmsNorm:
        return RmsNorm(weight, self.config.rms_norm_eps)


def _project(
    lora: LowRank | None,
    block: int,
    group: str,
    linear: Linear,
    x: Tensor,
    *,
    before: Operation = NOTHING,
    onto: Tensor | None = None,
) -> Tensor:
    if lora is not None:
        return lora.project(block, group, linear, x, before=before, onto=onto)
    y = linear(apply(before, x))
    return y if onto is None else onto + y


def inverse_frequencies(config: DecoderConfig) -> Tensor:
    """[head_dim / 2] in float32."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).to(torch.float32) / config.head_dim
    plain = 1.0 / (config.rope_theta**exponents)
    scaling = config.rope_scaling
    if scaling is None:
        return plain
    wavelength = 2 * math.pi / plain
    original, low, high = scaling.original_max_position_embeddings, scaling.low_freq_factor, scaling.high_freq_factor
    smooth = ((original / wavelength - low) / (high - low)).clamp(0, 1)
    return (1 - smooth) * plain / scaling.factor + smooth * plain


def attend_causally(_layer: int, q: Tensor, k: Tensor, v: Tensor, window: int | None = None, /) -> Tensor:
    """The `Attend` of one whole sequence on its own."""
    band = None
    if window is not None and window < len(q):
        band = torch.ones(len(q), len(q), dtype=torch.bool, device=q.device).tril().triu(1 - window)
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=band, is_causal=band is None, enable_gqa=True)
    return mixed.squeeze(0).transpose(0, 1)
