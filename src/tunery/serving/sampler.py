"""From logits to the next token, and to log probabilities. Knows no text, no request and no cache.

Penalties and logit_bias follow OpenAI's definition (API reference, "frequency and presence penalties"):
logit[j] - count[j] * frequency_penalty - (count[j] > 0) * presence_penalty + bias[j], where count[j] is how often this
choice has generated token j so far (its prompt doesn't count). Temperature divides after that; top_p cuts last.
Log probabilities are those of the model itself: log-softmax of the raw logits, before all of the above.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
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

    @property
    def shifts_logits(self) -> bool:
        return bool(self.logit_bias) or bool(self.generated and (self.presence_penalty or self.frequency_penalty))


@dataclass(frozen=True, slots=True)
class Scored:
    """Log probability of a token, and of the most likely ones at its place, best first."""

    logprob: float
    top: list[tuple[int, float]]


def sample(logits: Tensor, choosers: Sequence[Chooser]) -> list[int]:
    """The next token of each row of logits[R, V]; the rows' choosers remember it."""
    logits = torch.stack([_shifted(row, chooser) for row, chooser in zip(logits, choosers, strict=True)])
    tokens = logits.argmax(-1).tolist()
    drawing = [row for row, chooser in enumerate(choosers) if chooser.temperature > 0]
    if drawing:
        for row, token in zip(drawing, _draw(logits[drawing], [choosers[row] for row in drawing]), strict=True):
            tokens[row] = token
    for chooser, token in zip(choosers, tokens, strict=True):
        chooser.generated[token] += 1
    return tokens


def score(logits: Tensor, tokens: Sequence[int], top: int) -> list[Scored]:
    """Log probabilities of tokens[R] under logits[R, V], with the `top` most likely alternatives of each row."""
    logprobs = logits.float().log_softmax(-1)
    chosen = logprobs.gather(1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].tolist()
    values, ids = logprobs.topk(top, dim=-1)
    return [
        Scored(logprob, list(zip(row_ids, row_values, strict=True)))
        for logprob, row_ids, row_values in zip(chosen, ids.tolist(), values.tolist(), strict=True)
    ]


def _shifted(row: Tensor, chooser: Chooser) -> Tensor:
    if not chooser.shifts_logits:
        return row
    shift = {token: bias for token, bias in chooser.logit_bias.items()}
    for token, count in chooser.generated.items():
        penalty = count * chooser.frequency_penalty + chooser.presence_penalty
        shift[token] = shift.get(token, 0.0) - penalty
    return row.index_add(0, torch.tensor(list(shift), device=row.device), row.new_tensor(list(shift.values())))


def _draw(logits: Tensor, choosers: Sequence[Chooser]) -> list[int]:
    """One uniform number a row and the inverse of the cumulative distribution, in float64."""
    temperatures = logits.new_tensor([chooser.temperature for chooser in choosers])
    probs = (logits.double() / temperatures[:, None].double()).softmax(-1)
    tokens = []
    for row, chooser in zip(probs, choosers, strict=True):
        ids, kept = _nucleus(row, chooser.top_p)
        cumulative = kept.cumsum(0)
        point = chooser.random.random() * cumulative[-1]
        place = int(torch.searchsorted(cumulative, point, right=True))
        place = min(place, len(kept) - 1)
        tokens.append(place if ids is None else int(ids[place]))
    return tokens


def _nucleus(probs: Tensor, top_p: float) -> tuple[Tensor | None, Tensor]:
    """The fewest tokens, most likely first, whose probability reaches top_p. Ids None: all, in the order of their ids."""
    if top_p >= 1:
        return None, probs
    kept, ids = probs.topk(min(NUCLEUS_GUESS, len(probs)))
    if kept.sum() < top_p:
        kept, ids = probs.sort(descending=True)
    cut = int(torch.searchsorted(kept.cumsum(0), top_p)) + 1
    return ids[:cut], kept[:cut]
