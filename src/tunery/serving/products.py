"""Products with frozen matrices in compiled loops, for float32 on the CPU: one layout for one row or many.

A matrix lies in memory as panels of `PANEL` outputs, each [inputs, PANEL]. A tile, up to `ROWS` rows by one panel,
holds its sums in registers while the panel streams past: few rows take as long as reading the weights once takes, many
keep the arithmetic busy while their panel stays in the cache (the micro-kernel of Van Zee and van de Geijn's BLIS,
doi 10.1145/2764454). It is written as LLVM's own vectors: how they become instructions is the compiler's business.
"""

import llvmlite.binding as llvm
import numba
import numpy as np
import torch
import torch.nn.functional as F
from llvmlite import ir
from numba import carray, float32, int64, prange, types, void
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

FLOAT_BYTES = 4
LANES = 16 if llvm.get_host_cpu_features().get("avx512f", False) else 8
VECTORS, ROWS = (3, 8) if LANES == 16 else (2, 6)
"""Of a tile: its sums, VECTORS * ROWS vectors, take three quarters of the registers."""
PANEL = LANES * VECTORS
ROWS_AT_ONCE = 8 * ROWS
"""That a thread takes while it has a panel in its cache."""

_FLOAT, _INT, _I32 = ir.FloatType(), ir.IntType(64), ir.IntType(32)
_VECTOR = ir.VectorType(_FLOAT, LANES)


@intrinsic
def floats_at(_context, address):
    """A pointer to the float32 numbers at an address."""

    def generate(_target, builder, _signature, arguments):
        return builder.inttoptr(arguments[0], _FLOAT.as_pointer())

    return types.CPointer(float32)(address), generate


def _vector_at(builder, address):
    return builder.inttoptr(address, _VECTOR.as_pointer())


def _offset(builder, address, floats):
    return builder.add(address, builder.mul(floats, _INT(FLOAT_BYTES)))


def _load(builder, address):
    return builder.load(_vector_at(builder, address), align=FLOAT_BYTES)


def _everywhere(builder, number):
    first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), number, _I32(0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_I32, LANES), None))


def _emit_tile(builder, rows, x, panel, inputs, bias, y, outputs):
    """The tile of exactly so many rows: unrolled, so that its sums stay in registers."""
    sums = [
        [
            cgutils.alloca_once_value(builder, _load(builder, _offset(builder, bias, _INT(LANES * v))))
            for v in range(VECTORS)
        ]
        for _ in range(rows)
    ]
    with cgutils.for_range(builder, inputs) as loop:
        line = _offset(builder, panel, builder.mul(loop.index, _INT(PANEL)))
        weights = [_load(builder, _offset(builder, line, _INT(LANES * v))) for v in range(VECTORS)]
        for row in range(rows):
            place = _offset(builder, x, builder.add(loop.index, builder.mul(inputs, _INT(row))))
            number = _everywhere(builder, builder.load(builder.inttoptr(place, _FLOAT.as_pointer())))
            for total, weight in zip(sums[row], weights, strict=True):
                product = builder.fmul(number, weight, flags=("contract",))
                builder.store(builder.fadd(product, builder.load(total), flags=("contract",)), total)
    for row in range(rows):
        for v in range(VECTORS):
            place = _offset(builder, y, builder.add(_INT(LANES * v), builder.mul(outputs, _INT(row))))
            builder.store(builder.load(sums[row][v]), _vector_at(builder, place), align=FLOAT_BYTES)


@intrinsic
def _tile(_context, rows, x, panel, inputs, bias, y, outputs):
    """y[rows, PANEL] = x[rows, inputs] @ panel[inputs, PANEL] + bias[PANEL]; addresses, y's rows `outputs` apart."""

    def generate(context, builder, _signature, arguments):
        asked, *rest = arguments
        for count in range(1, ROWS + 1):
            with builder.if_then(builder.icmp_signed("==", asked, _INT(count))):
                _emit_tile(builder, count, *rest)
        return context.get_dummy_value()

    return void(*[int64] * 7), generate


@numba.njit(void(*[int64] * 7), cache=True, nogil=True)
def _panel(rows, x, panel, inputs, bias, y, outputs):
    for start in range(0, rows, ROWS):
        count = min(ROWS, rows - start)
        _tile(count, x + FLOAT_BYTES * start * inputs, panel, inputs, bias, y + FLOAT_BYTES * start * outputs, outputs)


@numba.njit(void(*[int64] * 8), cache=True, nogil=True)
def _last_panel(rows, x, panel, inputs, bias, y, outputs, width):
    """One that is wider than what is left of y: through a tile of its own."""
    tile = np.empty((ROWS, PANEL), dtype=np.float32)
    for start in range(0, rows, ROWS):
        count = min(ROWS, rows - start)
        _tile(count, x + FLOAT_BYTES * start * inputs, panel, inputs, bias, tile.ctypes.data, PANEL)
        into = carray(floats_at(y + FLOAT_BYTES * start * outputs), (count, outputs))
        for row in range(count):
            into[row, :width] = tile[row, :width]


@numba.njit(void(int64, int64, int64[::1], int64), cache=True, nogil=True, parallel=True)
def multiply(rows, x, matrix, y):
    """y[rows, outputs] = x[rows, inputs] @ matrix + bias; x and y are addresses, matrix[4] is a `Panels.place`."""
    weights, bias, inputs, outputs = matrix
    parts = max(1, rows // ROWS_AT_ONCE)
    for task in prange(-(-outputs // PANEL) * parts):
        place, part = task // parts, task % parts
        start, end = rows * part // parts, rows * (part + 1) // parts
        panel = weights + FLOAT_BYTES * place * inputs * PANEL
        its_bias, at_x = bias + FLOAT_BYTES * place * PANEL, x + FLOAT_BYTES * start * inputs
        at_y = y + FLOAT_BYTES * (start * outputs + place * PANEL)
        width = outputs - place * PANEL
        if width >= PANEL:
            _panel(end - start, at_x, panel, inputs, its_bias, at_y, outputs)
        else:
            _last_panel(end - start, at_x, panel, inputs, its_bias, at_y, outputs, width)


class PanelLinear:
    """A frozen float32 matrix [out, in] on the CPU with an optional bias [out]."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.outputs, self.inputs = weight.shape
        whole = -(-self.outputs // PANEL) * PANEL
        self._panels = F.pad(weight, (0, 0, 0, whole - self.outputs)).view(-1, PANEL, self.inputs).mT.contiguous()
        self._bias = torch.zeros(whole)
        if bias is not None:
            self._bias[: self.outputs] = bias
        self.place = np.array([self._panels.data_ptr(), self._bias.data_ptr(), self.inputs, self.outputs])
        """[4]: where panels and bias lie, and the sizes."""

    def __call__(self, x: Tensor) -> Tensor:
        """x [T, in] -> [T, out]"""
        x, y = x.contiguous(), torch.empty(len(x), self.outputs)
        multiply(len(x), x.data_ptr(), self.place, y.data_ptr())
        return y
