"""operations.py's small operations in compiled loops, for float32 on the CPU: one pass over memory each.

numba compiles these at the first import and keeps the result; a user's machine needs no compiler.
"""

import numba
import numpy as np
import torch
from numba import carray, float32, int64, prange, void
from torch import Tensor

from tunery.models.vectors import FLOAT_BYTES, IN_VECTORS, exp, floats_at

ALONE = 32 * 1024
"""Numbers up to which it takes longer to wake another thread than to do its part."""
COMPARED = 64
"""Numbers at a time."""
SUMMED = 1024
"""Numbers whose sum is taken in float32."""

_ROW, _ROWS = float32[::1], float32[:, ::1]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x = x.contiguous()
    normed = torch.empty_like(x)
    _rms_norm(_parts(x), *_rows(x), weight.numpy(), eps, *_rows(normed))
    return normed


def rms_norm_gradient(given: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    given, x = given.contiguous(), x.contiguous()
    by_x, normed = torch.empty_like(x), torch.empty_like(x)
    _rms_norm_gradient(_parts(x), *_rows(given, x), weight.numpy(), eps, *_rows(by_x, normed))
    return by_x, normed


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    if x.stride()[1:] != (x.shape[2], 1):
        x = x.contiguous()
    rotated = torch.empty(x.shape)
    _rotate(_parts(x), x.data_ptr(), x.stride(0), *_rows(cos.contiguous(), sin.contiguous()), rotated.numpy())
    return rotated


def swiglu(gate_up: Tensor) -> Tensor:
    inner = gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2)
    _swiglu(_parts(gate_up), *_rows(gate_up.contiguous(), inner))
    return inner


def swiglu_gradient(given: Tensor, gate_up: Tensor) -> tuple[Tensor, Tensor]:
    given, gate_up = given.contiguous(), gate_up.contiguous()
    by_gate_up, inner = torch.empty_like(gate_up), torch.empty_like(given)
    _swiglu_gradient(_parts(gate_up), *_rows(given, gate_up, by_gate_up, inner))
    return by_gate_up, inner


def exponentials_(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    highest, column, sums = x.new_empty(len(x)), torch.empty(len(x), dtype=torch.int64), x.new_empty(len(x))
    _exponentials(_parts(x), x.numpy(), highest.numpy(), column.numpy(), sums.numpy())
    return highest, column, sums


def _rows(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.view(-1, tensor.shape[-1]).numpy() for tensor in tensors]


def _parts(x: Tensor) -> int:
    """Among how many threads it pays to divide the work."""
    return max(1, min(torch.get_num_threads(), x.numel() // ALONE))


@numba.njit(float32(_ROW, _ROW, float32, _ROW), **IN_VECTORS)
def norm_row(x, weight, eps, normed):
    """The row's 1 / rms."""
    total = float32(0)
    for i in range(len(x)):
        total += x[i] * x[i]
    inverse = float32(1) / np.sqrt(total / float32(len(x)) + eps)
    for i in range(len(x)):
        normed[i] = weight[i] * (x[i] * inverse)
    return inverse


@numba.njit(void(int64, _ROWS, _ROW, float32, _ROWS), cache=True, nogil=True, parallel=True)
def _rms_norm(parts, x, weight, eps, normed):
    for part in prange(parts):
        for row in range(len(x) * part // parts, len(x) * (part + 1) // parts):
            norm_row(x[row], weight, eps, normed[row])


@numba.njit(void(_ROW, _ROW, _ROW, float32, _ROW, _ROW), **IN_VECTORS)
def _norm_gradient_row(given, x, weight, eps, by_x, normed):
    inverse, along = norm_row(x, weight, eps, normed), float32(0)
    for i in range(len(x)):
        along += given[i] * weight[i] * x[i]
    along *= inverse * inverse * inverse / float32(len(x))
    for i in range(len(x)):
        by_x[i] = given[i] * weight[i] * inverse - x[i] * along


@numba.njit(void(int64, _ROWS, _ROWS, _ROW, float32, _ROWS, _ROWS), cache=True, nogil=True, parallel=True)
def _rms_norm_gradient(parts, given, x, weight, eps, by_x, normed):
    for part in prange(parts):
        for row in range(len(x) * part // parts, len(x) * (part + 1) // parts):
            _norm_gradient_row(given[row], x[row], weight, eps, by_x[row], normed[row])


@numba.njit(void(_ROW, _ROW, _ROW, _ROW), **IN_VECTORS)
def _rotate_head(head, cos, sin, rotated):
    half = len(cos)
    for i in range(half):
        rotated[i] = head[i] * cos[i] - head[half + i] * sin[i]
        rotated[half + i] = head[half + i] * cos[i] + head[i] * sin[i]


@numba.njit(void(int64, int64, int64, _ROWS, _ROWS, float32[:, :, ::1]), cache=True, nogil=True, parallel=True)
def _rotate(parts, x, apart, cos, sin, rotated):
    """x is an address, its rows lie `apart`."""
    rows, heads, dim = rotated.shape
    for part in prange(parts):
        for row in range(rows * part // parts, rows * (part + 1) // parts):
            x_heads = carray(floats_at(x + FLOAT_BYTES * row * apart), (heads, dim))
            for head in range(heads):
                _rotate_head(x_heads[head], cos[row], sin[row], rotated[row, head])


@numba.njit(float32(_ROW), **IN_VECTORS)
def highest_of(x):
    """Broken numbers are passed over. In lanes of their own, as one maximum would be taken number by number."""
    lanes = np.full(COMPARED, x[0])
    whole = len(x) - len(x) % COMPARED
    for first in range(0, whole, COMPARED):
        part = x[first : first + COMPARED]
        for lane in range(COMPARED):
            lanes[lane] = max(lanes[lane], part[lane])
    highest = lanes[0]
    for lane in range(1, COMPARED):
        highest = max(highest, lanes[lane])
    for i in range(whole, len(x)):
        highest = max(highest, x[i])
    return highest


@numba.njit(float32(_ROW, float32), **IN_VECTORS)
def _exponentials_row(x, highest):
    total = float32(0)
    for i in range(len(x)):
        x[i] = exp(x[i] - highest)
        total += x[i]
    return total


@numba.njit(void(int64, _ROWS, _ROW, int64[::1], _ROW), cache=True, nogil=True, parallel=True)
def _exponentials(parts, x, highest, column, sums):
    width = x.shape[1]
    for part in prange(parts):
        for row in range(len(x) * part // parts, len(x) * (part + 1) // parts):
            highest[row] = highest_of(x[row])
            column[row] = 0
            while column[row] < width - 1 and x[row, column[row]] != highest[row]:
                column[row] += 1
            total = 0.0  # a sum of many float32 alone would lose digits
            for first in range(0, width, SUMMED):
                total += _exponentials_row(x[row, first : first + SUMMED], highest[row])
            sums[row] = total


@numba.njit(void(_ROW, _ROW, _ROW), **IN_VECTORS)
def swiglu_row(gate, up, inner):
    for i in range(len(inner)):
        inner[i] = gate[i] / (float32(1) + exp(-gate[i])) * up[i]


@numba.njit(void(int64, _ROWS, _ROWS), cache=True, nogil=True, parallel=True)
def _swiglu(parts, gate_up, inner):
    width = inner.shape[1]
    for part in prange(parts):
        for row in range(len(inner) * part // parts, len(inner) * (part + 1) // parts):
            swiglu_row(gate_up[row, :width], gate_up[row, width:], inner[row])


@numba.njit(void(_ROW, _ROW, _ROW, _ROW, _ROW, _ROW), **IN_VECTORS)
def _swiglu_gradient_row(given, gate, up, by_gate, by_up, inner):
    for i in range(len(given)):
        opened = float32(1) / (float32(1) + exp(-gate[i]))
        inner[i] = gate[i] * opened * up[i]
        by_up[i] = given[i] * gate[i] * opened
        by_gate[i] = given[i] * up[i] * opened * (float32(1) + gate[i] * (float32(1) - opened))


@numba.njit(void(int64, _ROWS, _ROWS, _ROWS, _ROWS), cache=True, nogil=True, parallel=True)
def _swiglu_gradient(parts, given, gate_up, by_gate_up, inner):
    width = given.shape[1]
    for part in prange(parts):
        for row in range(len(given) * part // parts, len(given) * (part + 1) // parts):
            gate, up = gate_up[row, :width], gate_up[row, width:]
            by_gate, by_up = by_gate_up[row, :width], by_gate_up[row, width:]
            _swiglu_gradient_row(given[row], gate, up, by_gate, by_up, inner[row])
