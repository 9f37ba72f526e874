"""Linear layers whose frozen weights oneDNN has laid out for its own kernels once. Knows no model.

torch's default kernels (MKL) are slow for the few rows of a decoding step; these take 0.5 to 0.8 times as long for up
to 64 rows and as long for 256. The operators are torch's own for compiled graphs, hence private: torch is
pinned, and a test holds them against F.linear.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tunery.models.decoder import DenseLinear
from tunery.models.loader import MakeLinear

FEWEST_ROWS = 4
"""oneDNN's kernel for fewer is slower than that for four (23 ms a step of the bundled base against 20)."""


class PackedLinear:
    """A frozen float32 matrix [out, in] on the CPU with an optional bias [out]."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """x [T, in] -> [T, out]"""
        rows = len(x)
        if rows < FEWEST_ROWS:
            x = F.pad(x, (0, 0, 0, FEWEST_ROWS - rows))
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return y[:rows]


def linear_for(device: str) -> MakeLinear:
    """The fastest kind of linear layer there is for a device."""
    return PackedLinear if device == "cpu" and _has_onednn() else DenseLinear


def _has_onednn() -> bool:
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available
