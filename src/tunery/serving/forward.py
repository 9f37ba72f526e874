"""All blocks of our own decoder in one compiled call, for the few rows of a decoding step (models/decoder.py's formulas).

Between two products each row's small work is done at once: its adapter's term, norms, rotary positions, the cache.
Float32 on the CPU. Knows no request and no schedule. Callees in other files are compiled into this one: numba looks for
changes in this file only, so remove the kept results (*.nbi, *.nbc) after changing those.
"""

from typing import NamedTuple

import numba
import numpy as np
from numba import carray, float32, int64, prange, void
from numpy.typing import NDArray

from tunery.serving.kernels import FEW_ROWS, MATH, add_to_row, attend_rows, exp, norm_row
from tunery.serving.products import floats_at, multiply

Floats = NDArray[np.float32]
Places = NDArray[np.int64]
QKV, O, GATE_UP, DOWN = range(4)
"""Places of the groups of linear layers, in the order of decoder.GROUPS."""
EVERY = 1 << 62
"""A window that leaves nothing out."""
BEGIN, AFTER_QKV, AFTER_O, AFTER_GATE_UP, AFTER_DOWN = range(5)


class Blocks(NamedTuple):
    """A decoder's L blocks: addresses of its weights, and sizes."""

    matrices: Places
    """[L, 4, 4]: `PanelLinear.place` of each group."""
    norms: Places
    """[L, 4]: where the weights of the norms before attention and feed forward lie, of queries' and keys' heads or 0."""
    heads: int
    kv_heads: int
    dim: int
    eps: float


class Batch(NamedTuple):
    """T rows: each the newest token of its sequence, or one of a few whose predecessors are rows above it."""

    cos: Floats
    """[T, dim / 2], and sin"""
    sin: Floats
    slots: Places
    """[T]: where their keys and values go in a layer's [slots, Hkv, D]"""
    tables: Places
    """[T, N]: the blocks of their sequences"""
    lengths: Places
    """[T]: how many tokens they see, themselves included"""


class Adapters(NamedTuple):
    """See kernels.add_low_rank."""

    rows: Places
    """[T]"""
    matrices: Places
    """[L, 4, A, 3]"""
    members: Places
    """[4, 3]: numbers of outputs, 0 where a group has fewer members"""


class Room(NamedTuple):
    """What is computed on the way, [T, ...] each."""

    normed: Floats
    qkv: Floats
    mixed: Floats
    gate_up: Floats
    inner: Floats
    out: Floats


_FLOATS, _PLACES = np.empty((1, 1), np.float32), np.empty(1, np.int64)
_TABLE, _TABLES = np.empty((1, 1), np.int64), np.empty((1, 1, 1), np.int64)
_BLOCKS = numba.typeof(Blocks(_TABLES, _TABLE, 1, 1, 1, 1e-5))
_BATCH = numba.typeof(Batch(_FLOATS, _FLOATS, _PLACES, _TABLE, _PLACES))
_ADAPTERS = numba.typeof(Adapters(_PLACES, np.empty((1, 1, 1, 1), np.int64), _TABLE))
_ROOM = numba.typeof(Room(*[_FLOATS] * 6))
_SIDE = float32[:, :, :, ::1]
_STEP = (float32[:, ::1], _BLOCKS, _BATCH, _ADAPTERS, _ROOM)

@numba.njit(void(int64, int64, float32[:, ::1], float32[:, ::1], int64, _ADAPTERS), cache=True, nogil=True)
def _adapt(row, layer, x, y, group, adapters):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    add_to_row(row, x, y, adapters.rows, adapters.matrices[layer, group], adapters.members[group])


@numba.njit(void(float32[::1], float32[::1], float32[::1]), cache=True, nogil=True, fastmath=MATH)
def _rotate_head(head, cos, sin):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    half = len(cos)
    for i in range(half):
        first, second = head[i], head[half + i]
        head[i], head[half + i] = first * cos[i] - second * sin[i], second * cos[i] + first * sin[i]


@numba.njit(void(int64, int64, _BLOCKS, _BATCH, _SIDE, _SIDE, _ROOM), cache=True, nogil=True)
def _to_cache(row, layer, blocks, batch, keys, values, room):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Norms and turns the row's queries and keys, and stores its keys and values."""
    eps, dim, block_size = float32(blocks.eps), blocks.dim, keys.shape[1]
    key, value = blocks.heads, blocks.heads + blocks.kv_heads
    qkv = room.qkv[row].reshape(-1, dim)
    for head in range(value):
        address = blocks.norms[layer, 2 if head < key else 3]
        if address:
            norm_row(qkv[head], carray(floats_at(address), (dim,)), eps, qkv[head])
        _rotate_head(qkv[head], batch.cos[row], batch.sin[row])
    block, place = batch.slots[row] // block_size, batch.slots[row] % block_size
    keys[block, place] = qkv[key:value]
    values[block, place] = qkv[value:]


@numba.njit(void(float32[::1], float32[::1]), cache=True, nogil=True, fastmath=MATH)
def _swiglu(gate_up, inner):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    width = len(inner)
    for i in range(width):
        inner[i] = gate_up[i] / (float32(1) + exp(-gate_up[i])) * gate_up[width + i]


@numba.njit(void(int64, int64, float32[::1], _BLOCKS, float32[::1]), cache=True, nogil=True)
def _norm(layer, which, x, blocks, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    norm_row(x, carray(floats_at(blocks.norms[layer, which]), (len(x),)), float32(blocks.eps), out)


@numba.njit(void(float32[::1], float32[::1]), cache=True, nogil=True)
def _add(x, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for i in range(len(x)):
        x[i] += out[i]


@numba.njit(void(int64, int64, int64, *_STEP, _SIDE, _SIDE), cache=True, nogil=True)
def _row(stage, row, layer, x, blocks, batch, adapters, room, keys, values):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913
    """What happens to a row between two products."""
    if stage == BEGIN:
        _norm(layer, 0, x[row], blocks, room.normed[row])
    elif stage == AFTER_QKV:
        _adapt(row, layer, room.normed, room.qkv, QKV, adapters)
        _to_cache(row, layer, blocks, batch, keys, values, room)
    elif stage == AFTER_O:
        _adapt(row, layer, room.mixed, room.out, O, adapters)
        _add(x[row], room.out[row])
        _norm(layer, 1, x[row], blocks, room.normed[row])
    elif stage == AFTER_GATE_UP:
        _adapt(row, layer, room.normed, room.gate_up, GATE_UP, adapters)
        _swiglu(room.gate_up[row], room.inner[row])
    else:
        _adapt(row, layer, room.inner, room.out, DOWN, adapters)
        _add(x[row], room.out[row])
        if layer + 1 < len(blocks.norms):
            _norm(layer + 1, 0, x[row], blocks, room.normed[row])


@numba.njit(void(int64, int64, *_STEP, _SIDE, _SIDE), cache=True, nogil=True, parallel=True)
def _rows_together(stage, layer, x, blocks, batch, adapters, room, keys, values):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913
    for row in prange(len(x)):
        _row(stage, row, layer, x, blocks, batch, adapters, room, keys, values)


@numba.njit(void(int64, int64, *_STEP, _SIDE, _SIDE), cache=True, nogil=True)
def _rows(stage, layer, x, blocks, batch, adapters, room, keys, values):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913
    if len(x) > FEW_ROWS:
        _rows_together(stage, layer, x, blocks, batch, adapters, room, keys, values)
    else:
        for row in range(len(x)):
            _row(stage, row, layer, x, blocks, batch, adapters, room, keys, values)


@numba.njit(void(float32[:, ::1], int64[::1], float32[:, ::1]), cache=True, nogil=True)
def _multiply(x, matrix, y):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    multiply(len(x), x.ctypes.data, matrix, y.ctypes.data)


@numba.njit(void(*_STEP, float32[:, :, :, :, :, ::1]), cache=True, nogil=True)
def run(x, blocks, batch, adapters, room, pool):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """x[T, hidden] of all blocks, in place; pool[L, 2, blocks, BLOCK_SIZE, Hkv, D] takes the new keys and values."""
    heads = blocks.heads + 2 * blocks.kv_heads
    q = room.qkv.reshape(len(x), heads, blocks.dim)[:, : blocks.heads]
    mixed = room.mixed.reshape(len(x), blocks.heads, blocks.dim)
    for layer in range(len(blocks.norms)):
        keys, values, matrices = pool[layer, 0], pool[layer, 1], blocks.matrices[layer]
        if layer == 0:
            _rows(BEGIN, layer, x, blocks, batch, adapters, room, keys, values)
        _multiply(room.normed, matrices[QKV], room.qkv)
        _rows(AFTER_QKV, layer, x, blocks, batch, adapters, room, keys, values)
        attend_rows(q, keys, values, batch.tables, batch.lengths, EVERY, mixed)
        _multiply(room.mixed, matrices[O], room.out)
        _rows(AFTER_O, layer, x, blocks, batch, adapters, room, keys, values)
        _multiply(room.normed, matrices[GATE_UP], room.gate_up)
        _rows(AFTER_GATE_UP, layer, x, blocks, batch, adapters, room, keys, values)
        _multiply(room.inner, matrices[DOWN], room.out)
        _rows(AFTER_DOWN, layer, x, blocks, batch, adapters, room, keys, values)
