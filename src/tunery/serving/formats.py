"""Formats in which a panel of frozen weights may lie in memory, and how a piece of it becomes float32 again.

In LLVM's own vectors, as tiles.py.
"""

from functools import partial

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba import config, int64, prange, void
from numba.core import cgutils
from numba.extending import intrinsic

from tunery.models.tiles import PANEL
from tunery.models.vectors import FLOAT_BYTES, LANES, LINE_BYTES, fetch, load_vector, store_vector

FLOAT32, BFLOAT16, FLOAT16, INT8, INT4 = range(5)
"""INT8: a whole number from -127 to 127, times the float32 of its block. INT4: one from 0 to 15, times a float16 of its
block, plus another float16."""
BLOCK = 32
"""Inputs of an output that have a scale in common."""
PER_WORD = 8
"""INT4 weights of 32 bits: those of as many inputs."""
HALF_BYTES, _WORD_BYTES = 2, 4
_INT8_BYTES, _INT4_BYTES = PANEL * (FLOAT_BYTES + BLOCK), PANEL * (2 * HALF_BYTES + BLOCK // 2)
"""Of a panel's block: scales [PANEL] and numbers [BLOCK, PANEL]; scales, what is added, and words [4, PANEL]."""
WIDENS_HALVES = llvm.get_host_cpu_features().get("f16c", False) and not (config.CPU_NAME or config.CPU_FEATURES)
"""The processor does, and numba compiles for it unless it is told of another."""
_AHEAD = 4096
"""Bytes that are fetched before they are widened: what lies there is the same panel or the next."""

_FLOAT, _INT, _I32, _I16, _I8 = ir.FloatType(), ir.IntType(64), ir.IntType(32), ir.IntType(16), ir.IntType(8)


def _vector(kind):
    return ir.VectorType(kind, LANES)


def _everywhere(number):
    return ir.Constant(_vector(_I32), [number] * LANES)


def _floats(number):
    return ir.Constant(_vector(_FLOAT), [number] * LANES)


def _emit_halves(read, builder, count, source, room):
    """Numbers of two bytes, which lie as [count, PANEL]."""
    with cgutils.for_range(builder, count) as loop:
        line = builder.mul(loop.index, _INT(PANEL))
        its_source = builder.add(source, builder.mul(line, _INT(HALF_BYTES)))
        _fetch_ahead(builder, its_source, HALF_BYTES * PANEL)
        into = builder.add(room, builder.mul(line, _INT(FLOAT_BYTES)))
        for number in range(0, PANEL, LANES):
            vector = read(builder, builder.add(its_source, _INT(HALF_BYTES * number)))
            store_vector(builder, vector, builder.add(into, _INT(FLOAT_BYTES * number)))


def _bfloat16(builder, place):
    half = builder.zext(load_vector(builder, place, _I16), _vector(_I32))
    return builder.bitcast(builder.shl(half, _everywhere(16)), _vector(_FLOAT))


def _float16(builder, place):
    """By its bits where the processor has no instruction for it: LLVM has no other way and ends the process.

    What is no number may become one: no matrix that has such weights is kept in this format.
    """
    if WIDENS_HALVES:
        return builder.fpext(load_vector(builder, place, ir.HalfType()), _vector(_FLOAT))
    half = builder.zext(load_vector(builder, place, _I16), _vector(_I32))
    size = builder.shl(builder.and_(half, _everywhere(0x7FFF)), _everywhere(13))
    scaled = builder.fmul(builder.bitcast(size, _vector(_FLOAT)), _floats(2.0**112))  # the exponents' biases are apart
    sign = builder.shl(builder.and_(half, _everywhere(0x8000)), _everywhere(16))
    return builder.bitcast(builder.or_(builder.bitcast(scaled, _vector(_I32)), sign), _vector(_FLOAT))


def load_halves(builder, address, number):
    """LANES float16 numbers in float32, the first of this number; for tiles.strided."""
    return _float16(builder, builder.add(address, builder.mul(number, _INT(HALF_BYTES))))


def _fetch_ahead(builder, source, size):
    for line in range(0, size, LINE_BYTES):
        fetch(builder, builder.add(source, _INT(_AHEAD + line)))


def _emit_blocks(size, emit, builder, count, source, room):
    blocks = builder.sdiv(builder.add(count, _INT(BLOCK - 1)), _INT(BLOCK))
    with cgutils.for_range(builder, blocks) as loop:
        its_source = builder.add(source, builder.mul(loop.index, _INT(size)))
        _fetch_ahead(builder, its_source, size)
        into = builder.add(room, builder.mul(loop.index, _INT(FLOAT_BYTES * BLOCK * PANEL)))
        for number in range(0, PANEL, LANES):
            emit(builder, its_source, number, builder.add(into, _INT(FLOAT_BYTES * number)))


def _emit_int8(builder, source, first, room):
    scale = load_vector(builder, builder.add(source, _INT(FLOAT_BYTES * first)))
    numbers = builder.add(source, _INT(FLOAT_BYTES * PANEL + first))
    with cgutils.for_range(builder, _INT(BLOCK)) as loop:
        line = builder.mul(loop.index, _INT(PANEL))
        whole = builder.sext(load_vector(builder, builder.add(numbers, line), _I8), _vector(_I32))
        weight = builder.fmul(builder.sitofp(whole, _vector(_FLOAT)), scale)
        store_vector(builder, weight, builder.add(room, builder.mul(line, _INT(FLOAT_BYTES))))


def _emit_int4(builder, source, first, room):
    """Half of a word's amounts stay where they lie, and their scale is the smaller for it, by a power of two."""
    half = PER_WORD // 2
    scale = _float16(builder, builder.add(source, _INT(HALF_BYTES * first)))
    least = _float16(builder, builder.add(source, _INT(HALF_BYTES * (PANEL + first))))
    scales = [builder.fmul(scale, _floats(0.0625**k)) for k in range(half)]
    words = builder.add(source, _INT(2 * HALF_BYTES * PANEL + _WORD_BYTES * first))
    for number in range(BLOCK // PER_WORD):
        word = load_vector(builder, builder.add(words, _INT(_WORD_BYTES * PANEL * number)), _I32)
        high = builder.lshr(word, _everywhere(4 * half))
        for k in range(PER_WORD):
            amount = builder.and_(high if k >= half else word, _everywhere(15 << 4 * (k % half)))
            part = builder.fmul(builder.sitofp(amount, _vector(_FLOAT)), scales[k % half], flags=("contract",))
            place = builder.add(room, _INT(FLOAT_BYTES * PANEL * (PER_WORD * number + k)))
            store_vector(builder, builder.fadd(part, least, flags=("contract",)), place)


_EMIT = {
    BFLOAT16: partial(_emit_halves, _bfloat16),
    FLOAT16: partial(_emit_halves, _float16),
    INT8: partial(_emit_blocks, _INT8_BYTES, _emit_int8),
    INT4: partial(_emit_blocks, _INT4_BYTES, _emit_int4),
}


@intrinsic
def widen(_context, kind, source, count, room):
    """room[count, PANEL] in float32, of a format that isn't; both are addresses. Fills whole BLOCKs."""

    def generate(context, builder, _signature, arguments):
        kind, source, count, room = arguments
        for number, emit in _EMIT.items():
            with builder.if_then(builder.icmp_signed("==", kind, _INT(number))):
                emit(builder, count, source, room)
        return context.get_dummy_value()

    return void(int64, int64, int64, int64), generate


@numba.njit(int64(int64, int64), cache=True, nogil=True)
def bytes_of(kind, count):
    """Of a panel with so many inputs."""
    if kind in (INT8, INT4):
        return -(-count // BLOCK) * (_INT8_BYTES if kind == INT8 else _INT4_BYTES)
    return count * PANEL * (FLOAT_BYTES if kind == FLOAT32 else HALF_BYTES)


@numba.njit(void(int64, int64, int64, int64, int64), cache=True, nogil=True, parallel=True)
def widen_panels(kind, panels, count, source, room):
    """room[panels, count, PANEL] in float32, where count is rounded up to whole BLOCKs."""
    whole = -(-count // BLOCK) * BLOCK
    for panel in prange(panels):
        from_panel = source + panel * bytes_of(kind, count)
        widen(kind, from_panel, count, room + panel * bytes_of(FLOAT32, whole))
