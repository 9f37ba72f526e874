"""From logits to the next token, and to log probabilities. Knows no text, no request and no cache.

Penalties and logit_bias follow OpenAI's definition (API reference, "frequency and presence penalties"):
logit[j] - count[j] * frequency_penalty - (count[j] > 0) * presence_penalty + bias[j], where count[j] is how often this
choice has generated token j so far (its prompt doesn't count). What a grammar forbids is impossible then,
whatever its bias. Temperature divides after that; top_p cuts last.
Log probabilities are those of the model itself: log-softmax of the raw logits, before all of the above.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

import torch
from torch import Tensor

NUCLEUS_GUESS = 256
"""Tokens looked at first for top_p; the whole vocabulary is sorted only when they don't hold enough probability."""


@dataclass(slots=True, kw_only=True)
class Chooser:
    """How one choice picks its tokens. Its random numbers are its own, so its text depends on no other choice."""

    temperature: float = 1.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    random: Random = field(default_factory=Random)
    generated: Counter[int] = field(default_factory=Counter)

    def choose(self, logits: Tensor, allowed: Tensor | None = None) -> int:
        """The next token under logits[V], which it remembers for the penalties; one of allowed[V] if that is given."""
        with self._shifting(logits):
            possible = logits if allowed is None else logits.masked_fill(~allowed, -math.inf)
            token = self._draw(possible) if self.temperature > 0 else _most_likely(possible)
        self.generated[token] += 1
        return token

    @contextmanager
    def _shifting(self, logits: Tensor) -> Iterator[None]:
        """Penalties and bias are in the logits meanwhile: they are a few numbers, a copy would be the vocabulary."""
        shift = dict(self.logit_bias)
        if self.presence_penalty or self.frequency_penalty:
            for token, count in self.generated.items():
                shift[token] = shift.get(token, 0.0) - count * self.frequency_penalty - self.presence_penalty
        if not shift:
            yield
            return
        ids = torch.tensor(list(shift), device=logits.device)
        before = logits[ids]
        logits[ids] = before + logits.new_tensor(list(shift.values()))
        try:
            yield
        finally:
            logits[ids] = before

    def _draw(self, logits: Tensor) -> int:
        """One uniform number and the inverse of the cumulative distribution."""
        # float64: a float32 sum over a whole vocabulary is too coarse for rare tokens.
        probs = (logits.double() / self.temperature).softmax(0)
        ids, kept = (None, probs) if self.top_p >= 1 else _nucleus(probs, self.top_p)
        cumulative = kept.cumsum(0)
        point = self.random.random() * float(cumulative[-1])
        place = min(int(torch.searchsorted(cumulative, point, right=True)), len(kept) - 1)
        return place if ids is None else int(ids[place])


@dataclass(frozen=True, slots=True)
class Scored:
    """Log probability of a token, and of the most likely ones at its place, best first."""

    logprob: float
    top: list[tuple[int, float]]


def score(logits: Tensor, tokens: Sequence[int], top: int) -> list[Scored]:
    """Log probabilities of tokens[R] under logits[R, V], with the `top` most likely alternatives of each row."""
    if not tokens:
        return []
    logprobs = logits.float().log_softmax(-1)
    chosen = logprobs.gather(1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].tolist()
    values, ids = logprobs.topk(top, dim=-1)
    return [
        Scored(logprob, list(zip(row_ids, row_values, strict=True)))
        for logprob, row_ids, row_values in zip(chosen, ids.tolist(), values.tolist(), strict=True)
    ]


def _most_likely(logits: Tensor) -> int:
    """The first of logits[V] that is highest. numpy finds it ten times as fast as torch does (docs/log.md)."""
    return int(logits.numpy().argmax() if logits.is_cpu and logits.dtype == torch.float32 else logits.argmax())


def _nucleus(probs: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Ids and probabilities of the fewest tokens, most likely first, that reach top_p together."""
    kept, ids = probs.topk(min(NUCLEUS_GUESS, len(probs)))
    if kept.sum() < top_p:
        kept, ids = probs.sort(descending=True)
    cut = int(torch.searchsorted(kept.cumsum(0), top_p)) + 1
    return ids[:cut], kept[:cut]
