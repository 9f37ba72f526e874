"""The numbers of results.csv, as contract.md 2.7 defines them, from the forward pass that trains."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from torch import Tensor

from tunery.messages import Rewards
from tunery.training.batches import Tree
from tunery.training.losses import Outcome


class Measured(Protocol):
    """What a batch or a whole file was found to be like."""

    @property
    def loss(self) -> float: ...
    @property
    def tokens(self) -> int:
        """Loss-bearing tokens."""
        ...

    @property
    def sequence_accuracy(self) -> float: ...
    @property
    def token_accuracy(self) -> float: ...
    @property
    def rewards(self) -> Rewards | None: ...


@dataclass(slots=True)
class Tally:
    """Sums over the examples of a batch or of a whole file."""

    loss_sum: float = 0.0
    tokens: int = 0
    """Loss-bearing tokens."""
    right_tokens: int = 0
    sequences: int = 0
    right_sequences: int = 0
    """Sequences of which every loss-bearing token was predicted right."""

    def add(self, tree: Tree, outcome: Outcome) -> None:
        self.loss_sum += outcome.loss_sum
        self.tokens += int(tree.edge_counts.sum())
        self.right_tokens += int((tree.edge_counts * outcome.right).sum())
        self.sequences += len(tree.example_edges)
        self.right_sequences += sum(bool(np.all(outcome.right[edges])) for edges in tree.example_edges)

    @property
    def loss(self) -> float:
        """Mean over loss-bearing tokens, in nats."""
        return self.loss_sum / self.tokens

    @property
    def sequence_accuracy(self) -> float:
        return self.right_sequences / self.sequences

    @property
    def token_accuracy(self) -> float:
        return self.right_tokens / self.tokens

    @property
    def rewards(self) -> None:
        return None


@dataclass(slots=True)
class PairTally:
    """Sums over the pairs of a batch or of a whole file; accuracies are of the chosen answers."""

    pairs: int = 0
    tokens: int = 0
    """Loss-bearing ones, of both answers."""
    loss_sum: float = 0.0
    chosen_sum: float = 0.0
    rejected_sum: float = 0.0
    ranked_right: int = 0
    chosen: Tally = field(default_factory=Tally)

    def add(self, tree: Tree, outcome: Outcome, losses: Tensor, rewards: Tensor) -> None:
        """`losses` [pairs] and `rewards` [pairs, 2] of a tree whose examples 2i and 2i + 1 are a pair."""
        self.pairs += len(losses)
        self.tokens += int(tree.edge_counts.sum())
        self.loss_sum += float(losses.sum())
        self.chosen_sum += float(rewards[:, 0].sum())
        self.rejected_sum += float(rewards[:, 1].sum())
        self.ranked_right += int((rewards[:, 0] > rewards[:, 1]).sum())
        for edges in tree.example_edges[::2]:
            right = outcome.right[edges]
            self.chosen.tokens += len(edges)
            self.chosen.right_tokens += int(right.sum())
            self.chosen.sequences += 1
            self.chosen.right_sequences += bool(right.all())

    @property
    def loss(self) -> float:
        """Mean over pairs, in nats."""
        return self.loss_sum / self.pairs

    @property
    def sequence_accuracy(self) -> float:
        return self.chosen.sequence_accuracy

    @property
    def token_accuracy(self) -> float:
        return self.chosen.token_accuracy

    @property
    def rewards(self) -> Rewards:
        chosen, rejected = self.chosen_sum / self.pairs, self.rejected_sum / self.pairs
        return Rewards(
            chosen=chosen, rejected=rejected, accuracies=self.ranked_right / self.pairs, margins=chosen - rejected
        )
