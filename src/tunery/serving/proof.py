"""Shows that an adapter answers here as it did where it was trained, or how far from that quantised weights are.

Knows no request and no running sequence.
"""

import math

from torch import Tensor

from tunery.errors import EngineUnavailable, InvalidRequest
from tunery.models.probe import TOLERANCE, Probe
from tunery.serving.adapters import ServedAdapter
from tunery.serving.cache import BlockTable, KVCache
from tunery.serving.prefix import BLOCK_SIZE
from tunery.serving.runner import Runner, Span
from tunery.weights import Agreement

LONGEST = 4096
"""Tokens of a probe."""
QUANTIZED_TOLERANCE = 1.0
"""Nats on average over a probe, for what no rounding of weights does; less is reported, not judged.

int8 weights of the bundled base are at 0.10, with random adapters at 0.10 to 0.13, and at 0.43 with one that turns
every answer into another. Rotary angles wrong by half are at 1.2, two late layers in each other's place at 8, an
adapter at half its scale at 0.1 to 8: what is too weak to be seen here, the proof of float32 weights finds.
"""


def prove(runner: Runner, adapter: ServedAdapter | None, probe: Probe | None, *, quantized: bool) -> Agreement | None:
    """Runs a probe through the code that serves; without one, only sees that the output is finite.

    Returns how closely quantised weights agree with it. Raises EngineUnavailable with the difference.
    """
    if probe is None:
        _logits(runner, adapter, [0])
        return None
    found = probe.agreement(dict(enumerate(_logits(runner, adapter, probe.token_ids))))
    if quantized:
        _judge_quantized(found)
        return found
    judge(found.largest_difference, TOLERANCE)
    return None


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


def _judge_quantized(agreement: Agreement) -> None:
    """Raises EngineUnavailable for a difference that no rounding of weights makes; see QUANTIZED_TOLERANCE."""
    if agreement.mean_difference > QUANTIZED_TOLERANCE:
        raise EngineUnavailable(
            f"With quantised weights the model doesn't answer as it did: its log probabilities differ by "
            f"{agreement.mean_difference:.3g} on average, more than {QUANTIZED_TOLERANCE}. Deploy it without "
            "quantization."
        )


def _check(probe: Probe, vocab_size: int) -> None:
    """An adapter may come from anywhere, and so may its probe."""
    tokens = [*probe.token_ids, *(token for top in probe.top_logprobs.values() for token, _ in top)]
    known = all(0 <= token < vocab_size for token in tokens)
    placed = all(0 <= place < len(probe.token_ids) for place in probe.top_logprobs)
    if not (known and placed and 0 < len(probe.token_ids) <= LONGEST and any(probe.top_logprobs.values())):
        raise InvalidRequest("The adapter's probe isn't one of this base.")


def _logits(runner: Runner, adapter: ServedAdapter | None, tokens: list[int]) -> Tensor:
    # A cache of its own: that of the running sequences may be full.
    decoder = runner.decoder
    cache = KVCache(decoder.config, len(tokens) + BLOCK_SIZE, device=decoder.device, dtype=decoder.dtype)
    table = BlockTable()
    cache.extend(table, len(tokens))
    span = Span(tokens=tokens, table=table, adapter=adapter, wanted=len(tokens))
    logits = runner.run(cache, [span])
    if not logits.isfinite().all():
        raise EngineUnavailable("The adapter's output isn't finite." if adapter else "The model's output isn't finite.")
    return logits
