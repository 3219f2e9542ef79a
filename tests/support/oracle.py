"""Attention over a dense mask in float64, forward and backward: the oracle of the kernels."""

from __future__ import annotations

import numpy as np


def interval_mask(hide_start_BES, hide_end_BES, query_length: int, q_offset_B=None) -> np.ndarray:
    """bool[B, T, S]: the visibility that hidden intervals stand for, pair by pair."""
    B, E, S = hide_start_BES.shape
    offset_B = np.zeros(B, int) if q_offset_B is None else np.asarray(q_offset_B, int)
    row_BT1 = (offset_B[:, None] + np.arange(query_length))[:, :, None]
    visible_BTS = row_BT1 >= np.arange(S)
    for e in range(E):
        visible_BTS &= ~((row_BT1 >= hide_start_BES[:, e, None]) & (row_BT1 < hide_end_BES[:, e, None]))
    return visible_BTS


def attend(q_BTNH, k_BSKH, v_BSKH, visible_BTS, scale=None, soft_cap=None, gradients=None):
    """(o, log-sum-exp), and with `gradients` = (do, dlse) also (dq, dk, dv). All float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q_BTNH, k_BSKH, v_BSKH))
    group = q.shape[2] // k.shape[2]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    k_BSNH, v_BSNH = np.repeat(k, group, 2), np.repeat(v, group, 2)
    capped = logits = np.einsum("btnh,bsnh->bnts", q, k_BSNH) * scale
    if soft_cap is not None:
        capped = soft_cap * np.tanh(logits / soft_cap)
    shown = np.broadcast_to(visible_BTS[:, None], logits.shape)
    top = np.max(np.where(shown, capped, -np.inf), -1, keepdims=True)
    weight = np.where(shown, np.exp(capped - np.where(np.isinf(top), 0, top)), 0)
    total = weight.sum(-1, keepdims=True)
    p = weight / np.where(total == 0, 1, total)
    o = np.einsum("bnts,bsnh->btnh", p, v_BSNH)
    with np.errstate(divide="ignore"):
        lse = np.where(total == 0, -np.inf, np.where(total == 0, 0, top) + np.log(total))[..., 0].swapaxes(1, 2)
    if gradients is None:
        return o, lse
    do, dlse = (np.asarray(x, np.float64) for x in gradients)
    dp = np.einsum("btnh,bsnh->bnts", do, v_BSNH)
    ds = p * (dp - np.einsum("btnh,btnh->bnt", do, o)[..., None] + dlse.swapaxes(1, 2)[..., None])
    if soft_cap is not None:
        ds = ds * (1 - (capped / soft_cap) ** 2)
    ds = ds * scale
    dq = np.einsum("bnts,bsnh->btnh", ds, k_BSNH)
    dk = np.einsum("bnts,btnh->bsnh", ds, q).reshape(*k.shape[:3], group, -1).sum(3)
    dv = np.einsum("bnts,btnh->bsnh", p, do).reshape(*k.shape[:3], group, -1).sum(3)
    return o, lse, dq, dk, dv


def tile_any(visible_BTS, block_q: int, block_k: int) -> np.ndarray:
    """bool[B, Q, C]: which tiles hold a visible pair."""
    B, T, S = visible_BTS.shape
    padded = np.zeros((B, -(-T // block_q) * block_q, -(-S // block_k) * block_k), bool)
    padded[:, :T, :S] = visible_BTS
    return padded.reshape(B, -1, block_q, padded.shape[2] // block_k, block_k).any((2, 4))
