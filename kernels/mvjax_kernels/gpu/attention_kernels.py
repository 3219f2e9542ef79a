"""Multiverse Attention in Triton: the device code of the GPU back end, forward and backward.

A program is one tile of queries of one head (forward, dq) or one block of keys of one kv head (dk, dv); it follows the
runs of blocks that its line of tiles visits, with one loop for runs that are visible in full and one for those that
need the mask. Arrays are contiguous: q, o [B, T, N, H], k, v [B, S, K, H], intervals [B, E, S], statistics of rows
[B, T, N].
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def cap(s, soft_cap, CAP: tl.constexpr):
    if CAP:
        x = s / soft_cap
        # Near zero the exponential's form would cancel; there the series is as exact as float32.
        square = x * x
        series = x * (1.0 + square * (-1.0 / 3 + square * (2.0 / 15 + square * (-17.0 / 315 + square * (62.0 / 2835)))))
        s = soft_cap * tl.where(square < 0.0625, series, 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0))
    return s


@triton.jit
def _hide(s, row, key, start, end, S, E: tl.constexpr, KEYS_FIRST: tl.constexpr):
    """The logits of a tile, -inf where hidden; `start`, `end` point at level 0 of the sequence's intervals."""
    inside = key < S
    if KEYS_FIRST:
        rows, keys = row[None, :], key[:, None]
    else:
        rows, keys = row[:, None], key[None, :]
    hidden = (rows < keys) | (keys >= S)
    for e in tl.static_range(E):
        first = tl.load(start + e * S + key, mask=inside, other=0)
        last = tl.load(end + e * S + key, mask=inside, other=0)
        if KEYS_FIRST:
            hidden |= (rows >= first[:, None]) & (rows < last[:, None])
        else:
            hidden |= (rows >= first[None, :]) & (rows < last[None, :])
    return tl.where(hidden, -float("inf"), s)


@triton.jit
def _tile(base, index, stride, limit, H: tl.constexpr):
    """Rows `index` of a [*, H] array `stride` elements apart; zero from `limit` on."""
    columns = tl.arange(0, H)
    return tl.load(
        base + index[:, None].to(tl.int64) * stride + columns[None, :], mask=index[:, None] < limit, other=0.0
    )


@triton.jit
def _d_logits(s, shown, lse, shift, dp, soft_cap, CAP: tl.constexpr):
    """Weights and the gradient of the scaled logits; `lse` and `shift` lie as the tile does."""
    p = tl.exp(shown - lse)
    ds = p * (dp - shift)
    if CAP:
        ds = ds * (1.0 - (s / soft_cap) * (s / soft_cap))
    return p, ds


@triton.jit
def _attend(
    acc, m, l, q_tile, row, k, v, start, end, block, scale, soft_cap,
    S: tl.constexpr, STRIDE: tl.constexpr, H: tl.constexpr, E: tl.constexpr,
    BLOCK: tl.constexpr, CAP: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """The running softmax over one more block of keys."""
    key = block * BLOCK + tl.arange(0, BLOCK)
    k_tile, v_tile = _tile(k, key, STRIDE, S, H), _tile(v, key, STRIDE, S, H)
    s = cap(tl.dot(q_tile, k_tile.T, input_precision="ieee") * scale, soft_cap, CAP)
    if MASKED:
        s = _hide(s, row, key, start, end, S, E, False)
    m_new = tl.maximum(m, tl.max(s, 1))
    safe = tl.where(m_new == -float("inf"), 0.0, m_new)
    p = tl.exp(s - safe[:, None])
    shrink = tl.exp(m - safe)
    acc = tl.dot(p.to(v_tile.dtype), v_tile, acc * shrink[:, None], input_precision="ieee")
    return acc, m_new, l * shrink + tl.sum(p, 1)


@triton.jit
def forward(
    q, k, v, start, end, first, run, run_end, scale, soft_cap, o, lse,
    T: tl.constexpr, S: tl.constexpr, N: tl.constexpr, K: tl.constexpr, H: tl.constexpr, E: tl.constexpr,
    RUNS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, CAP: tl.constexpr,
):  # fmt: skip
    """o and the log-sum-exp of one tile of one head; grid (tiles, N, B)."""
    tile, head, sequence = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    index = tile * ROWS + tl.arange(0, ROWS)
    row = tl.load(first + sequence * tl.num_programs(0) + tile) + tl.arange(0, ROWS)
    here = (sequence * T * N + head) * H
    q_tile = _tile(q + here, index, N * H, T, H)
    k += (sequence * S * K + head // (N // K)) * H
    v += (sequence * S * K + head // (N // K)) * H
    start += sequence * E * S
    end += sequence * E * S
    line = (sequence * (tl.num_programs(0) + 1) + tile) * RUNS
    acc = tl.zeros([ROWS, H], tl.float32)
    m = tl.full([ROWS], -float("inf"), tl.float32)
    l = tl.zeros([ROWS], tl.float32)
    for r in range(RUNS):
        code, stop = tl.load(run + line + r), tl.load(run_end + line + r)
        if code % 2 == 1:
            for block in range(code // 2, stop):
                acc, m, l = _attend(
                    acc, m, l, q_tile, row, k, v, start, end, block, scale, soft_cap,
                    S, K * H, H, E, BLOCK, CAP, False,
                )  # fmt: skip
        else:
            for block in range(code // 2, stop):
                acc, m, l = _attend(
                    acc, m, l, q_tile, row, k, v, start, end, block, scale, soft_cap,
                    S, K * H, H, E, BLOCK, CAP, True,
                )  # fmt: skip
    some = tl.where(l == 0.0, 1.0, l)
    columns = tl.arange(0, H)
    place = o + here + index[:, None].to(tl.int64) * (N * H) + columns[None, :]
    tl.store(place, (acc / some[:, None]).to(o.dtype.element_ty), mask=index[:, None] < T)
    value = tl.where(l == 0.0, -float("inf"), m + tl.log(some))
    tl.store(lse + sequence * T * N + head + index * N, value, mask=index < T)


@triton.jit
def _add_dq(
    acc, q_tile, do_tile, lse, shift, row, k, v, start, end, block, scale, soft_cap,
    S: tl.constexpr, STRIDE: tl.constexpr, H: tl.constexpr, E: tl.constexpr,
    BLOCK: tl.constexpr, CAP: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """dq / scale with one more block of keys."""
    key = block * BLOCK + tl.arange(0, BLOCK)
    k_tile, v_tile = _tile(k, key, STRIDE, S, H), _tile(v, key, STRIDE, S, H)
    s = cap(tl.dot(q_tile, k_tile.T, input_precision="ieee") * scale, soft_cap, CAP)
    shown = s
    if MASKED:
        shown = _hide(s, row, key, start, end, S, E, False)
    dp = tl.dot(do_tile, v_tile.T, input_precision="ieee")
    _, ds = _d_logits(s, shown, lse[:, None], shift[:, None], dp, soft_cap, CAP)
    return tl.dot(ds.to(k_tile.dtype), k_tile, acc, input_precision="ieee")


@triton.jit
def backward_dq(
    q, k, v, do, lse, shift, start, end, first, run, run_end, scale, soft_cap, dq,
    T: tl.constexpr, S: tl.constexpr, N: tl.constexpr, K: tl.constexpr, H: tl.constexpr, E: tl.constexpr,
    RUNS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, CAP: tl.constexpr,
):  # fmt: skip
    """dq of one tile of one head; grid (tiles, N, B). `lse` holds 0 for rows that see no key."""
    tile, head, sequence = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    index = tile * ROWS + tl.arange(0, ROWS)
    row = tl.load(first + sequence * tl.num_programs(0) + tile) + tl.arange(0, ROWS)
    here = (sequence * T * N + head) * H
    q_tile, do_tile = _tile(q + here, index, N * H, T, H), _tile(do + here, index, N * H, T, H)
    stats = sequence * T * N + head + index * N
    lse_tile = tl.load(lse + stats, mask=index < T, other=0.0)
    shift_tile = tl.load(shift + stats, mask=index < T, other=0.0)
    k += (sequence * S * K + head // (N // K)) * H
    v += (sequence * S * K + head // (N // K)) * H
    start += sequence * E * S
    end += sequence * E * S
    line = (sequence * (tl.num_programs(0) + 1) + tile) * RUNS
    acc = tl.zeros([ROWS, H], tl.float32)
    for r in range(RUNS):
        code, stop = tl.load(run + line + r), tl.load(run_end + line + r)
        if code % 2 == 1:
            for block in range(code // 2, stop):
                acc = _add_dq(
                    acc, q_tile, do_tile, lse_tile, shift_tile, row, k, v, start, end, block, scale, soft_cap,
                    S, K * H, H, E, BLOCK, CAP, False,
                )  # fmt: skip
        else:
            for block in range(code // 2, stop):
                acc = _add_dq(
                    acc, q_tile, do_tile, lse_tile, shift_tile, row, k, v, start, end, block, scale, soft_cap,
                    S, K * H, H, E, BLOCK, CAP, True,
                )  # fmt: skip
    columns = tl.arange(0, H)
    place = dq + here + index[:, None].to(tl.int64) * (N * H) + columns[None, :]
    tl.store(place, (acc * scale).to(dq.dtype.element_ty), mask=index[:, None] < T)


@triton.jit
def _add_dkv(
    dk, dv, k_tile, v_tile, key, q, do, lse, shift, first, start, end, tile, scale, soft_cap,
    T: tl.constexpr, S: tl.constexpr, N: tl.constexpr, H: tl.constexpr, E: tl.constexpr,
    ROWS: tl.constexpr, CAP: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """dk / scale and dv with one more tile of one head's queries."""
    index = tile * ROWS + tl.arange(0, ROWS)
    q_tile, do_tile = _tile(q, index, N * H, T, H), _tile(do, index, N * H, T, H)
    lse_tile = tl.load(lse + index * N, mask=index < T, other=0.0)
    shift_tile = tl.load(shift + index * N, mask=index < T, other=0.0)
    s = cap(tl.dot(k_tile, q_tile.T, input_precision="ieee") * scale, soft_cap, CAP)
    shown = s
    if MASKED:
        shown = _hide(s, tl.load(first + tile) + tl.arange(0, ROWS), key, start, end, S, E, True)
    dp = tl.dot(v_tile, do_tile.T, input_precision="ieee")
    p, ds = _d_logits(s, shown, lse_tile[None, :], shift_tile[None, :], dp, soft_cap, CAP)
    dv = tl.dot(p.to(do_tile.dtype), do_tile, dv, input_precision="ieee")
    return tl.dot(ds.to(q_tile.dtype), q_tile, dk, input_precision="ieee"), dv


@triton.jit
def backward_dkv(
    q, k, v, do, lse, shift, start, end, first, run, run_end, scale, soft_cap, dk, dv,
    T: tl.constexpr, S: tl.constexpr, N: tl.constexpr, K: tl.constexpr, H: tl.constexpr, E: tl.constexpr,
    RUNS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, CAP: tl.constexpr,
):  # fmt: skip
    """dk and dv of one block of one kv head, summed over its query heads; grid (blocks, K, B)."""
    block, head, sequence = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    key = block * BLOCK + tl.arange(0, BLOCK)
    here = (sequence * S * K + head) * H
    k_tile, v_tile = _tile(k + here, key, K * H, S, H), _tile(v + here, key, K * H, S, H)
    first += sequence * ((T + ROWS - 1) // ROWS)
    start += sequence * E * S
    end += sequence * E * S
    line = (sequence * (tl.num_programs(0) + 1) + block) * RUNS
    dk_acc = tl.zeros([BLOCK, H], tl.float32)
    dv_acc = tl.zeros([BLOCK, H], tl.float32)
    for g in range(N // K):
        stats = sequence * T * N + head * (N // K) + g
        for r in range(RUNS):
            code, stop = tl.load(run + line + r), tl.load(run_end + line + r)
            if code % 2 == 1:
                for tile in range(code // 2, stop):
                    dk_acc, dv_acc = _add_dkv(
                        dk_acc, dv_acc, k_tile, v_tile, key, q + stats * H, do + stats * H, lse + stats, shift + stats,
                        first, start, end, tile, scale, soft_cap, T, S, N, H, E, ROWS, CAP, False,
                    )  # fmt: skip
            else:
                for tile in range(code // 2, stop):
                    dk_acc, dv_acc = _add_dkv(
                        dk_acc, dv_acc, k_tile, v_tile, key, q + stats * H, do + stats * H, lse + stats, shift + stats,
                        first, start, end, tile, scale, soft_cap, T, S, N, H, E, ROWS, CAP, True,
                    )  # fmt: skip
    columns = tl.arange(0, H)
    place = here + key[:, None].to(tl.int64) * (K * H) + columns[None, :]
    tl.store(dk + place, (dk_acc * scale).to(dk.dtype.element_ty), mask=key[:, None] < S)
    tl.store(dv + place, dv_acc.to(dv.dtype.element_ty), mask=key[:, None] < S)
