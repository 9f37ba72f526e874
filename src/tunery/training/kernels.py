"""Attention over a tree in compiled loops, forward and backward, for float32 on the CPU. Knows no model and no tree.

Rows come in stretches (stretches.py). A piece of work is a key head over some neighbouring stretches: the keys and
values that a stretch sees are copied side by side once, for the query heads that share them. Scores lie as
[columns, STRIP], a row of the tree in each lane, so that the softmax runs down the columns in vectors and every product
is a tile of tiles.py. Only the softmax's normaliser is kept; the backward pass computes the probabilities again (Dao et
al., arXiv 2205.14135, section 3.1). How many threads share the pieces changes no bit.
"""

import numba
import numpy as np
from numba import float32, int32, int64, prange, void

from tunery.models.tiles import STRIP, multiply
from tunery.models.vectors import IN_VECTORS, exp

UNSEEN = np.float32(-3.4e38)

_ROWS, _LANES = float32[:, ::1], float32[::1]
_HEADS = float32[:, :, ::1]
_PLAN = (int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64)
"""Of all pieces: first row of each stretch, where its columns begin in `nodes`, `nodes`, ends and depths of all nodes,
and how many levels up a row sees."""


@numba.njit(void(_ROWS, _ROWS, _ROWS), cache=True, nogil=True)
def _scores(columns, asked, scores):
    """scores[C, STRIP] = columns[C, D] @ asked[D, STRIP]"""
    width = columns.shape[1]
    x, weights, y = (columns.ctypes.data, width, 1), (asked.ctypes.data, STRIP), (scores.ctypes.data, STRIP)
    multiply(len(columns), x, width, weights, STRIP, y, 0)


@numba.njit(void(int64, _ROWS, _ROWS, _ROWS), cache=True, nogil=True)
def _mix(rows, shares, columns, mixed):
    """mixed[rows, D] = shares[C, STRIP].T @ columns[C, D]"""
    width = columns.shape[1]
    x, weights, y = (shares.ctypes.data, 1, STRIP), (columns.ctypes.data, width), (mixed.ctypes.data, width)
    multiply(rows, x, len(columns), weights, width, y, 0)


@numba.njit(void(int64, _ROWS, _ROWS, _ROWS), cache=True, nogil=True)
def _spread(rows, shares, asked, columns):
    """columns[C, D] += shares[C, STRIP] @ asked[rows, D]"""
    width = columns.shape[1]
    x, weights, y = (shares.ctypes.data, STRIP, 1), (asked.ctypes.data, width), (columns.ctypes.data, width)
    multiply(len(columns), x, rows, weights, width, y, 1)


@numba.njit(void(_HEADS, int64, int64[::1], _ROWS), **IN_VECTORS)
def _gather(x, head, nodes, into):
    """into[C, D] = x[nodes, head]"""
    for column in range(len(nodes)):
        row, its = x[nodes[column], head], into[column]
        for i in range(len(its)):
            its[i] = row[i]


@numba.njit(void(_ROWS, float32, _HEADS, int64, int64[::1]), **IN_VECTORS)
def _scatter(columns, scale, x, head, nodes):
    """x[nodes, head] += columns[C, D] * scale"""
    for column in range(len(nodes)):
        row, its = x[nodes[column], head], columns[column]
        for i in range(len(its)):
            row[i] += its[i] * scale


@numba.njit(void(_ROWS, _LANES, _HEADS, int64, int64, int64), **IN_VECTORS)
def _put(out, factors, x, head, first, rows):
    """x[first : first + rows, head] = out[rows, D] * factors[rows]"""
    for lane in range(rows):
        row, its, factor = x[first + lane, head], out[lane], factors[lane]
        for i in range(len(its)):
            row[i] = its[i] * factor


@numba.njit(void(_HEADS, int64, int64, int64, float32, _ROWS, _ROWS), cache=True, nogil=True)
def _ask(x, first, rows, head, scale, straight, across):
    """straight[STRIP, D] = x[first : first + rows, head], across [D, STRIP] the same times scale, rows in lanes."""
    for lane in range(rows):
        for i in range(x.shape[2]):
            straight[lane, i] = x[first + lane, head, i]
    for i in range(across.shape[0]):
        for lane in range(STRIP):
            across[i, lane] = straight[lane, i] * scale


@numba.njit(
    void(_ROWS, int64, int64[::1], int64[::1], int64[::1], int64), **IN_VECTORS
)  # fmt: skip
def _hide(scores, first, nodes, ends, depths, window):
    """Scores of what a lane's row, the first one's is `first`, doesn't see become UNSEEN."""
    row_depths = np.empty(STRIP, dtype=np.int32)
    for lane in range(STRIP):
        row_depths[lane] = depths[min(first + lane, len(depths) - 1)]
    for column in range(len(nodes)):
        node = nodes[column]
        begin, end = int32(max(node - first, 0)), int32(min(ends[node] - first, STRIP))
        highest = int32(min(depths[node] + window, 2**31 - 1))
        for lane in range(STRIP):
            seen = (int32(lane) >= begin) & (int32(lane) < end) & (row_depths[lane] < highest)
            scores[column, lane] = scores[column, lane] if seen else UNSEEN


@numba.njit(void(_ROWS, _LANES, _LANES), **IN_VECTORS)
def _softmax(scores, highest, totals):
    """scores[C, STRIP] -> their exponentials less each lane's highest, whose sums `totals` are."""
    highest[:] = UNSEEN
    totals[:] = 0
    for column in range(len(scores)):
        for lane in range(STRIP):
            score = scores[column, lane]
            highest[lane] = score if score > highest[lane] else highest[lane]
    for column in range(len(scores)):
        for lane in range(STRIP):
            score = scores[column, lane]
            share = exp(score - highest[lane]) if score != UNSEEN else float32(0)
            scores[column, lane] = share
            totals[lane] += share


@numba.njit(void(_ROWS, _LANES), **IN_VECTORS)
def _shares(scores, normalisers):
    """scores[C, STRIP] -> probabilities."""
    for column in range(len(scores)):
        for lane in range(STRIP):
            score = scores[column, lane]
            scores[column, lane] = exp(score - normalisers[lane]) if score != UNSEEN else float32(0)


@numba.njit(void(_ROWS, _ROWS), **IN_VECTORS)
def _by_scores(shares, by_shares):
    """The softmax's derivative, into by_shares: shares * (by_shares - their mean, weighted by the shares)."""
    means = np.zeros(STRIP, dtype=np.float32)
    for column in range(len(shares)):
        for lane in range(STRIP):
            means[lane] += shares[column, lane] * by_shares[column, lane]
    for column in range(len(shares)):
        for lane in range(STRIP):
            by_shares[column, lane] = shares[column, lane] * (by_shares[column, lane] - means[lane])


FORWARD = (*_PLAN, int64[::1], _HEADS, _HEADS, _HEADS, _HEADS, float32[:, ::1])


@numba.njit(void(int64, int64, int64, *FORWARD[:6], *FORWARD[7:]), cache=True, nogil=True)
def _forward_piece(kv_head, begin, end, firsts, starts, nodes, ends, depths, window, q, k, v, mixed, normalisers):
    shared, dim = q.shape[1] // k.shape[1], q.shape[2]
    scale = float32(1 / np.sqrt(dim))
    most = (starts[1:] - starts[:-1]).max()
    all_keys, all_values = np.zeros((most, dim), np.float32), np.zeros((most, dim), np.float32)
    all_scores = np.empty((most, STRIP), np.float32)
    asked, across = np.zeros((STRIP, dim), np.float32), np.zeros((dim, STRIP), np.float32)
    out = np.empty((STRIP, dim), np.float32)
    highest, totals = np.empty(STRIP, np.float32), np.empty(STRIP, np.float32)
    for stretch in range(begin, end):
        columns = nodes[starts[stretch] : starts[stretch + 1]]
        keys, values, scores = all_keys[: len(columns)], all_values[: len(columns)], all_scores[: len(columns)]
        _gather(k, kv_head, columns, keys)
        _gather(v, kv_head, columns, values)
        for head in range(kv_head * shared, (kv_head + 1) * shared):
            for first in range(firsts[stretch], firsts[stretch + 1], STRIP):
                rows = min(STRIP, firsts[stretch + 1] - first)
                _ask(q, first, rows, head, scale, asked, across)
                _scores(keys, across, scores)
                _hide(scores, first, columns, ends, depths, window)
                _softmax(scores, highest, totals)
                _mix(rows, scores, values, out)
                for lane in range(rows):
                    normalisers[head, first + lane] = highest[lane] + np.log(totals[lane])
                    totals[lane] = float32(1) / totals[lane]
                _put(out, totals, mixed, head, first, rows)


@numba.njit(void(*FORWARD), cache=True, nogil=True, parallel=True)
def forward(firsts, starts, nodes, ends, depths, window, splits, q, k, v, mixed, normalisers):
    """mixed[T, heads, D] of q [T, heads, D], k and v [T, kv_heads, D]; normalisers [heads, T] for `backward`.

    splits: where the stretches of each piece begin, and where the last one's end.
    """
    kv_heads = k.shape[1]
    for piece in prange((len(splits) - 1) * kv_heads):
        split, kv_head = piece // kv_heads, piece % kv_heads
        _forward_piece(
            kv_head, splits[split], splits[split + 1], firsts, starts, nodes, ends, depths, window,
            q, k, v, mixed, normalisers,
        )  # fmt: skip


_GRADIENTS = (_HEADS, _HEADS, float32[:, :, :, ::1], float32[:, :, :, ::1])
BACKWARD = (*_PLAN, int64[::1], _HEADS, _HEADS, _HEADS, float32[:, ::1], *_GRADIENTS)


@numba.njit(
    void(int64, int64, int64, *_PLAN, _HEADS, _HEADS, _HEADS, float32[:, ::1], *[_HEADS] * 4), cache=True, nogil=True
)  # fmt: skip
def _backward_piece(
    kv_head, begin, end, firsts, starts, nodes, ends, depths, window, q, k, v, normalisers, by_mixed, by_q, by_k, by_v
):
    shared, dim = q.shape[1] // k.shape[1], q.shape[2]
    scale = float32(1 / np.sqrt(dim))
    most = (starts[1:] - starts[:-1]).max()
    all_keys, all_values = np.zeros((most, dim), np.float32), np.zeros((most, dim), np.float32)
    all_by_keys, all_by_values = np.empty((most, dim), np.float32), np.empty((most, dim), np.float32)
    all_shares, all_by_shares = np.empty((most, STRIP), np.float32), np.empty((most, STRIP), np.float32)
    asked, asked_across = np.zeros((STRIP, dim), np.float32), np.zeros((dim, STRIP), np.float32)
    given, given_across = np.zeros((STRIP, dim), np.float32), np.zeros((dim, STRIP), np.float32)
    out, lanes, scales = np.empty((STRIP, dim), np.float32), np.empty(STRIP, np.float32), np.full(STRIP, scale)
    for stretch in range(begin, end):
        columns = nodes[starts[stretch] : starts[stretch + 1]]
        keys, values = all_keys[: len(columns)], all_values[: len(columns)]
        by_keys, by_values = all_by_keys[: len(columns)], all_by_values[: len(columns)]
        shares, by_shares = all_shares[: len(columns)], all_by_shares[: len(columns)]
        _gather(k, kv_head, columns, keys)
        _gather(v, kv_head, columns, values)
        by_keys[:] = 0
        by_values[:] = 0
        for head in range(kv_head * shared, (kv_head + 1) * shared):
            for first in range(firsts[stretch], firsts[stretch + 1], STRIP):
                rows = min(STRIP, firsts[stretch + 1] - first)
                _ask(q, first, rows, head, scale, asked, asked_across)
                _ask(by_mixed, first, rows, head, float32(1), given, given_across)
                for lane in range(STRIP):
                    lanes[lane] = normalisers[head, min(first + lane, len(q) - 1)]
                _scores(keys, asked_across, shares)
                _hide(shares, first, columns, ends, depths, window)
                _shares(shares, lanes)
                _scores(values, given_across, by_shares)
                _by_scores(shares, by_shares)
                _mix(rows, by_shares, keys, out)
                _spread(rows, by_shares, asked, by_keys)
                _spread(rows, shares, given, by_values)
                _put(out, scales, by_q, head, first, rows)
        _scatter(by_keys, scale, by_k, kv_head, columns)
        _scatter(by_values, float32(1), by_v, kv_head, columns)


@numba.njit(void(*BACKWARD), cache=True, nogil=True, parallel=True)
def backward(firsts, starts, nodes, ends, depths, window, splits, q, k, v, normalisers, by_mixed, by_q, by_k, by_v):
    """by_q[T, heads, D] of by_mixed[T, heads, D]; each split adds to its own by_k, by_v[splits, T, kv_heads, D]."""
    kv_heads = k.shape[1]
    for piece in prange((len(splits) - 1) * kv_heads):
        split, kv_head = piece // kv_heads, piece % kv_heads
        _backward_piece(
            kv_head, splits[split], splits[split + 1], firsts, starts, nodes, ends, depths, window,
            q, k, v, normalisers, by_mixed, by_q, by_k[split], by_v[split],
        )  # fmt: skip
