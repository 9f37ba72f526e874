"""Products with frozen matrices in compiled loops, for float32 on the CPU: one layout for one row or many.

A matrix lies in memory as panels of `PANEL` outputs, each [inputs, PANEL], in the fewest bytes that keep its bits
(narrowing.py). A tile, up to `ROWS` rows by one panel, holds its sums in registers while the panel streams past
(tiles.py). Rows come in parts that stay in the second cache, and a part of a panel stays in the first while they pass,
as in Van Zee and van de Geijn's BLIS (doi 10.1145/2764454): few rows take as long as reading the weights once takes,
many keep the arithmetic busy. A row's sums have the same bits whatever is multiplied beside it, in every format.
"""

import numba
import numpy as np
import torch
import torch.nn.functional as F
from numba import carray, float32, int64, prange, types, void
from torch import Tensor

from tunery.models.tiles import PANEL, ROWS, float_tile
from tunery.models.vectors import FLOAT_BYTES, LANES, floats_at
from tunery.serving.formats import BLOCK, FLOAT32, INT4, INT8, bytes_of, widen
from tunery.serving.narrowing import narrowest, to_int8

FIRST_CACHE = (48 if LANES == 16 else 32) * 1024
"""Bytes, of the processors that have vectors of so many lanes."""
INPUTS_AT_ONCE = FIRST_CACHE // 2 // (FLOAT_BYTES * PANEL)
"""About: of a panel that several tiles share, what stays in the first cache beside their rows."""
ROW_BYTES_AT_ONCE = 256 * 1024
"""Half of the second cache."""
FEW_ROWS = 32
"""Up to here it takes longer to wake another thread than to pack its part of the rows."""
_MOST_INPUTS = 2 * INPUTS_AT_ONCE
"""Of a panel's part, since there are about as many parts as INPUTS_AT_ONCE says and they begin at a block."""
_VECTOR_BYTES = FLOAT_BYTES * LANES
_PLACE, _PANEL, _PACKED = types.UniTuple(int64, 2), types.UniTuple(int64, 3), float32[::1]


@numba.njit(_PLACE(_PLACE, int64, int64), cache=True, nogil=True)
def _share(rows, part, parts):
    """From where to where one of so many parts of rows[0] to rows[1] goes."""
    count = rows[1] - rows[0]
    return rows[0] + count * part // parts, rows[0] + count * (part + 1) // parts


@numba.njit(int64(int64, int64, int64), cache=True, nogil=True)
def _cut(inputs, part, parts):
    """Where a part begins: at a block."""
    return inputs if part == parts else inputs * part // parts // BLOCK * BLOCK


@numba.njit(void(_PLACE, int64, int64, _PACKED), cache=True, nogil=True)
def _pack(rows, x, inputs, packed):
    """rows[0] to rows[1] of x as tiles read them: of each tile [inputs, its rows]."""
    tiles = -(-(rows[1] - rows[0]) // ROWS)
    for tile in range(tiles):
        start, end = _share(rows, tile, tiles)
        source = carray(floats_at(x + FLOAT_BYTES * start * inputs), (end - start, inputs))
        into = packed[start * inputs : end * inputs].reshape(inputs, end - start)
        for row in range(end - start):
            for i in range(inputs):
                into[i, row] = source[row, i]


@numba.njit(void(_PLACE, _PACKED, int64, _PANEL, _PLACE), cache=True, nogil=True)
def _multiply_panel(rows, x, inputs, panel, y):
    """y[rows[1] - rows[0], PANEL], an address and how far its rows lie apart; x is packed.

    Where weights aren't widened first, each tile fetches a part of the next panel: reading and arithmetic overlap.
    """
    weights, bias, kind = panel
    tiles = -(-(rows[1] - rows[0]) // ROWS)
    parts = 1 if kind == FLOAT32 and tiles == 1 else max(1, round(inputs / INPUTS_AT_ONCE))
    room = np.empty(0 if kind == FLOAT32 else LANES + _MOST_INPUTS * PANEL, np.float32)
    step = _VECTOR_BYTES // tiles if kind == FLOAT32 else 0
    for part in range(parts):
        first = _cut(inputs, part, parts)
        count, at_weights = _cut(inputs, part + 1, parts) - first, weights + bytes_of(kind, first)
        if kind != FLOAT32:
            at_room = -(-room.ctypes.data // _VECTOR_BYTES) * _VECTOR_BYTES
            widen(kind, at_weights, count, at_room)
            at_weights = at_room
        for tile in range(tiles):
            start, end = _share(rows, tile, tiles)
            at_x = x.ctypes.data + FLOAT_BYTES * (start * inputs + (end - start) * first)
            at_y = (y[0] + FLOAT_BYTES * (start - rows[0]) * y[1], y[1])
            begin = at_y if part else (bias, 0)
            ahead = at_weights + FLOAT_BYTES * PANEL * (inputs + count * tile // tiles)
            float_tile(end - start, at_x, count, at_weights, begin, at_y, (ahead, step))


@numba.njit(void(_PLACE, _PACKED, int64, _PANEL, _PLACE, int64), cache=True, nogil=True)
def _multiply_last(rows, x, inputs, panel, y, width):
    """A panel that is wider than what is left of y: through room of its own."""
    whole = np.empty((rows[1] - rows[0], PANEL), np.float32)
    _multiply_panel(rows, x, inputs, panel, (whole.ctypes.data, PANEL))
    into = carray(floats_at(y[0]), (len(whole), y[1]))
    for row in range(len(whole)):
        into[row, :width] = whole[row, :width]


@numba.njit(void(int64, int64, int64[::1], int64), cache=True, nogil=True, parallel=True)
def multiply(rows, x, matrix, y):
    """y[rows, outputs] = x[rows, inputs] @ matrix + bias; x and y are addresses, matrix[5] is a `PanelLinear.place`."""
    weights, bias, kind, inputs, outputs = matrix
    parts, panels = -(-rows * inputs * FLOAT_BYTES // ROW_BYTES_AT_ONCE), -(-outputs // PANEL)
    packed = np.empty(rows * inputs, np.float32)
    if rows <= FEW_ROWS:
        for part in range(parts):
            _pack(_share((0, rows), part, parts), x, inputs, packed)
    else:
        for part in prange(parts):
            _pack(_share((0, rows), part, parts), x, inputs, packed)
    for task in prange(parts * panels):
        its_rows, first = _share((0, rows), task // panels, parts), task % panels * PANEL
        panel = (weights + task % panels * bytes_of(kind, inputs), bias + FLOAT_BYTES * first, kind)
        at_y, width = y + FLOAT_BYTES * (its_rows[0] * outputs + first), outputs - first
        if width >= PANEL:
            _multiply_panel(its_rows, packed, inputs, panel, (at_y, outputs))
        else:
            _multiply_last(its_rows, packed, inputs, panel, (at_y, outputs), width)


class PanelLinear:
    """A frozen float32 matrix [out, in] on the CPU with an optional bias [out]."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.outputs, self.inputs = weight.shape
        whole = -(-self.outputs // PANEL) * PANEL
        padded = F.pad(weight, (0, 0, 0, whole - self.outputs))
        self._bias = torch.zeros(whole)
        if bias is not None:
            self._bias[: self.outputs] = bias
        self.format, self._panels = self._packed(padded.view(-1, PANEL, self.inputs).mT)
        self.place = np.array([self._panels.data_ptr(), self._bias.data_ptr(), self.format, self.inputs, self.outputs])
        """[5]: where panels and bias lie, the format, and the sizes."""

    def _packed(self, panels: Tensor) -> tuple[int, Tensor]:
        """Of panels [P, in, PANEL], which may be a view: the format, and what lies in memory."""
        return narrowest(panels)

    @property
    def nbytes(self) -> int:
        return self._panels.nbytes + self._bias.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """x [T, in] -> [T, out]"""
        x, y = x.contiguous(), torch.empty(len(x), self.outputs)
        multiply(len(x), x.data_ptr(), self.place, y.data_ptr())
        return y


class QuantizedPanelLinear(PanelLinear):
    """The same with 8 bits a weight; rounded to them, unless so few keep every bit of the matrix anyway.

    Numbers that go in and sums stay float32.
    """

    def _packed(self, panels: Tensor) -> tuple[int, Tensor]:
        kind, packed = narrowest(panels)
        if kind in (INT4, INT8):
            return kind, packed
        return INT8, to_int8(panels)
