"""All blocks of our own decoder (models/decoder.py) in one compiled call, for the rows of a decoding step.

Between two products each row's small work is done at once: its adapter's term, norms, rotary positions, the cache.
Float32 on the CPU. Knows no request and no schedule. Callees in other files are compiled into this one: numba looks for
changes in this file only, so remove the kept results (*.nbi, *.nbc) after changing those.
"""

from typing import NamedTuple

import numba
import numpy as np
from numba import carray, float32, int64, prange, void
from numpy.typing import NDArray

from tunery.models.loops import norm_row, swiglu_row
from tunery.models.vectors import IN_VECTORS, floats_at
from tunery.serving.kernels import add_to_rows, attend_rows, write_row
from tunery.serving.products import multiply

Floats = NDArray[np.float32]
Places = NDArray[np.int64]
QKV, MIXED, GATE_UP, DOWN = range(4)
"""Places of the groups of linear layers, in the order of decoder.GROUPS."""
FEW_GROUPS = 1
"""Up to here it takes longer to wake another thread than to do its part."""
EVERY = 1 << 62
"""A window that leaves nothing out."""
BEGIN, AFTER_QKV, AFTER_O, AFTER_GATE_UP, AFTER_DOWN = range(5)


class Blocks(NamedTuple):
    """A decoder's L blocks: addresses of its weights, and sizes."""

    matrices: Places
    """[L, 4, 5]: `PanelLinear.place` of each group."""
    norms: Places
    """[L, 4]: where the norms' weights lie: before attention, before feed forward, of query and key heads (or 0)."""
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
    starts: Places
    """Where neighbours of one sequence begin that look at its cache together, and where the last ones end"""
    tables: Places
    """[T, N]: the blocks of their sequences"""
    lengths: Places
    """[T]: how many tokens they see, themselves included"""
    keys: Floats
    """[L, blocks, Hkv, D, BLOCK_SIZE]; takes the new ones, as do values"""
    values: Floats
    """[L, blocks, BLOCK_SIZE, Hkv, D]"""


class Adapters(NamedTuple):
    """See kernels.add_low_rank."""

    starts: Places
    """See kernels.groups_of."""
    rows: Places
    """[T]"""
    matrices: Places
    """[L, 4, A, 4]"""
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
_CACHE = np.empty((1,) * 5, np.float32)
_BATCH = numba.typeof(Batch(_FLOATS, _FLOATS, _PLACES, _PLACES, _TABLE, _PLACES, _CACHE, _CACHE))
_ADAPTERS = numba.typeof(Adapters(_PLACES, _PLACES, np.empty((1, 1, 1, 1), np.int64), _TABLE))
_ROOM = numba.typeof(Room(*[_FLOATS] * 6))
_STEP = (float32[:, ::1], _BLOCKS, _BATCH, _ADAPTERS, _ROOM)


@numba.njit(void(float32[::1], float32[::1], float32[::1]), **IN_VECTORS)
def _rotate_head(head, cos, sin):
    half = len(cos)
    for i in range(half):
        first, second = head[i], head[half + i]
        head[i], head[half + i] = first * cos[i] - second * sin[i], second * cos[i] + first * sin[i]


@numba.njit(void(int64, int64, _BLOCKS, _BATCH, _ROOM), cache=True, nogil=True)
def _to_cache(row, layer, blocks, batch, room):
    """Norms and turns the row's queries and keys, and stores its keys and values."""
    eps, dim = float32(blocks.eps), blocks.dim
    key, value = blocks.heads, blocks.heads + blocks.kv_heads
    qkv = room.qkv[row].reshape(-1, dim)
    for head in range(value):
        address = blocks.norms[layer, 2 if head < key else 3]
        if address:
            norm_row(qkv[head], carray(floats_at(address), (dim,)), eps, qkv[head])
        _rotate_head(qkv[head], batch.cos[row], batch.sin[row])
    write_row(batch.slots[row], qkv[key:value], qkv[value:], batch.keys[layer], batch.values[layer])


@numba.njit(void(int64, int64, float32[::1], _BLOCKS, float32[::1]), cache=True, nogil=True)
def _norm(layer, which, x, blocks, out):
    norm_row(x, carray(floats_at(blocks.norms[layer, which]), (len(x),)), float32(blocks.eps), out)


@numba.njit(void(float32[::1], float32[::1]), cache=True, nogil=True)
def _add(x, out):
    for i in range(len(x)):
        x[i] += out[i]


@numba.njit(void(int64, int64, int64, _ADAPTERS, _ROOM), cache=True, nogil=True)
def _adapt(stage, group, layer, adapters, room):
    """Adds the low-rank terms of the product just made."""
    if stage == AFTER_QKV:
        which, x, y = QKV, room.normed, room.qkv
    elif stage == AFTER_O:
        which, x, y = MIXED, room.mixed, room.out
    elif stage == AFTER_GATE_UP:
        which, x, y = GATE_UP, room.normed, room.gate_up
    else:
        which, x, y = DOWN, room.inner, room.out
    start, end = adapters.starts[group], adapters.starts[group + 1]
    add_to_rows(start, end, x, y, adapters.rows, adapters.matrices[layer, which], adapters.members[which])


@numba.njit(void(int64, int64, int64, *_STEP), cache=True, nogil=True)
def _group(stage, group, layer, x, blocks, batch, adapters, room):
    """What happens between two products to neighbours of one adapter."""
    if stage != BEGIN:
        _adapt(stage, group, layer, adapters, room)
    for row in range(adapters.starts[group], adapters.starts[group + 1]):
        if stage == AFTER_QKV:
            _to_cache(row, layer, blocks, batch, room)
        elif stage == AFTER_O:
            _add(x[row], room.out[row])
            _norm(layer, 1, x[row], blocks, room.normed[row])
        elif stage == AFTER_GATE_UP:
            width = room.inner.shape[1]
            swiglu_row(room.gate_up[row, :width], room.gate_up[row, width:], room.inner[row])
        elif stage == AFTER_DOWN:
            _add(x[row], room.out[row])
        if stage == BEGIN or (stage == AFTER_DOWN and layer + 1 < len(blocks.norms)):
            _norm(layer + 1, 0, x[row], blocks, room.normed[row])


@numba.njit(void(int64, int64, *_STEP), cache=True, nogil=True, parallel=True)
def _together(stage, layer, x, blocks, batch, adapters, room):
    for group in prange(len(adapters.starts) - 1):
        _group(stage, group, layer, x, blocks, batch, adapters, room)


@numba.njit(void(int64, int64, *_STEP), cache=True, nogil=True)
def _between(stage, layer, x, blocks, batch, adapters, room):
    if len(adapters.starts) - 1 > FEW_GROUPS:
        _together(stage, layer, x, blocks, batch, adapters, room)
    else:
        for group in range(len(adapters.starts) - 1):
            _group(stage, group, layer, x, blocks, batch, adapters, room)


@numba.njit(void(float32[:, ::1], int64[::1], float32[:, ::1]), cache=True, nogil=True)
def _multiply(x, matrix, y):
    multiply(len(x), x.ctypes.data, matrix, y.ctypes.data)


@numba.njit(void(*_STEP), cache=True, nogil=True)
def run(x, blocks, batch, adapters, room):
    """x[T, hidden] through all blocks, in place."""
    heads = blocks.heads + 2 * blocks.kv_heads
    q = room.qkv.reshape(len(x), heads, blocks.dim)[:, : blocks.heads]
    mixed = room.mixed.reshape(len(x), blocks.heads, blocks.dim)
    _between(BEGIN, -1, x, blocks, batch, adapters, room)
    for layer in range(len(blocks.norms)):
        matrices, keys, values = blocks.matrices[layer], batch.keys[layer], batch.values[layer]
        _multiply(room.normed, matrices[QKV], room.qkv)
        _between(AFTER_QKV, layer, x, blocks, batch, adapters, room)
        attend_rows(q, keys, values, batch.starts, batch.tables, batch.lengths, EVERY, mixed)
        _multiply(room.mixed, matrices[MIXED], room.out)
        _between(AFTER_O, layer, x, blocks, batch, adapters, room)
        _multiply(room.normed, matrices[GATE_UP], room.gate_up)
        _between(AFTER_GATE_UP, layer, x, blocks, batch, adapters, room)
        _multiply(room.inner, matrices[DOWN], room.out)
        _between(AFTER_DOWN, layer, x, blocks, batch, adapters, room)
