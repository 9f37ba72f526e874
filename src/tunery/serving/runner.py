"""One forward pass over pieces of many sequences, each with its own cache and adapter. Knows no request and no text."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from tunery.models.decoder import Model
from tunery.serving.adapters import BatchLora, ServedAdapter, batch_lora
from tunery.serving.cache import BatchAttention, BlockTable, KVCache
from tunery.serving.compiled import blocks_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The newest tokens of a sequence; `table` has room for them already."""

    tokens: list[int]
    table: BlockTable
    adapter: ServedAdapter | None
    wanted: int
    """How many of the last rows' logits are asked for."""

    @property
    def start(self) -> int:
        return self.table.length - len(self.tokens)


class Runner:
    """Of one decoder; a step is one compiled call where there is one."""

    def __init__(self, decoder: Model) -> None:
        self.decoder = decoder
        self._blocks = blocks_for(decoder)

    @property
    def compiled(self) -> bool:
        """All blocks are one call, so that little of a step is torch's."""
        return self._blocks is not None

    @property
    def cheap_rows(self) -> int:
        """Up to so many a step takes hardly longer than for one: it reads the weights once."""
        return self._blocks.cheap_rows if self._blocks else 1

    def run(self, cache: KVCache, spans: Sequence[Span]) -> Tensor:
        """Fills the cache and returns the spans' wanted logits [rows, V]. Spans of one adapter come together."""
        if not spans:
            return torch.empty(0, self.decoder.config.vocab_size)
        device = self.decoder.device
        tokens = torch.tensor([token for span in spans for token in span.tokens], device=device)
        places = [place for span in spans for place in range(span.start, span.table.length)]
        chunks = [(span.table, len(span.tokens)) for span in spans]
        hidden = self._hidden(tokens, torch.tensor(places, device=device), cache, chunks, self._lora(cache, spans))
        return self.decoder.logits(hidden[_wanted_rows(spans)])

    def _hidden(
        self,
        tokens: Tensor,
        positions: Tensor,
        cache: KVCache,
        chunks: list[tuple[BlockTable, int]],
        lora: BatchLora | None,
    ) -> Tensor:
        if self._blocks:
            return self._blocks.hidden(tokens, positions, cache, chunks, lora)
        return self.decoder.hidden(tokens, positions, BatchAttention(cache, chunks), lora)

    def _lora(self, cache: KVCache, spans: Sequence[Span]) -> BatchLora | None:
        terms, row = [], 0
        for adapter, members in groupby(spans, key=lambda span: span.adapter):
            end = row + sum(len(span.tokens) for span in members)
            if adapter:
                terms.append((adapter, row, end))
            row = end
        return batch_lora(self.decoder.config.layout, terms, cache.kernels) if terms else None


def _wanted_rows(spans: Sequence[Span]) -> list[int]:
    rows: list[int] = []
    end = 0
    for span in spans:
        end += len(span.tokens)
        rows += range(end - span.wanted, end)
    return rows
