"""What compiled loops have in common: numbers by their address, and an exponential in vectors. Knows no model."""

from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import float32, int32, int64, types
from numba.core import cgutils
from numba.extending import intrinsic

IN_VECTORS: dict[str, Any] = {
    "cache": True,
    "nogil": True,
    "fastmath": {"reassoc", "contract", "arcp", "nsz"},
    "error_model": "numpy",
}
"""How a loop is compiled to vector instructions: sums may be taken in another order, and a division raises nothing, for
one that may is done number by number. Broken numbers stay broken."""
FLOAT_BYTES = 4
LANES = 16 if llvm.get_host_cpu_features().get("avx512f", False) else 8
"""Float32 numbers of a register."""
LINE_BYTES = 64
"""Of memory that comes into a cache together."""
_FLOAT, _I32 = ir.FloatType(), ir.IntType(32)


def load_vector(builder, address, kind=_FLOAT):
    """LANES numbers of an LLVM kind, wherever they lie; for code that is put together in LLVM's own terms."""
    place = builder.inttoptr(address, ir.VectorType(kind, LANES).as_pointer())
    return builder.load(place, align=1)


def store_vector(builder, vector, address):
    builder.store(vector, builder.inttoptr(address, vector.type.as_pointer()), align=1)


def fetch(builder, address):
    """Into the second cache; an address that isn't memory does nothing."""
    pointer = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), (pointer, _I32, _I32, _I32))
    prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(prefetch, (builder.inttoptr(address, pointer), _I32(0), _I32(2), _I32(1)))


@intrinsic
def floats_at(_context, address):
    """A pointer to the float32 numbers at an address."""

    def generate(_target, builder, _signature, arguments):
        return builder.inttoptr(arguments[0], _FLOAT.as_pointer())

    return types.CPointer(float32)(address), generate


@intrinsic
def fetch_line(_context, address):
    """`fetch` for a loop."""

    def generate(target, builder, _signature, arguments):
        fetch(builder, arguments[0])
        return target.get_dummy_value()

    return types.void(int64), generate


@intrinsic
def _power_of_two(_context, exponent):
    """The float32 2 ** exponent, -126 to 127."""

    def generate(_target, builder, _signature, arguments):
        biased = builder.add(arguments[0], _I32(127))
        return builder.bitcast(builder.shl(biased, _I32(23)), _FLOAT)

    return float32(int32), generate


@numba.njit(float32(float32), cache=True, nogil=True, fastmath={"contract"})
def exp(x):
    """Within 2 units of the last place, in vectors: the C library's is called number by number (Cephes' expf).

    Beyond -87 and 88 it stays where it is there; what is no number stays none.
    """
    near = min(max(x, float32(-87)), float32(88))
    whole = np.floor(near * float32(1.44269504) + float32(0.5))
    rest = near - whole * float32(0.693359375) + whole * float32(2.12194440e-4)
    high = (float32(1.9875691500e-4) * rest + float32(1.3981999507e-3)) * rest + float32(8.3334519073e-3)
    low = ((high * rest + float32(4.1665795894e-2)) * rest + float32(1.6666665459e-1)) * rest + float32(0.5)
    found = (low * rest * rest + rest + float32(1)) * _power_of_two(int32(whole))
    return found if x == x else x  # noqa: PLR0124
