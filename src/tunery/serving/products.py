"""Products with frozen matrices in compiled loops, for float32 on the CPU: one layout for one row or many.

A matrix lies in memory as panels of `PANEL` outputs, each [inputs, PANEL]. A tile, up to `ROWS` rows by one panel,
holds its sums in registers while the panel streams past (tiles.py): few rows take as long as reading the weights once
takes, many keep the arithmetic busy while their panel stays in the cache.
"""

import numba
import numpy as np
import torch
import torch.nn.functional as F
from numba import carray, int64, prange, types, void
from torch import Tensor

from tunery.models.tiles import GROUP, PANEL, ROWS, float_tile, quantized_tile
from tunery.models.vectors import FLOAT_BYTES, LANES, floats_at

FIRST_CACHE = (48 if LANES == 16 else 32) * 1024
"""Bytes, of the processors that have vectors of so many lanes."""
ROWS_AT_ONCE = 8 * ROWS
"""That a thread takes while it has a panel in its cache."""
INPUTS_AT_ONCE = FIRST_CACHE // 2 // (FLOAT_BYTES * PANEL)
"""About: of a panel that several tiles share, what stays in the first cache beside their rows."""
LARGEST = 127
"""Of a quantized weight's amounts."""
ROUNDED_AT_ONCE = 64
"""Panels: rounding takes a few times their memory."""
_PLACE, _PANEL = types.UniTuple(int64, 2), types.UniTuple(int64, 3)


@numba.njit(void(int64, _PLACE, int64, _PLACE, _PLACE, _PLACE, _PLACE), cache=True, nogil=True)
def _tile(rows, x, count, panel, begin, y, ahead):
    if panel[1]:
        quantized_tile(rows, x, count, panel, begin, y, ahead)
    else:
        float_tile(rows, x, count, panel, begin, y, ahead)


@numba.njit(void(int64, int64, int64, _PANEL, int64, int64, int64), cache=True, nogil=True)
def _panel(rows, x, inputs, panel, y, outputs, fetching):
    """Each of its tiles fetches a part of the next panel, if that is `fetching`: reading and arithmetic overlap."""
    weights, bias, scales = panel
    tiles = max(1, -(-rows // ROWS))
    parts = 1 if scales or tiles == 1 else max(1, round(inputs / INPUTS_AT_ONCE))
    step = FLOAT_BYTES * LANES // tiles if fetching else 0
    for part in range(parts):
        first, count = inputs * part // parts, inputs * (part + 1) // parts - inputs * part // parts
        at_weights = weights + FLOAT_BYTES * first * PANEL
        for tile in range(tiles):
            start, end = rows * tile // tiles, rows * (tile + 1) // tiles
            at_x = (x + FLOAT_BYTES * (start * inputs + first), inputs)
            at_y = (y + FLOAT_BYTES * start * outputs, outputs)
            begin = at_y if part else (bias, 0)
            ahead = at_weights + FLOAT_BYTES * PANEL * (inputs + count * tile // tiles)
            _tile(end - start, at_x, count, (at_weights, scales), begin, at_y, (ahead, step))


@numba.njit(void(int64, int64, int64, _PANEL, int64, int64, int64), cache=True, nogil=True)
def _last_panel(rows, x, inputs, panel, y, outputs, width):
    """One that is wider than what is left of y: through a tile of its own."""
    weights, bias, scales = panel
    tile = np.empty((ROWS, PANEL), dtype=np.float32)
    for start in range(0, rows, ROWS):
        count, at_x = min(ROWS, rows - start), (x + FLOAT_BYTES * start * inputs, inputs)
        _tile(count, at_x, inputs, (weights, scales), (bias, 0), (tile.ctypes.data, PANEL), (weights, 0))
        into = carray(floats_at(y + FLOAT_BYTES * start * outputs), (count, outputs))
        for row in range(count):
            into[row, :width] = tile[row, :width]


@numba.njit(void(int64, int64, int64[::1], int64), cache=True, nogil=True, parallel=True)
def multiply(rows, x, matrix, y):
    """y[rows, outputs] = x[rows, inputs] @ matrix + bias; x and y are addresses, matrix[5] is a `PanelLinear.place`."""
    weights, bias, scales, inputs, outputs = matrix
    weight_bytes, groups = 1 if scales else FLOAT_BYTES, -(-inputs // GROUP)
    parts = max(1, rows // ROWS_AT_ONCE)
    for task in prange(-(-outputs // PANEL) * parts):
        place, part = task // parts, task % parts
        start, end = rows * part // parts, rows * (part + 1) // parts
        first = place * PANEL
        its_scales = scales + FLOAT_BYTES * first * groups if scales else 0
        panel = (weights + weight_bytes * first * inputs, bias + FLOAT_BYTES * first, its_scales)
        at_x, at_y = x + FLOAT_BYTES * start * inputs, y + FLOAT_BYTES * (start * outputs + first)
        if outputs - first >= PANEL:
            _panel(end - start, at_x, inputs, panel, at_y, outputs, part == parts - 1)
        else:
            _last_panel(end - start, at_x, inputs, panel, at_y, outputs, outputs - first)


class PanelLinear:
    """A frozen float32 matrix [out, in] on the CPU with an optional bias [out]."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.outputs, self.inputs = weight.shape
        whole = -(-self.outputs // PANEL) * PANEL
        padded = F.pad(weight, (0, 0, 0, whole - self.outputs))
        self._bias = torch.zeros(whole)
        if bias is not None:
            self._bias[: self.outputs] = bias
        self._panels, self._scales = self._packed(padded.view(-1, PANEL, self.inputs).mT)
        scales = 0 if self._scales is None else self._scales.data_ptr()
        self.place = np.array([self._panels.data_ptr(), self._bias.data_ptr(), scales, self.inputs, self.outputs])
        """[5]: where panels, bias and scales lie (0: there are none), and the sizes."""

    def _packed(self, panels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Of panels [P, in, PANEL], which may be a view: what lies in memory, and its scales."""
        return panels.contiguous(), None

    def __call__(self, x: Tensor) -> Tensor:
        """x [T, in] -> [T, out]"""
        x, y = x.contiguous(), torch.empty(len(x), self.outputs)
        multiply(len(x), x.data_ptr(), self.place, y.data_ptr())
        return y


class QuantizedPanelLinear(PanelLinear):
    """The same with weights of 8 bits: a whole number from -127 to 127, times a float32 for GROUP inputs of an output.

    Rounded to the nearest (Dettmers et al., LLM.int8, doi 10.48550/arXiv.2208.07339, section 2.1: absmax), so a weight
    is off by 1/254 of the group's largest at most. Numbers that go in and sums stay float32.
    """

    def _packed(self, panels: Tensor) -> tuple[Tensor, Tensor | None]:
        parts = [self._rounded(part) for part in panels.split(ROUNDED_AT_ONCE)]
        return torch.cat([whole for whole, _ in parts]), torch.cat([scales for _, scales in parts])

    def _rounded(self, panels: Tensor) -> tuple[Tensor, Tensor]:
        """[P, in, PANEL] int8 and [P, groups, PANEL] float32."""
        groups = -(-self.inputs // GROUP)
        weights = F.pad(panels, (0, 0, 0, groups * GROUP - self.inputs)).unflatten(1, (groups, GROUP))
        scales = weights.abs().amax(2) / LARGEST
        whole = (weights / scales.clamp(min=torch.finfo(scales.dtype).tiny)[:, :, None]).round()
        return whole.flatten(1, 2)[:, : self.inputs].to(torch.int8), scales
