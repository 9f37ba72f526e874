"""A tile of a product in registers, as LLVM's own vectors: how they become instructions is the compiler's business.

The micro-kernel of Van Zee and van de Geijn's BLIS (doi 10.1145/2764454), unrolled for each number of rows.
"""

import numba
import numpy as np
from llvmlite import ir
from numba import carray, float32, int64, types, void
from numba.core import cgutils
from numba.extending import intrinsic

from tunery.models.vectors import FLOAT_BYTES, IN_VECTORS, LANES, floats_at

VECTORS, ROWS = (3, 8) if LANES == 16 else (2, 6)
"""Of a tile: its sums, VECTORS * ROWS vectors, take three quarters of the registers."""
PANEL = LANES * VECTORS
"""Outputs of a tile; weights lie as [inputs, PANEL], float32 or int8."""
STRIP_VECTORS, STRIP_ROWS = (2, 8) if LANES == 16 else (2, 6)
STRIP = LANES * STRIP_VECTORS
"""Outputs of a tile whose operands lie anywhere: few enough to divide a head's size."""
GROUP = 64
"""Inputs of an output whose int8 weights share a scale, so that scales lie as [groups, PANEL]."""

_FLOAT, _INT, _I32 = ir.FloatType(), ir.IntType(64), ir.IntType(32)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_ADDRESSES, _PLACE = types.UniTuple(int64, 3), types.UniTuple(int64, 2)


def _vector_at(builder, address):
    return builder.inttoptr(address, _VECTOR.as_pointer())


def _offset(builder, address, floats):
    return builder.add(address, builder.mul(floats, _INT(FLOAT_BYTES)))


def _load(builder, address):
    return builder.load(_vector_at(builder, address), align=FLOAT_BYTES)


def _everywhere(builder, number):
    first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), number, _I32(0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_I32, LANES), None))


def _load_bytes(builder, address, number):
    """LANES whole numbers of one byte as float32."""
    place = builder.inttoptr(builder.add(address, number), ir.VectorType(ir.IntType(8), LANES).as_pointer())
    return builder.sitofp(builder.sext(builder.load(place, align=1), ir.VectorType(_I32, LANES)), _VECTOR)


def _load_floats(builder, address, number):
    return _load(builder, _offset(builder, address, number))


def _fetch(builder, address):
    """Into the second cache; an address that isn't memory does nothing."""
    pointer = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), (pointer, _I32, _I32, _I32))
    prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(prefetch, (builder.inttoptr(address, pointer), _I32(0), _I32(2), _I32(1)))


def _emit_sums(builder, sums, x, weights, count, load, ahead=None):
    """sums[rows][vectors] += x[rows, count] @ weights[count, vectors * LANES].

    x is an address, how far its rows lie apart and its columns; weights one and how far its rows do.
    """
    (x, apart, step), (weights, line) = x, weights
    with cgutils.for_range(builder, count) as loop:
        first = builder.mul(loop.index, line)
        vectors = [load(builder, weights, builder.add(first, _INT(LANES * v))) for v in range(len(sums[0]))]
        if ahead:
            for v in range(len(vectors)):
                number = builder.add(builder.mul(loop.index, _INT(len(vectors))), _INT(v))
                _fetch(builder, builder.add(ahead[0], builder.mul(number, ahead[1])))
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
        [cgutils.alloca_once_value(builder, _load_floats(builder, place, _INT(LANES * v))) for v in range(vectors)]
        for place in places
    ]


def _store(builder, sums, y, outputs):
    for row, totals in enumerate(sums):
        for v, total in enumerate(totals):
            place = _offset(builder, y, builder.add(_INT(LANES * v), builder.mul(outputs, _INT(row))))
            builder.store(builder.load(total), _vector_at(builder, place), align=FLOAT_BYTES)


def _emit_tile(builder, rows, x, count, panel, begin, y, ahead):
    """Twice: what fetches nothing is a tenth faster without the instructions (docs/log.md)."""
    weights, _ = panel
    with builder.if_else(builder.icmp_signed("==", ahead[1], _INT(0))) as (alone, fetching):
        for branch, what in ((alone, None), (fetching, ahead)):
            with branch:
                sums = _new_sums(builder, rows, VECTORS, *begin)
                _emit_sums(builder, sums, (*x, _INT(1)), (weights, _INT(PANEL)), count, _load_floats, what)
                _store(builder, sums, *y)


def _emit_quantized_tile(builder, rows, x, count, panel, begin, y, _ahead):
    """Its arithmetic takes longer than reading: it fetches nothing."""
    weights, scales = panel
    sums = _new_sums(builder, rows, VECTORS, *begin)
    zero = ir.Constant(_VECTOR, [0.0] * LANES)
    parts = [[cgutils.alloca_once(builder, _VECTOR) for _ in range(VECTORS)] for _ in range(rows)]
    groups = builder.sdiv(builder.add(count, _INT(GROUP - 1)), _INT(GROUP))
    with cgutils.for_range(builder, groups) as loop:
        for part in (part for row in parts for part in row):
            builder.store(zero, part)
        start = builder.mul(loop.index, _INT(GROUP))
        left = builder.sub(count, start)
        some = builder.select(builder.icmp_signed("<", left, _INT(GROUP)), left, _INT(GROUP))
        at_weights = builder.add(weights, builder.mul(start, _INT(PANEL)))
        at_x = (_offset(builder, x[0], start), x[1], _INT(1))
        _emit_sums(builder, parts, at_x, (at_weights, _INT(PANEL)), some, _load_bytes)
        line = builder.mul(loop.index, _INT(PANEL))
        steps = [_load_floats(builder, scales, builder.add(line, _INT(LANES * v))) for v in range(VECTORS)]
        for totals, of_group in zip(sums, parts, strict=True):
            for total, part, step in zip(totals, of_group, steps, strict=True):
                _add_product(builder, total, builder.load(part), step)
    _store(builder, sums, *y)


def _tile(emit):
    @intrinsic
    def tile(_context, rows, x, count, panel, begin, y, ahead):
        def generate(context, builder, _signature, arguments):
            rows, x, count, *places = arguments
            x, *places = (cgutils.unpack_tuple(builder, each) for each in (x, *places))
            for number in range(1, ROWS + 1):
                with builder.if_then(builder.icmp_signed("==", rows, _INT(number))):
                    emit(builder, number, x, count, *places)
            return context.get_dummy_value()

        return void(int64, _PLACE, int64, _PLACE, _PLACE, _PLACE, _PLACE), generate

    return tile


float_tile, quantized_tile = _tile(_emit_tile), _tile(_emit_quantized_tile)
"""(rows, x, count, panel, begin, y, ahead): y[rows, PANEL] = begin + x[rows, count] @ panel, rows up to ROWS.

x, begin and y are an address and how far rows lie apart; `panel` holds the addresses of weights and scales; `ahead` is
an address from which the float tile fetches memory meanwhile, and how many bytes for each vector of weights.
"""


def _strided(vectors):
    """Begin, weights and y are an address and how far rows lie apart; x is that and how far its columns do.

    y[rows, vectors * LANES] = begin + x[rows, count] @ weights[count, vectors * LANES], rows up to STRIP_ROWS.
    """

    @intrinsic
    def tile(_context, rows, x, count, weights, begin, y):
        def generate(context, builder, _signature, arguments):
            rows, x, count, weights, begin, y = arguments
            x, weights, begin, y = (cgutils.unpack_tuple(builder, each) for each in (x, weights, begin, y))
            for number in range(1, STRIP_ROWS + 1):
                with builder.if_then(builder.icmp_signed("==", rows, _INT(number))):
                    sums = _new_sums(builder, number, vectors, *begin)
                    _emit_sums(builder, sums, x, weights, count, _load_floats)
                    _store(builder, sums, *y)
            return context.get_dummy_value()

        return void(int64, _ADDRESSES, int64, _PLACE, _PLACE, _PLACE), generate

    return tile


_wide_tile, _narrow_tile = _strided(STRIP_VECTORS), _strided(1)


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
                _wide_tile(end - start, at_x, count, at_weights, begin, at_y)
            else:
                _narrow_tile(end - start, at_x, count, at_weights, begin, at_y)
        first += strip
    for row in range(rows):
        into = carray(floats_at(y[0] + FLOAT_BYTES * row * y[1]), width)
        for column in range(first, width):
            total = into[column] if added else float32(0)
            for i in range(count):
                number = floats_at(x[0] + FLOAT_BYTES * (row * x[1] + i * x[2]))[0]
                total += number * floats_at(weights[0] + FLOAT_BYTES * (i * weights[1] + column))[0]
            into[column] = total
