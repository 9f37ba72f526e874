"""A decoder's blocks as one compiled call (forward.py): what it is given, made of the decoder, a cache and adapters."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from tunery.models.decoder import GROUPS, Decoder, DecoderConfig, Linear
from tunery.models.tiles import ROWS
from tunery.serving import forward
from tunery.serving.adapters import BatchLora, CompiledLora, members_of
from tunery.serving.cache import BlockTable, KVCache
from tunery.serving.kernels import LOOKING_TOGETHER, groups_of
from tunery.serving.products import PanelLinear


class CompiledBlocks:
    """Of a float32 decoder on the CPU whose linear layers are panels."""

    cheap_rows = ROWS
    """See `Runner.cheap_rows`: those of a tile."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._config = config = decoder.config
        layers = decoder.layers
        linears = [(layer.qkv, layer.o, layer.gate_up, layer.down) for layer in layers]
        norms = [(layer.attention_norm, layer.ffn_norm, layer.q_norm, layer.k_norm) for layer in layers]
        self._blocks = forward.Blocks(
            matrices=np.array([[_place(linear) for linear in group] for group in linears]),
            norms=np.array([[0 if norm is None else norm.data_ptr() for norm in four] for four in norms]),
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            dim=config.head_dim,
            eps=float(config.rms_norm_eps),
        )
        self._members = members_of(config.layout)

    def hidden(
        self,
        token_ids: Tensor,
        positions: Tensor,
        cache: KVCache,
        chunks: Sequence[tuple[BlockTable, int]],
        lora: BatchLora | None,
    ) -> Tensor:
        """As `Decoder.hidden` with `BatchAttention(cache, chunks)`."""
        x = self._decoder.embedding[token_ids]
        cos, sin = (side.squeeze(1).numpy() for side in self._decoder.rotary(positions))
        slots, tables, lengths = _places(cache, chunks)
        keys, values = cache.keys.numpy(), cache.values.numpy()
        batch = forward.Batch(cos, sin, slots, _starts(chunks), tables, lengths, keys, values)
        adapters = self._adapters(len(x), lora)
        forward.run(x.numpy(), self._blocks, batch, adapters, _room(len(x), self._config))
        return x

    def _adapters(self, rows: int, lora: BatchLora | None) -> forward.Adapters:
        everywhere = np.full(rows, -1)
        if lora is None:
            nothing = np.empty((self._config.num_hidden_layers, len(GROUPS), 0, 4), np.int64)
            return forward.Adapters(groups_of(everywhere), everywhere, nothing, self._members)
        assert isinstance(lora, CompiledLora)
        everywhere[: len(lora.rows)] = lora.rows
        return forward.Adapters(groups_of(everywhere), everywhere, lora.matrices, lora.members)


def _place(linear: Linear) -> forward.Places:
    assert isinstance(linear, PanelLinear)
    return linear.place


def _places(
    cache: KVCache, chunks: Sequence[tuple[BlockTable, int]]
) -> tuple[forward.Places, forward.Places, forward.Places]:
    """Slots, tables and lengths of `forward.Batch`."""
    rows = [(table, place) for table, count in chunks for place in range(table.length - count, table.length)]
    slots = [slot for table, count in chunks for slot in cache.slots(table, table.length - count, table.length)]
    tables = np.zeros((len(rows), max(len(table.blocks) for table, _ in chunks)), np.int64)
    for row, (table, _) in enumerate(rows):
        tables[row, : len(table.blocks)] = table.blocks
    return np.array(slots), tables, np.array([place + 1 for _, place in rows])


def _starts(chunks: Sequence[tuple[BlockTable, int]]) -> forward.Places:
    """See `forward.Batch`; as many neighbours as there may be."""
    starts: list[int] = []
    row = 0
    for _, count in chunks:
        starts += range(row, row + count, LOOKING_TOGETHER)
        row += count
    return np.array([*starts, row])


def _room(rows: int, config: DecoderConfig) -> forward.Room:
    """Its arrays, in one piece."""
    heads = config.num_attention_heads * config.head_dim
    values = config.num_key_value_heads * config.head_dim
    hidden, inner = config.hidden_size, config.intermediate_size
    widths = [hidden, heads + 2 * values, heads, 2 * inner, inner, hidden]
    parts = np.split(np.empty(rows * sum(widths), np.float32), rows * np.cumsum(widths)[:-1])
    return forward.Room(*(part.reshape(rows, width) for part, width in zip(parts, widths, strict=True)))
