"""Loss of one tree, its gradient, and which tokens were predicted right. Knows no optimiser and no files.

The head runs on the rows that bear loss only, some at a time, and each part's gradient is taken at once: neither all
logits nor their gradients are ever in memory together.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tunery.models.decoder import LowRank, Model
from tunery.training.attention import TreeAttention
from tunery.training.batches import Tree

HEAD_ROWS = 256
"""Rows whose logits are in memory at once: 256 x 49,152 float32 are 50 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a forward pass over a tree found."""

    loss_sum: float
    """Negative log likelihood, summed over loss-bearing tokens of all examples."""
    right: npt.NDArray[np.bool_]
    """[E]: whether the most likely token after an edge's node is its target."""


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
        return _outcome([_score(decoder.logits(hidden[part.rows]), part) for part in parts])


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
        rows = hidden[part.rows].detach().requires_grad_()
        logits = decoder.logits(rows)
        found.append(_score(logits.detach(), part))
        (gradient[part.rows],) = torch.autograd.grad(logits, rows, _gradient(logits.detach(), part, loss_tokens))
    torch.autograd.backward(hidden, gradient)
    return _outcome(found)


def _loss_rows(decoder: Model, tree: Tree, lora: LowRank | None, *, recompute: bool = False) -> Tensor:
    device = decoder.device
    token_ids, depths = torch.from_numpy(tree.token_ids).to(device), torch.from_numpy(tree.depths).to(device)
    hidden = decoder.hidden(token_ids, depths, TreeAttention(tree, device), lora, recompute=recompute)
    return hidden[torch.from_numpy(np.unique(tree.edge_nodes)).to(device)]


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


def _score(logits: Tensor, part: _Part) -> tuple[float, Tensor]:
    """(summed loss, which edges are right) of logits [rows, vocab]."""
    logits = _at_least_float32(logits)
    losses = logits.logsumexp(-1)[part.edge_rows] - logits[part.edge_rows, part.targets]
    return float((losses.double() * part.counts).sum()), logits.argmax(-1)[part.edge_rows] == part.targets


def _gradient(logits: Tensor, part: _Part, loss_tokens: int) -> Tensor:
    """Of summed loss / loss_tokens by the logits: softmax once for each time a row is scored, less the targets."""
    counts = part.counts.to(logits.dtype) / loss_tokens
    times = torch.zeros(len(logits), dtype=logits.dtype, device=logits.device).index_add_(0, part.edge_rows, counts)
    gradient = torch.softmax(_at_least_float32(logits), dim=-1).mul_(times[:, None])
    gradient[part.edge_rows, part.targets] -= counts  # edges are distinct, so no two meet
    return gradient.to(logits.dtype)


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _outcome(found: list[tuple[float, Tensor]]) -> Outcome:
    right = torch.cat([right for _, right in found])
    return Outcome(sum(loss_sum for loss_sum, _ in found), right.cpu().numpy())
