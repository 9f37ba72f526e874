"""The numbers of results.csv, as contract.md 2.7 defines them, from the forward pass that trains."""

from dataclasses import dataclass

import numpy as np

from tunery.training.batches import Tree
from tunery.training.losses import Outcome


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
