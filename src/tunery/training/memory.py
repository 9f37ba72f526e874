"""How much memory a run needs at its peak, by formula, and how much there is. Knows no data.

The formula counts what losses.py and decoder.py keep: checked against real runs in docs/log.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from tunery.host import free_bytes, own_bytes
from tunery.models.compiled import loops_run
from tunery.models.decoder import GROUPS, DecoderConfig
from tunery.training.attention import KEPT_COLUMNS
from tunery.training.losses import HEAD_ROWS
from tunery.training.stretches import STRETCH

BYTES = 4
"""Of a number: weights, activations and adapter are float32."""
PROCESS_BYTES = 290 * 1024**2
"""The interpreter, torch and the tokenizer, before any weight is there (CPU)."""
LOOPS_BYTES = 190 * 1024**2
"""What comes on top where compiled loops run: numba, LLVM, and the loops' own room (measured)."""
TRANSFORMERS_BYTES = 150 * 1024**2
"""What comes on top where transformers' code runs the model."""
HEAD_COPIES = 2
"""Of a part's logits at once: themselves, in whose place all else is computed, and what the product needs."""
PASSING = 2
"""Of what one block keeps: what is there at once where nothing is kept (at most; 1.1 to 1.6 at 4,033 tokens)."""
RECOMPUTING = 11
"""Of what one block keeps: itself, the gradients on the way through it, what is computed in between, and the gaps that
trees of thousands of nodes leave (measured)."""
ADAPTER_COPIES = 8
"""Values, gradient, two moments; and as much again while they are written to disk."""
MARGIN = 1.15
"""The allocator's gaps, and the gradients on their way (measured)."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The numbers of a model and its adapter from which its cost follows."""

    config: DecoderConfig
    tied: bool
    """Input and output embeddings are one matrix."""
    rank: int
    wrapped: bool = False
    """transformers' code runs it."""

    @property
    def linear(self) -> int:
        """Weights of all blocks."""
        return self._per_layer(lambda inputs, outputs: inputs * outputs)

    @property
    def adapter(self) -> int:
        return self._per_layer(lambda inputs, outputs: self.rank * (inputs + outputs))

    @property
    def head(self) -> int:
        return self.config.vocab_size * self.config.hidden_size

    @property
    def queries(self) -> int:
        """Numbers of a node's queries in all layers: heads x head size x layers."""
        return self.config.num_attention_heads * self.config.head_dim * self.config.num_hidden_layers

    @property
    def weights(self) -> int:
        return self.linear + self.head * (1 if self.tied else 2)

    def _per_layer(self, of: Callable[[int, int], int]) -> int:
        targets = [target for group in GROUPS.values() for target in group]
        return self.config.num_hidden_layers * sum(of(*self.config.features(target)) for target in targets)


@dataclass(frozen=True, slots=True)
class Trees:
    """The sizes, in nodes, of the largest trees of a run."""

    kept: int = 0
    """Trained with every activation kept for the backward pass."""
    recomputed: int = 0
    """Trained with the input of each block kept alone."""
    evaluated: int = 0
    loss_rows: int = 0

    def and_also(self, other: "Trees") -> "Trees":
        return Trees(
            max(self.kept, other.kept),
            max(self.recomputed, other.recomputed),
            max(self.evaluated, other.evaluated),
            max(self.loss_rows, other.loss_rows),
        )


def peak_bytes(sizes: Sizes, trees: Trees, *, data_bytes: int, device: str) -> int:
    config = sizes.config
    hidden, layers = config.hidden_size * BYTES, config.num_hidden_layers
    kept = trees.kept * (layers * _block_bytes(sizes, trees.kept, device) + hidden)
    recomputed = trees.recomputed * (layers * hidden + RECOMPUTING * _block_bytes(sizes, trees.recomputed, device))
    evaluated = trees.evaluated * PASSING * _block_bytes(sizes, trees.evaluated, device)
    head = min(trees.loss_rows, HEAD_ROWS) * config.vocab_size * BYTES * HEAD_COPIES
    fixed = (sizes.weights + ADAPTER_COPIES * sizes.adapter) * BYTES
    work = MARGIN * (max(kept, recomputed, evaluated) + head)
    process = PROCESS_BYTES + data_bytes + (TRANSFORMERS_BYTES if sizes.wrapped else 0)
    process += LOOPS_BYTES if loops_run(device, torch.float32) else 0
    return int((process if device == "cpu" else 0) + fixed + work)


def _block_bytes(sizes: Sizes, nodes: int, device: str) -> float:
    """Kept by one block for the backward pass, a node: what each operation of decoder.py saves.

    Our own decoder works norms and SwiGLU out again, transformers' code keeps them.
    """
    config, rank = sizes.config, sizes.rank
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    columns = 1 if loops_run(device, torch.float32) else min(nodes, nodes / 2 + STRETCH, KEPT_COLUMNS)
    norms = (4 if sizes.wrapped else 2) * config.hidden_size
    projections = (queries + 2 * keys) + 2 * queries
    attention = columns * config.num_attention_heads
    feed_forward = (3 if sizes.wrapped else 2) * config.intermediate_size
    low_rank = rank * sum(len(members) for members in GROUPS.values())
    return BYTES * (norms + projections + attention + feed_forward + low_rank)


def available_bytes(device: str) -> int:
    """What this process may hold in all, as things are now."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    return own_bytes() + free_bytes(Path("/"))
