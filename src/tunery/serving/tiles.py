"""A tile of a product in registers, as LLVM's own vectors: how they become instructions is the compiler's business.

The micro-kernel of Van Zee and van de Geijn's BLIS (doi 10.1145/2764454), unrolled for each number of rows.
"""

import llvmlite.binding as llvm
from llvmlite import ir
from numba import float32, int64, types, void
from numba.core import cgutils
from numba.extending import intrinsic

FLOAT_BYTES = 4
LANES = 16 if llvm.get_host_cpu_features().get("avx512f", False) else 8
VECTORS, ROWS = (3, 8) if LANES == 16 else (2, 6)
"""Of a tile: its sums, VECTORS * ROWS vectors, take three quarters of the registers."""
PANEL = LANES * VECTORS
"""Outputs of a tile; weights lie as [inputs, PANEL], float32 or int8."""
GROUP = 64
"""Inputs of an output whose int8 weights share a scale, so that scales lie as [groups, PANEL]."""

_FLOAT, _INT, _I32 = ir.FloatType(), ir.IntType(64), ir.IntType(32)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_ADDRESSES = types.UniTuple(int64, 3)


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


def _load_bytes(builder, address, number):
    """LANES whole numbers of one byte as float32."""
    place = builder.inttoptr(builder.add(address, number), ir.VectorType(ir.IntType(8), LANES).as_pointer())
    return builder.sitofp(builder.sext(builder.load(place, align=1), ir.VectorType(_I32, LANES)), _VECTOR)


def _load_floats(builder, address, number):
    return _load(builder, _offset(builder, address, number))


def _emit_sums(builder, sums, x, inputs, weights, count, load):
    """sums[rows][VECTORS] += x[rows, count] @ weights[count, PANEL]; x's rows `inputs` apart."""
    with cgutils.for_range(builder, count) as loop:
        line = builder.mul(loop.index, _INT(PANEL))
        vectors = [load(builder, weights, builder.add(line, _INT(LANES * v))) for v in range(VECTORS)]
        for row, totals in enumerate(sums):
            place = _offset(builder, x, builder.add(loop.index, builder.mul(inputs, _INT(row))))
            number = _everywhere(builder, builder.load(builder.inttoptr(place, _FLOAT.as_pointer())))
            for total, vector in zip(totals, vectors, strict=True):
                _add_product(builder, total, number, vector)


def _add_product(builder, total, first, second):
    product = builder.fmul(first, second, flags=("contract",))
    builder.store(builder.fadd(product, builder.load(total), flags=("contract",)), total)


def _new_sums(builder, rows, bias):
    """Unrolled, so that they stay in registers."""
    begin = [_load_floats(builder, bias, _INT(LANES * v)) for v in range(VECTORS)]
    return [[cgutils.alloca_once_value(builder, vector) for vector in begin] for _ in range(rows)]


def _store(builder, sums, y, outputs):
    for row, totals in enumerate(sums):
        for v, total in enumerate(totals):
            place = _offset(builder, y, builder.add(_INT(LANES * v), builder.mul(outputs, _INT(row))))
            builder.store(builder.load(total), _vector_at(builder, place), align=FLOAT_BYTES)


def _emit_tile(builder, rows, x, inputs, panel, y, outputs):
    weights, bias, _ = panel
    sums = _new_sums(builder, rows, bias)
    _emit_sums(builder, sums, x, inputs, weights, inputs, _load_floats)
    _store(builder, sums, y, outputs)


def _emit_quantized_tile(builder, rows, x, inputs, panel, y, outputs):
    weights, bias, scales = panel
    sums = _new_sums(builder, rows, bias)
    zero = ir.Constant(_VECTOR, [0.0] * LANES)
    parts = [[cgutils.alloca_once(builder, _VECTOR) for _ in range(VECTORS)] for _ in range(rows)]
    groups = builder.sdiv(builder.add(inputs, _INT(GROUP - 1)), _INT(GROUP))
    with cgutils.for_range(builder, groups) as loop:
        for part in (part for row in parts for part in row):
            builder.store(zero, part)
        start = builder.mul(loop.index, _INT(GROUP))
        left = builder.sub(inputs, start)
        count = builder.select(builder.icmp_signed("<", left, _INT(GROUP)), left, _INT(GROUP))
        at_weights = builder.add(weights, builder.mul(start, _INT(PANEL)))
        _emit_sums(builder, parts, _offset(builder, x, start), inputs, at_weights, count, _load_bytes)
        line = builder.mul(loop.index, _INT(PANEL))
        steps = [_load_floats(builder, scales, builder.add(line, _INT(LANES * v))) for v in range(VECTORS)]
        for totals, of_group in zip(sums, parts, strict=True):
            for total, part, step in zip(totals, of_group, steps, strict=True):
                _add_product(builder, total, builder.load(part), step)
    _store(builder, sums, y, outputs)


def _tile(emit):
    @intrinsic
    def tile(_context, rows, x, inputs, panel, y, outputs):
        def generate(context, builder, _signature, arguments):
            asked, x, inputs, panel, y, outputs = arguments
            addresses = [builder.extract_value(panel, i) for i in range(len(_ADDRESSES))]
            for count in range(1, ROWS + 1):
                with builder.if_then(builder.icmp_signed("==", asked, _INT(count))):
                    emit(builder, count, x, inputs, addresses, y, outputs)
            return context.get_dummy_value()

        return void(int64, int64, int64, _ADDRESSES, int64, int64), generate

    return tile


float_tile, quantized_tile = _tile(_emit_tile), _tile(_emit_quantized_tile)
"""(rows, x, inputs, panel, y, outputs): y[rows, PANEL] = x[rows, inputs] @ panel + bias[PANEL], rows up to ROWS.

x and y are addresses, y's rows `outputs` apart; `panel` holds the addresses of weights, bias and scales.
"""
