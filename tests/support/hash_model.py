"""A model with exact arithmetic: its logits are a hash of what a row sees, so a wrong visible set or position shows.

A row that sees the slots `s` with tokens `t_s` at positions `p_s` has the state `sum_s mix(t_s, p_s) mod 2^32`; its
logits are `mix(state, v)` for every token `v`, as integers of 22 bits (exact in float32) plus a bias per token.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np


@np.errstate(over="ignore")  # it is arithmetic modulo 2^32
def mix(a, b, np=np):
    """Hash two uint32 arrays into one, alike in NumPy and jax.numpy."""
    x = a * np.uint32(0x9E3779B1) + (b * np.uint32(0x85EBCA77) ^ np.uint32(0x27D4EB2F))
    for shift, factor in ((15, 0x2C1B3C6D), (12, 0x297A2D39), (15, 1)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x


def logits_of(state, bias_V, np=np):
    """Logits of hash states: uint32[...] -> float32[..., V]."""
    v_V = np.arange(bias_V.shape[0]).astype(np.uint32)
    hashed = mix(state[..., None], v_V, np) >> np.uint32(10)
    return hashed.astype(np.float32) * np.float32(2.0**-18) + bias_V


def spoiled(logits_V, state, every, np=np):
    """Logits of which one row in `every` is spoiled, in one of five ways; 0: none.

    NaN at a token (which may be barred), +inf at one, -inf at all, -inf at all text but one, NaN at a tag.
    """
    hashed = mix(state, np.uint32(every), np)
    way, token = (hashed >> np.uint32(4)) % np.uint32(5), (hashed >> np.uint32(8)) % np.uint32(logits_V.shape[-1])
    here_V = np.arange(logits_V.shape[-1]) == token[..., None].astype(np.int32)
    tag_V = np.arange(logits_V.shape[-1]) == (token % np.uint32(12))[..., None].astype(np.int32)
    way = way[..., None]
    bad_V = np.where((way == 0) & here_V, np.float32("nan"), logits_V)
    bad_V = np.where((way == 1) & here_V, np.float32("inf"), bad_V)
    bad_V = np.where((way == 2) | (way == 3) & ~here_V, np.float32("-inf"), bad_V)
    bad_V = np.where((way == 4) & tag_V, np.float32("nan"), bad_V)
    on = (every > 0) & (hashed % np.maximum(np.uint32(every), np.uint32(1)) == 0)
    return np.where(on[..., None], bad_V, logits_V)


def slots_of(tokens_BT, offset_B, length_B, slots):
    """Slot of each token of the chunks of a prefill; `slots` for padding."""
    index_T = jnp.arange(tokens_BT.shape[1])
    return jnp.where(index_T < length_B[:, None], offset_B[:, None] + index_T, slots)


class HashModel:
    """Implements the engine's StepModel protocol; the stream holds tokens and positions instead of keys and values."""

    def __init__(self, bias_V):
        self.params = jnp.asarray(bias_V, jnp.float32)
        self.vocab_size = len(bias_V)
        self.arithmetic = type(self), self.vocab_size, None

    def logits(self, params, state_W):
        return logits_of(state_W, params, jnp)

    def init_kv(self, requests: int, slots: int):
        return {"token": jnp.zeros((requests, slots), jnp.int32), "position": jnp.zeros((requests, slots), jnp.int32)}

    def prefill(self, params, kv, tokens_BT, positions_BT, hide_start_BES, hide_end_BES, request_B, offset_B, length_B):
        at = request_B[:, None], slots_of(tokens_BT, offset_B, length_B, hide_start_BES.shape[2])
        return {
            "token": kv["token"].at[at].set(tokens_BT, mode="drop"),
            "position": kv["position"].at[at].set(positions_BT, mode="drop"),
        }

    def decode(self, params, kv, tokens_W, positions_W, rows, visibility_RS):
        slots = kv["token"].shape[1]
        slot_W = jnp.where(rows.active_W, rows.start_R[rows.request_W] + rows.lane_W, slots)
        kv = {
            "token": kv["token"].at[rows.request_W, slot_W].set(tokens_W, mode="drop"),
            "position": kv["position"].at[rows.request_W, slot_W].set(positions_W, mode="drop"),
        }
        mixed_RS = mix(kv["token"].astype(jnp.uint32), kv["position"].astype(jnp.uint32), jnp)
        visibility_WS = visibility_RS[rows.request_W].astype(jnp.uint32)
        seen_WS = (visibility_WS >> rows.lane_W[:, None].astype(jnp.uint32)) & jnp.uint32(1)
        state_W = jnp.sum(seen_WS * mixed_RS[rows.request_W], axis=1, dtype=jnp.uint32)
        return self.logits(params, state_W), kv


class PagedHashModel(HashModel):
    """The same over pages [P, Z]: what it sees goes by the page table alone."""

    def __init__(self, bias_V, page_size: int):
        super().__init__(bias_V)
        self.page_size = page_size
        self.arithmetic = type(self), self.vocab_size, page_size

    def init_pages(self, pages: int):
        return {name: jnp.full((pages, self.page_size), 7, jnp.int32) for name in ("token", "position")}

    def with_table(self, kv, table_RM):
        return {"token": kv["token"], "position": kv["position"], "table": table_RM}

    def read_pages(self, kv, pages_M):
        return {name: kv[name][pages_M] for name in ("token", "position")}

    def write_pages(self, kv, pages_M, content):
        return kv | {name: kv[name].at[pages_M].set(content[name]) for name in content}

    def place(self, kv, request, slot):
        table_RM = kv["table"]
        stretch = slot // self.page_size
        page = table_RM[request, jnp.minimum(stretch, table_RM.shape[1] - 1)]
        return jnp.where(stretch < table_RM.shape[1], page, len(kv["token"])), slot % self.page_size

    def written(self, kv, at, tokens, positions):
        token = kv["token"].at[at].set(tokens, mode="drop")
        return {
            "token": token,
            "position": kv["position"].at[at].set(positions, mode="drop"),
            "table": kv["table"],
        }

    def prefill(self, params, kv, tokens_BT, positions_BT, hide_start_BES, hide_end_BES, request_B, offset_B, length_B):
        slot_BT = slots_of(tokens_BT, offset_B, length_B, hide_start_BES.shape[2])
        return self.written(kv, self.place(kv, request_B[:, None], slot_BT), tokens_BT, positions_BT)

    def decode(self, params, kv, tokens_W, positions_W, rows, visibility_RS):
        slot_W = jnp.where(rows.active_W, rows.start_R[rows.request_W] + rows.lane_W, visibility_RS.shape[1])
        kv = self.written(kv, self.place(kv, rows.request_W, slot_W), tokens_W, positions_W)
        mixed_PZ = mix(kv["token"].astype(jnp.uint32), kv["position"].astype(jnp.uint32), jnp)
        mixed_RS = mixed_PZ[kv["table"]].reshape(visibility_RS.shape)
        visibility_WS = visibility_RS[rows.request_W].astype(jnp.uint32)
        seen_WS = (visibility_WS >> rows.lane_W[:, None].astype(jnp.uint32)) & jnp.uint32(1)
        state_W = jnp.sum(seen_WS * mixed_RS[rows.request_W], axis=1, dtype=jnp.uint32)
        return self.logits(params, state_W), kv


def forward(tokens_T, positions_T, visible_TT, bias_V):
    """The same model over a finished transcript: float32[T, V] logits, given the dense visibility."""
    mixed_T = mix(np.asarray(tokens_T, np.uint32), np.asarray(positions_T, np.uint32))
    state_T = (np.asarray(visible_TT, np.uint32) * mixed_T[None, :]).sum(axis=1, dtype=np.uint32)
    return logits_of(state_T, np.asarray(bias_V, np.float32))


class SpoiledHashModel(HashModel):
    """The hash model, some of whose logits are not finite. Parameters: bias [V] and how rare that is, see `spoiled`."""

    def __init__(self, bias_V, every: int = 0):
        super().__init__(bias_V)
        self.params = self.params, jnp.uint32(every)

    def logits(self, params, state_W):
        bias_V, every = params
        return spoiled(logits_of(state_W, bias_V, jnp), state_W, every, jnp)
