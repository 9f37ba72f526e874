"""Shows that an adapter answers here as it did where it was trained. Knows no request and no running sequence."""

import torch

from tunery.errors import EngineUnavailable, InvalidRequest
from tunery.models.decoder import Decoder
from tunery.models.probe import Probe
from tunery.serving import runner
from tunery.serving.adapters import ServedAdapter
from tunery.serving.cache import BLOCK_SIZE, BlockTable, KVCache

TOLERANCE = 1e-2
"""Of log probabilities: room for another order of float32 sums, none for another scale or weight."""


def prove(decoder: Decoder, adapter: ServedAdapter, probe: Probe | None) -> None:
    """Runs the probe through the code that serves; without one, only sees that the output is finite.

    Raises EngineUnavailable with the difference, InvalidRequest for a probe of another model.
    """
    tokens = probe.token_ids if probe else [0]
    named = {*tokens, *(token for row in (probe.top if probe else []) for token, _ in row)}
    if max(named) >= decoder.config.vocab_size or min(named) < 0:
        raise InvalidRequest("The adapter's probe has tokens that this base doesn't have.")
    logits = _logits(decoder, adapter, tokens)
    if not logits.isfinite().all():
        raise EngineUnavailable("The adapter's output isn't finite.")
    if probe and (difference := probe.difference(logits)) > TOLERANCE:
        raise EngineUnavailable(
            f"The adapter doesn't answer as it did when it was trained: its log probabilities differ by up to "
            f"{difference:.3g}, more than {TOLERANCE}."
        )


def _logits(decoder: Decoder, adapter: ServedAdapter, tokens: list[int]) -> torch.Tensor:
    # A cache of its own: that of the running sequences may be full.
    cache = KVCache(decoder.config, len(tokens) + BLOCK_SIZE, device=decoder.device, dtype=decoder.dtype)
    table = BlockTable()
    cache.extend(table, len(tokens))
    span = runner.Span(tokens=tokens, table=table, adapter=adapter, wanted=len(tokens))
    (logits,) = runner.run(decoder, cache, [span])
    return logits
