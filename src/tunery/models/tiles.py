"""A tile of a product in registers, as LLVM's own vectors: how they become instructions is the compiler's business.

The micro-kernel of Van Zee and van de Geijn's BLIS (doi 10.1145/2764454), unrolled for each number of rows.
"""

import numba
import numpy as np
from llvmlite import ir
from numba import carray, float32, int64, types, void
from numba.core import cgutils
from numba.extending import intrinsic

from tunery.models.vectors import FLOAT_BYTES, IN_VECTORS, LANES, fetch, floats_at, load_vector, store_vector

VECTORS, ROWS = 3, 8 if LANES == 16 else 4
"""Of a tile: its sums, VECTORS * ROWS vectors, take three quarters of the registers."""
PANEL = LANES * VECTORS
"""Outputs of a tile; weights lie as [inputs, PANEL]."""
STRIP_VECTORS, STRIP_ROWS = (2, 8) if LANES == 16 else (2, 6)
STRIP = LANES * STRIP_VECTORS
"""Outputs of a tile whose operands lie anywhere: few enough to divide a head's size."""

_FLOAT, _INT, _I32 = ir.FloatType(), ir.IntType(64), ir.IntType(32)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_ADDRESSES, _PLACE = types.UniTuple(int64, 3), types.UniTuple(int64, 2)


def _offset(builder, address, floats):
    return builder.add(address, builder.mul(floats, _INT(FLOAT_BYTES)))


def _everywhere(builder, number):
    first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), number, _I32(0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_I32, LANES), None))


def load_floats(builder, address, number):
    """LANES of them, the first of this number."""
    return load_vector(builder, _offset(builder, address, number))


def _emit_sums(builder, sums, x, weights, count, ahead=None, load=load_floats):
    """sums[rows][vectors] += x[rows, count] @ weights[count, vectors * LANES].

    x is an address, how far its rows lie apart and its columns; weights one and how far its rows do, see `load`.
    """
    (x, apart, step), (weights, line) = x, weights
    with cgutils.for_range(builder, count) as loop:
        first = builder.mul(loop.index, line)
        vectors = [load(builder, weights, builder.add(first, _INT(LANES * v))) for v in range(len(sums[0]))]
        if ahead:
            for v in range(len(vectors)):
                number = builder.add(builder.mul(loop.index, _INT(len(vectors))), _INT(v))
                fetch(builder, builder.add(ahead[0], builder.mul(number, ahead[1])))
        column = builder.mul(loop.index, step)
        for row, totals in enumerate(sums):
            place = _offset(builder, x, builder.add(column, builder.mul(apart, _INT(row))))
            number = _everywhere(builder, builder.load(builder.inttoptr(place, _FLOAT.as_pointer())))
            for total, vector in zip(totals, vectors, strict=True):
                _add_product(builder, total, number, vector)


def _add_product(builder, total, first, second):
    product = builder.fmul(first, second, flags=("contract",))
    builder.store(builder.fadd(product, builder.load(total), flags=("contract",)), total)


def _new_sums(builder, rows, vectors, begin, apart):
    """Unrolled, so that they stay in registers; from `begin`, whose rows lie `apart`."""
    places = [_offset(builder, begin, builder.mul(apart, _INT(row))) for row in range(rows)]
    return [
        [cgutils.alloca_once_value(builder, load_floats(builder, place, _INT(LANES * v))) for v in range(vectors)]
        for place in places
    ]


def _store(builder, sums, y, outputs):
    for row, totals in enumerate(sums):
        for v, total in enumerate(totals):
            place = _offset(builder, y, builder.add(_INT(LANES * v), builder.mul(outputs, _INT(row))))
            store_vector(builder, builder.load(total), place)


def _emit_tile(builder, rows, x, count, panel, begin, y, ahead):
    """Twice: what fetches nothing is a tenth faster without the instructions (docs/log.md)."""
    with builder.if_else(builder.icmp_signed("==", ahead[1], _INT(0))) as (alone, fetching):
        for branch, what in ((alone, None), (fetching, ahead)):
            with branch:
                sums = _new_sums(builder, rows, VECTORS, *begin)
                _emit_sums(builder, sums, (x, _INT(1), _INT(rows)), (panel, _INT(PANEL)), count, what)
                _store(builder, sums, *y)


@intrinsic
def float_tile(_context, rows, x, count, panel, begin, y, ahead):
    """y[rows, PANEL] = begin + x @ panel, rows up to ROWS; x lies as [count, rows].

    begin and y are an address and how far rows lie apart; x and panel are addresses; `ahead` is one from which memory
    is fetched meanwhile, and how many bytes for each vector of weights.
    """

    def generate(context, builder, _signature, arguments):
        rows, x, count, panel, begin, y, ahead = arguments
        begin, y, ahead = (cgutils.unpack_tuple(builder, each) for each in (begin, y, ahead))
        for number in range(1, ROWS + 1):
            with builder.if_then(builder.icmp_signed("==", rows, _INT(number))):
                _emit_tile(builder, number, x, count, panel, begin, y, ahead)
        return context.get_dummy_value()

    return void(int64, int64, int64, int64, _PLACE, _PLACE, _PLACE), generate


def strided(vectors, load=load_floats):
    """Begin, weights and y are an address and how far rows lie apart; x is that and how far its columns do.

    y[rows, vectors * LANES] = begin + x[rows, count] @ weights[count, vectors * LANES], rows up to STRIP_ROWS; `load`
    makes float32 of weights that are something else.
    """

    @intrinsic
    def tile(_context, rows, x, count, weights, begin, y):
        def generate(context, builder, _signature, arguments):
            rows, x, count, weights, begin, y = arguments
            x, weights, begin, y = (cgutils.unpack_tuple(builder, each) for each in (x, weights, begin, y))
            for number in range(1, STRIP_ROWS + 1):
                with builder.if_then(builder.icmp_signed("==", rows, _INT(number))):
                    sums = _new_sums(builder, number, vectors, *begin)
                    _emit_sums(builder, sums, x, weights, count, load=load)
                    _store(builder, sums, *y)
            return context.get_dummy_value()

        return void(int64, _ADDRESSES, int64, _PLACE, _PLACE, _PLACE), generate

    return tile


wide_tile, narrow_tile = strided(STRIP_VECTORS), strided(1)


@numba.njit(void(int64, _ADDRESSES, int64, _PLACE, int64, _PLACE, int64), **IN_VECTORS)
def multiply(rows, x, count, weights, width, y, added):
    """y[rows, width] = x[rows, count] @ weights[count, width], or += where `added`.

    weights and y are an address and how far rows lie apart; x is that and how far its columns do.
    """
    zeros = np.zeros(STRIP, dtype=np.float32)
    tiles, first = -(-rows // STRIP_ROWS), 0
    while width - first >= LANES:
        strip = STRIP if width - first >= STRIP else LANES
        at_weights = (weights[0] + FLOAT_BYTES * first, weights[1])
        for tile in range(tiles):
            start, end = rows * tile // tiles, rows * (tile + 1) // tiles
            at_x = (x[0] + FLOAT_BYTES * start * x[1], x[1], x[2])
            at_y = (y[0] + FLOAT_BYTES * (start * y[1] + first), y[1])
            begin = at_y if added else (zeros.ctypes.data, 0)
            if strip == STRIP:
                wide_tile(end - start, at_x, count, at_weights, begin, at_y)
            else:
                narrow_tile(end - start, at_x, count, at_weights, begin, at_y)
        first += strip
    for row in range(rows):
        into = carray(floats_at(y[0] + FLOAT_BYTES * row * y[1]), width)
        for column in range(first, width):
            total = into[column] if added else float32(0)
            for i in range(count):
                number = floats_at(x[0] + FLOAT_BYTES * (row * x[1] + i * x[2]))[0]
                total += number * floats_at(weights[0] + FLOAT_BYTES * (i * weights[1] + column))[0]
            into[column] = total
