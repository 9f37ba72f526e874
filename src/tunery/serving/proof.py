"""Shows that an adapter answers here as it did where it was trained. Knows no request and no running sequence."""

import math

from torch import Tensor

from tunery.errors import EngineUnavailable, InvalidRequest
from tunery.models.probe import TOLERANCE, Probe
from tunery.serving.adapters import ServedAdapter
from tunery.serving.cache import BlockTable, KVCache
from tunery.serving.prefix import BLOCK_SIZE
from tunery.serving.runner import Runner, Span

LONGEST = 4096
"""Tokens of a probe."""


def prove(runner: Runner, adapter: ServedAdapter, directory: str) -> None:
    """Runs the adapter's probe through the code that serves; without one, only sees that the output is finite.

    Raises EngineUnavailable with the difference, InvalidRequest for a probe that isn't one of this base.
    """
    probe = read(directory, runner.decoder.config.vocab_size)
    if probe is None:
        _logits(runner, adapter, [0])
    else:
        judge(probe.largest_difference(dict(enumerate(_logits(runner, adapter, probe.token_ids)))), TOLERANCE)


def read(directory: str, vocab_size: int) -> Probe | None:
    """The probe beside an adapter, None if it was trained elsewhere. Raises InvalidRequest if it isn't this base's."""
    try:
        probe = Probe.load(directory)
    except FileNotFoundError:
        return None
    _check(probe, vocab_size)
    return probe


def judge(difference: float, tolerance: float) -> None:
    """Raises EngineUnavailable if trainer and server differ by more nats than that, or by what is no number."""
    if not math.isfinite(difference):
        raise EngineUnavailable("The adapter's output isn't finite.")
    if difference > tolerance:
        raise EngineUnavailable(
            f"The adapter doesn't answer as it did when it was trained: its log probabilities differ by up to "
            f"{difference:.3g}, more than {tolerance}."
        )


def _check(probe: Probe, vocab_size: int) -> None:
    """An adapter may come from anywhere, and so may its probe."""
    tokens = [*probe.token_ids, *(token for top in probe.top_logprobs.values() for token, _ in top)]
    known = all(0 <= token < vocab_size for token in tokens)
    placed = all(0 <= place < len(probe.token_ids) for place in probe.top_logprobs)
    if not (known and placed and 0 < len(probe.token_ids) <= LONGEST and any(probe.top_logprobs.values())):
        raise InvalidRequest("The adapter's probe isn't one of this base.")


def _logits(runner: Runner, adapter: ServedAdapter, tokens: list[int]) -> Tensor:
    # A cache of its own: that of the running sequences may be full.
    decoder = runner.decoder
    cache = KVCache(decoder.config, len(tokens) + BLOCK_SIZE, device=decoder.device, dtype=decoder.dtype)
    table = BlockTable()
    cache.extend(table, len(tokens))
    span = Span(tokens=tokens, table=table, adapter=adapter, wanted=len(tokens))
    logits = runner.run(cache, [span])
    if not logits.isfinite().all():
        raise EngineUnavailable("The adapter's output isn't finite.")
    return logits
