"""What a batch teaches: answers as such (supervised), or one answer over another (preferences). Knows no optimiser.

Supervised: the mean negative log likelihood of the batch's loss-bearing tokens.

Preferences: examples 2i and 2i + 1 are the chosen and the rejected answer to one prompt, which their tree holds once.
Loss is DPO's (arXiv 2305.18290, equation 7), the mean over pairs of
-log sigmoid(beta * ((chosen - its reference) - (rejected - its reference))), where an answer counts by the log
probability of all its loss-bearing tokens, and its reference is what the model that the job started from gives it.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tunery.models.decoder import LowRank, Model
from tunery.training.batches import Example, micro_batches, tree_of
from tunery.training.losses import Floats, evaluate, evaluate_and_backpropagate, evaluate_and_backpropagate_examples
from tunery.training.metrics import Measured, PairTally, Tally


class Objective(Protocol):
    """Trees have at most `micro_batch_tokens` nodes; a larger one, of one example or pair, is computed twice."""

    def train(self, batch: Sequence[Example]) -> Measured:
        """Adds the gradient of the batch's loss to the adapter's."""
        ...

    def evaluate(self, batch: Sequence[Example]) -> Measured: ...


class Supervised:
    def __init__(self, decoder: Model, lora: LowRank, micro_batch_tokens: int) -> None:
        self._decoder, self._lora, self._micro_batch_tokens = decoder, lora, micro_batch_tokens

    def train(self, batch: Sequence[Example]) -> Tally:
        loss_tokens = sum(len(example.targets) for example in batch)
        tally = Tally()
        for part in micro_batches(batch, self._micro_batch_tokens):
            tree = tree_of(part)
            recompute = len(tree) > self._micro_batch_tokens
            outcome = evaluate_and_backpropagate(
                self._decoder, tree, self._lora, loss_tokens=loss_tokens, recompute=recompute
            )
            tally.add(tree, outcome)
        return tally

    def evaluate(self, batch: Sequence[Example]) -> Tally:
        tally = Tally()
        for part in micro_batches(batch, self._micro_batch_tokens):
            tree = tree_of(part)
            tally.add(tree, evaluate(self._decoder, tree, self._lora))
        return tally


class Reference:
    """Log probabilities under the model that a job starts from, each worked out when it is first asked for.

    An answer is computed in the same company whenever that is, so that a run that goes on gets the same bits.
    """

    def __init__(
        self,
        decoder: Model,
        start: LowRank | None,
        companies: Iterable[Sequence[Example]],
        micro_batch_tokens: int,
    ) -> None:
        """`start`: the adapter tuned further, None for a fresh one. `companies` hold each pair once."""
        self._decoder, self._start, self._micro_batch_tokens = decoder, start, micro_batch_tokens
        self._company = {example: company for company in companies for example in company}
        self._known: dict[Example, float] = {}

    def of(self, examples: Sequence[Example]) -> Floats:
        for example in examples:
            if example not in self._known:
                self._learn(self._company[example])
        return np.array([self._known[example] for example in examples])

    def _learn(self, company: Sequence[Example]) -> None:
        for part in micro_batches(company, self._micro_batch_tokens, together=2):
            tree = tree_of(part)
            found = evaluate(self._decoder, tree, self._start).log_probabilities(tree)
            self._known.update(zip(part, found.tolist(), strict=True))


class Preferences:
    def __init__(
        self, decoder: Model, lora: LowRank, reference: Reference, micro_batch_tokens: int, *, beta: float
    ) -> None:
        self._decoder, self._lora, self._micro_batch_tokens = decoder, lora, micro_batch_tokens
        self._reference, self._beta = reference, beta

    def train(self, batch: Sequence[Example]) -> PairTally:
        pairs = len(batch) // 2
        tally = PairTally()
        for part in micro_batches(batch, self._micro_batch_tokens, together=2):
            tree, reference = tree_of(part), self._reference.of(part)

            def slopes(found: Floats, reference: Floats = reference) -> Floats:
                return _slopes(self._rewards(found, reference), self._beta / pairs)

            recompute = len(tree) > self._micro_batch_tokens
            outcome = evaluate_and_backpropagate_examples(self._decoder, tree, self._lora, slopes, recompute=recompute)
            rewards = self._rewards(outcome.log_probabilities(tree), reference)
            tally.add(tree, outcome, _losses(rewards), rewards)
        return tally

    def evaluate(self, batch: Sequence[Example]) -> PairTally:
        tally = PairTally()
        for part in micro_batches(batch, self._micro_batch_tokens, together=2):
            tree = tree_of(part)
            outcome = evaluate(self._decoder, tree, self._lora)
            rewards = self._rewards(outcome.log_probabilities(tree), self._reference.of(part))
            tally.add(tree, outcome, _losses(rewards), rewards)
        return tally

    def _rewards(self, found: Floats, reference: Floats) -> Tensor:
        """[pairs, 2]: of the chosen and of the rejected answer."""
        return self._beta * (torch.from_numpy(found) - torch.from_numpy(reference)).view(-1, 2)


def _losses(rewards: Tensor) -> Tensor:
    """[pairs]"""
    return -F.logsigmoid(rewards[:, 0] - rewards[:, 1])


def _slopes(rewards: Tensor, scale: float) -> Floats:
    """[2 * pairs]: derivatives of `_losses` by log probabilities, times scale / beta."""
    pull = torch.sigmoid(rewards[:, 1] - rewards[:, 0]) * scale
    slopes: Floats = torch.stack([-pull, pull], dim=1).view(-1).numpy()
    return slopes
