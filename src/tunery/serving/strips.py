"""Adapters' matrices as a compiled loop reads them: strip by strip, in float32 or, for half the memory, in float16.

Few rows share an adapter, so what counts is how much of it has to come from memory (docs/log.md).
"""

import numba
import numpy as np
import torch
import torch.nn.functional as F
from numba import carray, int64, types, void
from torch import Tensor

from tunery.models.tiles import STRIP, STRIP_ROWS, STRIP_VECTORS, narrow_tile, strided, wide_tile
from tunery.models.vectors import FLOAT_BYTES, IN_VECTORS, LANES, floats_at
from tunery.serving.formats import FLOAT16, FLOAT32, HALF_BYTES, load_halves

FORMATS = {torch.float32: FLOAT32, torch.float16: FLOAT16}
_ADDRESSES, _PLACE = types.UniTuple(int64, 3), types.UniTuple(int64, 2)
_wide_half_tile, _narrow_half_tile = strided(STRIP_VECTORS, load_halves), strided(1, load_halves)


def in_strips(matrices: list[Tensor]) -> list[Tensor]:
    """What to put one after another of matrices [count, width], views or not: see `_strips`."""
    return [strips.flatten() for matrix in matrices for strips in _strips(matrix)]


def _strips(matrix: Tensor) -> list[Tensor]:
    """[strips, count, columns]: those of STRIP columns, then, if any columns are left, of LANES, zeros at the end."""
    count, width = matrix.shape
    wide = width // STRIP * STRIP
    found = [matrix[:, :wide].reshape(count, -1, STRIP).transpose(0, 1)]
    if wide < width:
        rest = F.pad(matrix[:, wide:], (0, -width % LANES))
        found.append(rest.reshape(count, -1, LANES).transpose(0, 1))
    return found


@numba.njit(int64(int64), cache=True, nogil=True)
def _number_bytes(kind):
    return HALF_BYTES if kind == FLOAT16 else FLOAT_BYTES


@numba.njit(int64(int64, int64, int64), cache=True, nogil=True)
def strip_bytes(kind, count, width):
    """Of a matrix [count, width] that lies in_strips."""
    return -(-width // LANES) * LANES * count * _number_bytes(kind)


@numba.njit(void(int64, int64, int64, _ADDRESSES, int64, int64, _PLACE, _PLACE), cache=True, nogil=True)
def _tile(kind, strip, rows, x, count, weights, begin, y):
    if kind == FLOAT16 and strip == STRIP:
        _wide_half_tile(rows, x, count, (weights, strip), begin, y)
    elif kind == FLOAT16:
        _narrow_half_tile(rows, x, count, (weights, strip), begin, y)
    elif strip == STRIP:
        wide_tile(rows, x, count, (weights, strip), begin, y)
    else:
        narrow_tile(rows, x, count, (weights, strip), begin, y)


@numba.njit(void(int64, int64, _ADDRESSES, int64, int64, _PLACE, int64, int64), cache=True, nogil=True)
def _last_tile(kind, rows, x, count, weights, y, width, added):
    """A strip that is wider than what is left of y: through room of its own."""
    room = np.zeros((rows, LANES), dtype=np.float32)
    into = carray(floats_at(y[0]), (rows, y[1]))
    if added:
        for row in range(rows):
            room[row, :width] = into[row, :width]
    at_room = (room.ctypes.data, LANES)
    _tile(kind, LANES, rows, x, count, weights, at_room, at_room)
    for row in range(rows):
        into[row, :width] = room[row, :width]


@numba.njit(void(int64, _ADDRESSES, int64, _PLACE, int64, _PLACE, int64), **IN_VECTORS)
def multiply(rows, x, count, weights, width, y, added):
    """y[rows, width] = x[rows, count] @ weights[count, width], or += where `added`.

    weights are the address where they lie in_strips and their format; y is one and how far rows lie apart, x that and
    how far its columns do.
    """
    (address, kind), zeros = weights, np.zeros(STRIP, dtype=np.float32)
    tiles, first = -(-rows // STRIP_ROWS), 0
    while first < width:
        strip = STRIP if width - first >= STRIP else LANES
        for tile in range(tiles):
            start, end = rows * tile // tiles, rows * (tile + 1) // tiles
            at_x = (x[0] + FLOAT_BYTES * start * x[1], x[1], x[2])
            at_y = (y[0] + FLOAT_BYTES * (start * y[1] + first), y[1])
            if width - first < strip:
                _last_tile(kind, end - start, at_x, count, address, at_y, width - first, added)
            else:
                begin = at_y if added else (zeros.ctypes.data, 0)
                _tile(kind, strip, end - start, at_x, count, address, begin, at_y)
        address += strip * count * _number_bytes(kind)
        first += strip
