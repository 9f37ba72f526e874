import numpy as np
import pytest

from tunery.training.batches import Example, tree_of
from tunery.training.losses import Outcome
from tunery.training.metrics import Tally


def tally_of(targets: list[list[int]], predictions: list[list[int]]) -> Tally:
    """As if a model had predicted these tokens after prompts that differ."""
    batch = [
        Example(i, np.array([100 + i, *target]), np.array([False] + [True] * len(target)))
        for i, target in enumerate(targets)
    ]
    tree = tree_of(batch)
    right = np.zeros(len(tree.edge_targets), dtype=np.bool_)
    for edges, target, predicted in zip(tree.example_edges, targets, predictions, strict=True):
        right[edges] = np.array(target) == predicted
    tally = Tally()
    tally.add(tree, Outcome(loss_sum=12.0, right=right, losses=np.zeros(len(right))))
    return tally


def test_the_worked_example_of_the_contract() -> None:
    """Two of three sequences are right, five of six tokens."""
    tally = tally_of([[1, 2], [0, 5], [4, 2]], [[1, 1], [0, 5], [4, 2]])
    assert tally.sequence_accuracy == pytest.approx(0.67, abs=0.005)
    assert tally.token_accuracy == pytest.approx(0.83, abs=0.005)
    assert tally.loss == 2.0


def test_tokens_are_pooled_not_averaged_by_sequence() -> None:
    assert tally_of([[1, 2, 3, 4], [5]], [[1, 2, 3, 4], [6]]).token_accuracy == pytest.approx(4 / 5)


def test_equal_examples_count_each() -> None:
    """They are one path in the tree and still three sequences."""
    example = Example(1, np.array([1, 2, 3]), np.array([False, True, True]))
    tree = tree_of([example, example, example])
    tally = Tally()
    tally.add(tree, Outcome(loss_sum=6.0, right=np.array([True, False]), losses=np.zeros(2)))
    assert (tally.sequences, tally.right_sequences, tally.tokens, tally.right_tokens) == (3, 0, 6, 3)
