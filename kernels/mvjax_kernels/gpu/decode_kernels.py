"""Decode attention over paged KV streams in Triton: the device code of the GPU back end.

A program is one part of one request's KV stream at one kv head. It reads each of its slots once for all rows of the
request, which form the M side of the products, and leaves a part of the output with its log-sum-exp.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mvjax_kernels.gpu.attention_kernels import cap


@triton.jit
def decode(
    q, k_pages, v_pages, k_scale, v_scale, pages, length, words, scale, soft_cap, o, lse,
    L: tl.constexpr, N: tl.constexpr, K: tl.constexpr, H: tl.constexpr, Z: tl.constexpr, PAGES: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, CAP: tl.constexpr, QUANTISED: tl.constexpr,
):  # fmt: skip
    """Parts o [R, K, splits, ROWS, H] and lse [R, K, splits, ROWS]; grid (splits, K, R), BLOCK divides Z."""
    split, head, request = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    splits = tl.num_programs(0)
    row, columns = tl.arange(0, ROWS), tl.arange(0, H)
    lane = row // (N // K)
    place = ((request * L + lane) * N + head * (N // K) + row % (N // K))[:, None] * H + columns[None, :]
    q_tile = tl.load(q + place, mask=lane[:, None] < L, other=0.0)
    slots = tl.load(length + request)
    blocks = (slots + BLOCK - 1) // BLOCK
    share = (blocks + splits - 1) // splits
    acc = tl.zeros([ROWS, H], tl.float32)
    m = tl.full([ROWS], -float("inf"), tl.float32)
    l = tl.zeros([ROWS], tl.float32)
    for block in range(split * share, tl.minimum(blocks, (split + 1) * share)):
        slot = block * BLOCK + tl.arange(0, BLOCK)
        here = slot < slots
        page = tl.load(pages + request * PAGES + block * BLOCK // Z).to(tl.int64)
        entry = (page * K + head) * Z + slot % Z
        k_tile = tl.load(k_pages + entry[:, None] * H + columns[None, :], mask=here[:, None], other=0.0)
        v_tile = tl.load(v_pages + entry[:, None] * H + columns[None, :], mask=here[:, None], other=0.0)
        word = tl.load(words + request * (PAGES * Z) + slot, mask=here, other=0)
        s = tl.dot(q_tile, k_tile.to(q_tile.dtype).T, input_precision="ieee") * scale
        if QUANTISED:
            s *= tl.load(k_scale + entry, mask=here, other=0.0)[None, :]
        s = cap(s, soft_cap, CAP)
        s = tl.where(((word[None, :] >> lane[:, None]) & 1) != 0, s, -float("inf"))
        m_new = tl.maximum(m, tl.max(s, 1))
        safe = tl.where(m_new == -float("inf"), 0.0, m_new)
        p = tl.exp(s - safe[:, None])
        shrink = tl.exp(m - safe)
        l = l * shrink + tl.sum(p, 1)
        if QUANTISED:
            p *= tl.load(v_scale + entry, mask=here, other=0.0)[None, :]
        acc = tl.dot(p.to(q_tile.dtype), v_tile.to(q_tile.dtype), acc * shrink[:, None], input_precision="ieee")
        m = m_new
    some = tl.where(l == 0.0, 1.0, l)
    part = ((request * K + head) * splits + split) * ROWS + row
    tl.store(o + part[:, None] * H + columns[None, :], acc / some[:, None])
    tl.store(lse + part, tl.where(l == 0.0, -float("inf"), m + tl.log(some)))
