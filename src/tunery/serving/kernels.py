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
from tunery.models.vectors import FLOAT_BYTES, IN_VECTORS, LINE_BYTES, exp, fetch_line
from tunery.serving import strips
from tunery.serving.strips import FORMATS, in_strips

__all__ = ["FORMATS", "add_low_rank", "attend", "groups_of", "in_strips", "use_threads", "write"]
Places = NDArray[np.int64]
FEW_TOKENS = 256
"""Up to here it takes longer to wake another thread than to do its part."""
FEW_TOGETHER = 4
"""Rows that share what is fetched of their adapter where there are too few for two threads of STRIP_ROWS each."""


LOOKING_TOGETHER = 16
"""Neighbouring tokens of a sequence that share what is fetched of its cache."""
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
    each = np.arange(len(q) + 1)
    attend_rows(q.numpy(), keys.numpy(), values.numpy(), each, tables, lengths, window, out.numpy())
    return out


def add_low_rank(x: Tensor, y: Tensor, rows: Places, matrices: Places, members: Places) -> None:
    """Adds each row's own adapter of a group of linear layers to y[T, out] in place; x[T, in].

    rows[T] is the adapter's place in matrices[A, 4], or -1: where its down [in, M * rank] and its members' ups
    [rank, out] lie `in_strips`, its rank and its format. members[M] are their numbers of outputs; 0 is no member.
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


@numba.njit(void(float32[:, :]), cache=True, nogil=True)
def _fetch(matrix):
    """Its rows, which lie apart in memory: too few neighbours for the processor to foresee."""
    for row in range(len(matrix)):
        begin = matrix.ctypes.data + row * matrix.strides[0]
        for place in range(begin, begin + matrix.shape[1] * FLOAT_BYTES, LINE_BYTES):
            fetch_line(place)


ATTEND = (float32[:, :, :], *_CACHE, int64[::1], int64[:, ::1], int64[::1], int64, float32[:, :, ::1])


@numba.njit(void(int64, *ATTEND), cache=True, nogil=True)
def _attend_head(task, q, keys, values, starts, tables, lengths, window, out):
    """One key head of some neighbouring tokens of a sequence, for the query heads that share it."""
    _, kv_heads, dim, block_size = keys.shape
    shared = q.shape[1] // kv_heads
    group, kv_head = task // kv_heads, task % kv_heads
    begin, end, head = starts[group], starts[group + 1], kv_head * shared
    lowest, longest = max(0, lengths[begin] - window), lengths[end - 1]
    first = lowest // block_size
    blocks = tables[begin, first : -(-longest // block_size)]
    count, width = (end - begin) * shared, len(blocks) * block_size
    asked, mixed = np.empty((count, dim), np.float32), np.empty((count, dim), np.float32)
    weights = np.empty((count, width), np.float32)
    for one in range(count):
        asked[one] = q[begin + one // shared, head + one % shared]
    for place, block in enumerate(blocks):
        if place + 1 < len(blocks):
            _fetch(keys[blocks[place + 1], kv_head])
        _fetch(values[block, :, kv_head])
        scores = (weights[:, place * block_size :].ctypes.data, width)
        its_keys = (keys[block, kv_head].ctypes.data, block_size)
        multiply(count, (asked.ctypes.data, dim, 1), dim, its_keys, block_size, scores, 0)
    for one in range(count):
        until = lengths[begin + one // shared] - first * block_size
        since = max(0, until - window)
        _softmax(weights[one, since:until], float32(1) / np.sqrt(float32(dim)))
        weights[one, :since] = 0
        weights[one, until:] = 0
    for place, block in enumerate(blocks):
        start = lowest - first * block_size if place == 0 else 0
        seen = min(block_size, longest - (first + place) * block_size) - start
        shares = (weights[:, place * block_size + start :].ctypes.data, width, 1)
        its_values = (values[block, start, kv_head:].ctypes.data, kv_heads * dim)
        multiply(count, shares, seen, its_values, dim, (mixed.ctypes.data, dim), place)
    for one in range(count):
        out[begin + one // shared, head + one % shared] = mixed[one]


@numba.njit(void(*ATTEND), cache=True, nogil=True, parallel=True)
def _attend_together(q, keys, values, starts, tables, lengths, window, out):
    for task in prange((len(starts) - 1) * keys.shape[1]):
        _attend_head(task, q, keys, values, starts, tables, lengths, window, out)


@numba.njit(void(*ATTEND), cache=True, nogil=True)
def attend_rows(q, keys, values, starts, tables, lengths, window, out):
    if lengths.sum() > FEW_TOKENS:
        _attend_together(q, keys, values, starts, tables, lengths, window, out)
    else:
        for task in range((len(starts) - 1) * keys.shape[1]):
            _attend_head(task, q, keys, values, starts, tables, lengths, window, out)


ADD_LOW_RANK = (float32[:, ::1], float32[:, ::1], int64[::1], int64[:, ::1], int64[::1])


@numba.njit(void(int64, int64, *ADD_LOW_RANK), cache=True, nogil=True)
def add_to_rows(start, end, x, y, rows, matrices, members):
    """For rows of one adapter that lie one after another; see add_low_rank."""
    if rows[start] < 0:
        return
    where = matrices[rows[start]]
    down, address, rank, kind = where[0], where[1], where[2], where[3]
    width = (members > 0).sum() * rank
    low = np.empty((end - start, width), dtype=np.float32)
    at_x = (x[start:].ctypes.data, x.shape[1], 1)
    strips.multiply(end - start, at_x, x.shape[1], (down, kind), width, (low.ctypes.data, width), 0)
    first = 0
    for member in range(width // rank):
        outputs = members[member]
        at_low, at_y = (low[:, member * rank :].ctypes.data, width, 1), (y[start:, first:].ctypes.data, y.shape[1])
        strips.multiply(end - start, at_low, rank, (address, kind), outputs, at_y, 1)
        address += strips.strip_bytes(kind, rank, outputs)
        first += outputs


@numba.njit(void(int64[::1], *ADD_LOW_RANK), cache=True, nogil=True, parallel=True)
def _add_low_rank(starts, x, y, rows, matrices, members):
    for group in prange(len(starts) - 1):
        add_to_rows(starts[group], starts[group + 1], x, y, rows, matrices, members)
