"""One forward pass over pieces of many sequences, each with its own cache and adapter. Knows no request and no text."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from types import ModuleType

import torch
from torch import Tensor

from tunery.models.decoder import Model
from tunery.models.layout import Layout
from tunery.serving.adapters import BatchLora, ServedAdapter
from tunery.serving.cache import BatchAttention, BlockTable, KVCache


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


def run(decoder: Model, cache: KVCache, spans: Sequence[Span]) -> list[Tensor]:
    """Fills the cache and returns the wanted logits [wanted, V] of each span. Spans of one adapter come together."""
    if not spans:
        return []
    tokens = [token for span in spans for token in span.tokens]
    positions = [place for span in spans for place in range(span.start, span.table.length)]
    hidden = decoder.hidden(
        torch.tensor(tokens, device=decoder.device),
        torch.tensor(positions, device=decoder.device),
        BatchAttention(cache, [(span.table, len(span.tokens)) for span in spans]),
        _lora(decoder.config.layout, cache.kernels, spans),
    )
    logits = decoder.logits(hidden[_wanted_rows(spans)])
    return list(torch.split(logits, [span.wanted for span in spans]))


def _wanted_rows(spans: Sequence[Span]) -> list[int]:
    rows: list[int] = []
    end = 0
    for span in spans:
        end += len(span.tokens)
        rows += range(end - span.wanted, end)
    return rows


def _lora(layout: Layout, kernels: ModuleType | None, spans: Sequence[Span]) -> BatchLora | None:
    terms, row = [], 0
    for adapter, members in groupby(spans, key=lambda span: span.adapter):
        end = row + sum(len(span.tokens) for span in members)
        if adapter:
            terms.append((adapter, row, end))
        row = end
    return BatchLora(layout, terms, kernels) if terms else None
