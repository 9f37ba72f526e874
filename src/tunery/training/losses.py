"""Loss of one tree, its gradient, and which tokens were predicted right. Knows no optimiser and no files.

The head runs on the rows that bear loss only, some at a time, and each part's gradient is taken at once: neither all
logits nor their gradients are ever in memory together.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tunery.models.decoder import LowRank, Model
from tunery.models.operations import exponentials_
from tunery.training.attention import attention_over
from tunery.training.batches import Tree

Floats = npt.NDArray[np.float64]

_Scores = tuple[float, Tensor, Tensor]
"""Summed loss, which edges are right, loss of each edge."""

HEAD_ROWS = 128
"""Rows whose logits are in memory at once: 128 x 49,152 float32 are 25 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a forward pass over a tree found."""

    loss_sum: float
    """Negative log likelihood, summed over loss-bearing tokens of all examples."""
    right: npt.NDArray[np.bool_]
    """[E]: whether the most likely token after an edge's node is its target."""
    losses: Floats
    """[E]: negative log likelihood of an edge's target."""

    def log_probabilities(self, tree: Tree) -> Floats:
        """[examples]: of each example, summed over its loss-bearing tokens."""
        return np.array([-self.losses[edges].sum() for edges in tree.example_edges])


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Some neighbouring loss-bearing rows and their edges, sorted by row."""

    rows: slice
    edge_rows: Tensor
    """[e], counted from the part's first row"""
    targets: Tensor
    counts: Tensor


def evaluate(decoder: Model, tree: Tree, lora: LowRank | None) -> Outcome:
    with torch.inference_mode():
        hidden = _loss_rows(decoder, tree, lora)
        parts = _parts(tree, decoder.device)
        return _outcome([_score(decoder.logits(hidden[part.rows]), part)[0] for part in parts])


def evaluate_and_backpropagate(
    decoder: Model, tree: Tree, lora: LowRank, *, loss_tokens: int, recompute: bool = False
) -> Outcome:
    """Adds the gradient of loss_sum / loss_tokens to the adapter's; `loss_tokens` counts those of the whole batch.

    With `recompute` only what enters each block is kept: a single long example would need gigabytes otherwise.
    """
    hidden = _loss_rows(decoder, tree, lora, recompute=recompute)
    gradient = torch.empty_like(hidden)
    found = []
    for part in _parts(tree, decoder.device):
        scores, gradient[part.rows] = _score_and_differentiate(decoder, hidden[part.rows], part, loss_tokens)
        found.append(scores)
    torch.autograd.backward(hidden, gradient)
    return _outcome(found)


def evaluate_and_backpropagate_examples(
    decoder: Model, tree: Tree, lora: LowRank, slopes: Callable[[Floats], Floats], *, recompute: bool = False
) -> Outcome:
    """Adds the gradient of any loss that depends on the tree's examples through their log probabilities alone.

    `slopes` is given these, [examples], and returns the loss's derivative by each. They are known only once the head
    has run, so each edge gets a row of its own with the gradient of its own loss, to be scaled when they are.
    """
    hidden = _loss_rows(decoder, tree, lora, recompute=recompute)
    edge_rows = torch.from_numpy(np.unique(tree.edge_nodes, return_inverse=True)[1]).to(decoder.device)
    edge_hidden = hidden.detach()[edge_rows]
    gradient = torch.empty_like(edge_hidden)
    found = []
    for part in _edge_parts(tree, decoder.device):
        scores, gradient[part.rows] = _score_and_differentiate(decoder, edge_hidden[part.rows], part, 1)
        found.append(scores)
    outcome = _outcome(found)
    weights = torch.from_numpy(_edge_weights(tree, -slopes(outcome.log_probabilities(tree))))
    gradient *= weights.to(gradient)[:, None]
    torch.autograd.backward(hidden, torch.zeros_like(hidden).index_add_(0, edge_rows, gradient))
    return outcome


def _loss_rows(decoder: Model, tree: Tree, lora: LowRank | None, *, recompute: bool = False) -> Tensor:
    device = decoder.device
    token_ids, depths = torch.from_numpy(tree.token_ids).to(device), torch.from_numpy(tree.depths).to(device)
    rows = torch.from_numpy(np.unique(tree.edge_nodes)).to(device)
    attend = attention_over(tree, device, decoder.dtype)
    return decoder.hidden(token_ids, depths, attend, lora, rows=rows, recompute=recompute)


def _parts(tree: Tree, device: torch.device) -> Iterator[_Part]:
    nodes, edge_rows = np.unique(tree.edge_nodes, return_inverse=True)
    for start in range(0, len(nodes), HEAD_ROWS):
        end = min(start + HEAD_ROWS, len(nodes))
        edges = slice(*np.searchsorted(edge_rows, [start, end]))
        yield _Part(
            slice(start, end),
            torch.from_numpy(edge_rows[edges] - start).to(device),
            torch.from_numpy(tree.edge_targets[edges]).to(device),
            torch.from_numpy(tree.edge_counts[edges]).to(device),
        )


def _edge_parts(tree: Tree, device: torch.device) -> Iterator[_Part]:
    """Each edge once, on a row of its own."""
    targets = torch.from_numpy(tree.edge_targets).to(device)
    for start in range(0, len(targets), HEAD_ROWS):
        rows = slice(start, min(start + HEAD_ROWS, len(targets)))
        places = torch.arange(rows.stop - start, device=device)
        yield _Part(rows, places, targets[rows], torch.ones_like(places))


def _edge_weights(tree: Tree, weights: Floats) -> Floats:
    """[E]: the weights [examples] of all examples that bear an edge's loss, summed."""
    edges = np.concatenate(tree.example_edges)
    each = np.repeat(weights, [len(own) for own in tree.example_edges])
    summed: Floats = np.bincount(edges, weights=each, minlength=len(tree.edge_targets)).astype(np.float64)
    return summed


def _score_and_differentiate(decoder: Model, hidden: Tensor, part: _Part, loss_tokens: int) -> tuple[_Scores, Tensor]:
    """A part's scores, and the gradient of its summed loss / loss_tokens by its hidden states [rows, hidden_size]."""
    rows = hidden.detach().requires_grad_()
    logits = decoder.logits(rows)
    scores, shares, sums = _score(logits.detach(), part)
    (by_rows,) = torch.autograd.grad(logits, rows, _gradient(shares, sums, part, loss_tokens).to(logits.dtype))
    return scores, by_rows


def _score(logits: Tensor, part: _Part) -> tuple[_Scores, Tensor, Tensor]:
    """What logits [rows, vocab] say of a part's edges; their probabilities, yet to be divided by their sums [rows].

    All over the same memory, float32 at least: the logits themselves are gone.
    """
    shares = logits.to(torch.promote_types(logits.dtype, torch.float32))
    wanted = shares[part.edge_rows, part.targets]
    highest, likeliest, sums = exponentials_(shares)
    losses = ((highest + sums.log())[part.edge_rows] - wanted).double()
    right = likeliest[part.edge_rows] == part.targets
    return (float((losses * part.counts).sum()), right, losses), shares, sums


def _gradient(shares: Tensor, sums: Tensor, part: _Part, loss_tokens: int) -> Tensor:
    """Of summed loss / loss_tokens by the logits, in place: each row once for each time it is scored, less targets."""
    counts = part.counts.to(shares.dtype) / loss_tokens
    times = torch.zeros_like(sums).index_add_(0, part.edge_rows, counts)
    gradient = shares.mul_((times / sums)[:, None])
    gradient[part.edge_rows, part.targets] -= counts  # edges are distinct, so no two meet
    return gradient


def _outcome(found: list[_Scores]) -> Outcome:
    loss_sums, right, losses = zip(*found, strict=True)
    return Outcome(sum(loss_sums), torch.cat(right).cpu().numpy(), torch.cat(losses).cpu().numpy())
