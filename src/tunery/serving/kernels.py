"""A decoding step's small work in compiled loops, for float32 on the CPU. Knows no model, no request and no schedule.

For the few rows of a step torch spends more time between its operators than in them, and has none that reads keys and
values where they lie or gives each row its own adapter. numba compiles these at the first import and keeps the result;
a user's machine needs no compiler. Sums may be taken in another order, broken numbers stay broken.
"""

import numba
import numpy as np
import torch
from numba import float32, int64, prange, void
from numpy.typing import NDArray
from torch import Tensor

from tunery.models.loops import highest_of
from tunery.models.tiles import STRIP_ROWS, multiply
from tunery.models.vectors import FLOAT_BYTES, IN_VECTORS, exp

Places = NDArray[np.int64]
FEW_TOKENS = 256
"""Up to here it takes longer to wake another thread than to do its part."""
FEW_TOGETHER = 4
"""Rows that share what is fetched of their adapter where there are too few for two threads of STRIP_ROWS each."""


_CACHE = (float32[:, :, :, ::1], float32[:, :, :, ::1])
"""Keys [blocks, Hkv, D, BLOCK_SIZE] and values [blocks, BLOCK_SIZE, Hkv, D] of a layer."""


def use_threads(count: int) -> None:
    """Of the calling thread's kernels."""
    numba.set_num_threads(max(1, min(count, numba.config.NUMBA_NUM_THREADS)))


def write(slots: Places, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> None:
    """k and v [T, Hkv, D] into slots[T], a block's number times its size and a place in it; see cache.py."""
    _write(slots, k.numpy(), v.numpy(), keys.numpy(), values.numpy())


def attend(q: Tensor, keys: Tensor, values: Tensor, tables: Places, lengths: Places, window: int) -> Tensor:
    """q[B, Hq, D], the newest token of each sequence, over keys and values as they lie in cache.py.

    tables[B, N] holds the blocks of each sequence, lengths[B] its tokens; each sees the last `window` of them.
    """
    out = torch.empty(q.shape)
    attend_rows(q.numpy(), keys.numpy(), values.numpy(), tables, lengths, window, out.numpy())
    return out


def add_low_rank(x: Tensor, y: Tensor, rows: Places, matrices: Places, members: Places) -> None:
    """Adds each row's own adapter of a group of linear layers to y[T, out] in place; x[T, in].

    rows[T] is the adapter's place in matrices[A, 3], or -1: where its down [in, M * rank] and its members' ups
    [rank, out] one after another lie in memory, and its rank. members[M] are their numbers of outputs; 0 is no member.
    """
    _add_low_rank(groups_of(rows), x.contiguous().numpy(), y.numpy(), rows, matrices, members)


def groups_of(rows: Places) -> Places:
    """Where groups of neighbours with the same adapter begin, STRIP_ROWS at most, and where the last one ends."""
    most = STRIP_ROWS if len(rows) >= 2 * STRIP_ROWS else FEW_TOGETHER
    starts = [0]
    for row in range(1, len(rows)):
        if rows[row] != rows[starts[-1]] or row - starts[-1] == most:
            starts.append(row)
    return np.array([*starts, len(rows)])


@numba.njit(void(int64, float32[:, :], float32[:, :], *_CACHE), cache=True, nogil=True)
def write_row(slot, k, v, keys, values):
    block, place = slot // keys.shape[3], slot % keys.shape[3]
    for head in range(keys.shape[1]):
        for i in range(keys.shape[2]):
            keys[block, head, i, place] = k[head, i]
            values[block, place, head, i] = v[head, i]


@numba.njit(void(int64[::1], float32[:, :, :], float32[:, :, :], *_CACHE), cache=True, nogil=True)
def _write(slots, k, v, keys, values):
    for row in range(len(slots)):
        write_row(slots[row], k[row], v[row], keys, values)


@numba.njit(void(float32[::1], float32), **IN_VECTORS)
def _softmax(scores, scale):
    """Of scale * scores, in place."""
    highest = highest_of(scores) * scale
    total = float32(0)
    for i in range(len(scores)):
        scores[i] = exp(scores[i] * scale - highest)
        total += scores[i]
    for i in range(len(scores)):
        scores[i] /= total


ATTEND = (float32[:, :, :], *_CACHE, int64[:, ::1], int64[::1], int64, float32[:, :, ::1])


@numba.njit(void(int64, *ATTEND), cache=True, nogil=True)
def _attend_head(head, q, keys, values, tables, lengths, window, out):
    """Of all sequences' key heads one, for the query heads that share it; these come one after another."""
    _, kv_heads, dim, block_size = keys.shape
    shared = q.shape[1] // kv_heads
    row, kv_head = head // kv_heads, head % kv_heads
    first = max(0, lengths[row] - window) // block_size
    begin, end = max(0, lengths[row] - window) - first * block_size, lengths[row] - first * block_size
    blocks = tables[row, first : first + -(-end // block_size)]
    width = len(blocks) * block_size
    weights = np.empty((shared, width), dtype=np.float32)
    asked = (q[row, kv_head * shared :].ctypes.data, q.strides[1] // FLOAT_BYTES, q.strides[2] // FLOAT_BYTES)
    for place, block in enumerate(blocks):
        scores = (weights[:, place * block_size :].ctypes.data, width)
        multiply(shared, asked, dim, (keys[block, kv_head].ctypes.data, block_size), block_size, scores, 0)
    for one in range(shared):
        _softmax(weights[one, begin:end], float32(1) / np.sqrt(float32(dim)))
    mixed = (out[row, kv_head * shared :].ctypes.data, dim)
    for place, block in enumerate(blocks):
        start = begin if place == 0 else 0
        count = min(block_size, end - place * block_size) - start
        shares = (weights[:, place * block_size + start :].ctypes.data, width, 1)
        its_values = (values[block, start, kv_head:].ctypes.data, kv_heads * dim)
        multiply(shared, shares, count, its_values, dim, mixed, place)


@numba.njit(void(*ATTEND), cache=True, nogil=True, parallel=True)
def _attend_together(q, keys, values, tables, lengths, window, out):
    for head in prange(len(q) * keys.shape[1]):
        _attend_head(head, q, keys, values, tables, lengths, window, out)


@numba.njit(void(*ATTEND), cache=True, nogil=True)
def attend_rows(q, keys, values, tables, lengths, window, out):
    if lengths.sum() > FEW_TOKENS:
        _attend_together(q, keys, values, tables, lengths, window, out)
    else:
        for head in range(len(q) * keys.shape[1]):
            _attend_head(head, q, keys, values, tables, lengths, window, out)


ADD_LOW_RANK = (float32[:, ::1], float32[:, ::1], int64[::1], int64[:, ::1], int64[::1])


@numba.njit(void(int64, int64, *ADD_LOW_RANK), cache=True, nogil=True)
def add_to_rows(start, end, x, y, rows, matrices, members):
    """For rows of one adapter that lie one after another; see add_low_rank."""
    if rows[start] < 0:
        return
    address, rank = matrices[rows[start], 1], matrices[rows[start], 2]
    width = (members > 0).sum() * rank
    low = np.empty((end - start, width), dtype=np.float32)
    at_x = (x[start:].ctypes.data, x.shape[1], 1)
    multiply(end - start, at_x, x.shape[1], (matrices[rows[start], 0], width), width, (low.ctypes.data, width), 0)
    first = 0
    for member in range(width // rank):
        outputs = members[member]
        at_low, at_y = (low[:, member * rank :].ctypes.data, width, 1), (y[start:, first:].ctypes.data, y.shape[1])
        multiply(end - start, at_low, rank, (address, outputs), outputs, at_y, 1)
        address += rank * outputs * FLOAT_BYTES
        first += outputs


@numba.njit(void(int64[::1], *ADD_LOW_RANK), cache=True, nogil=True, parallel=True)
def _add_low_rank(starts, x, y, rows, matrices, members):
    for group in prange(len(starts) - 1):
        add_to_rows(starts[group], starts[group + 1], x, y, rows, matrices, members)
