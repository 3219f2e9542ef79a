"""An engine of the hash model that tests of the Python API share, and its answers."""

import functools

import jax.numpy as jnp
import numpy as np
from hash_model import HashModel, slots_of
from random_requests import CODES, TABLES, VOCABULARY

from mvjax.engine import Engine, EngineConfig, Limits, SamplingParams
from mvjax.language import lay_out, tags

LIMITS = Limits(max_new_tokens=150, min_block_share=40, max_paths=4)
DRAWN = [SamplingParams(temperature=2.0, top_k=30, top_p=0.98, seed=seed) for seed in range(6)]
PROMPTS = [[20, 21, 22, 23, 24, 30 + n] for n in range(6)]


class WatchfulModel(HashModel):
    """Also records how many slots each prompt token sees."""

    max_position = 10_000

    def init_kv(self, requests, slots):
        return super().init_kv(requests, slots) | {"seen": jnp.zeros((requests, slots), jnp.int32)}

    def prefill(self, params, kv, tokens_BT, positions_BT, hide_start_BES, hide_end_BES, request_B, offset_B, length_B):
        slots = kv["seen"].shape[1]
        slot_BT, slot_S = offset_B[:, None] + jnp.arange(tokens_BT.shape[1]), jnp.arange(slots)
        row_BT1 = slot_BT[..., None]
        sees_BTS = slot_S <= row_BT1
        for level in range(hide_start_BES.shape[1]):
            sees_BTS &= ~((row_BT1 >= hide_start_BES[:, level, None]) & (row_BT1 < hide_end_BES[:, level, None]))
        at = request_B[:, None], slots_of(tokens_BT, offset_B, length_B, slots)
        seen = kv["seen"].at[at].set(jnp.sum(sees_BTS, axis=2), mode="drop")
        chunks = tokens_BT, positions_BT, hide_start_BES, hide_end_BES, request_B, offset_B, length_B
        return super().prefill(params, kv, *chunks) | {"seen": seen}

    def decode(self, params, kv, *step):
        logits_WV, hashed = super().decode(params, kv, *step)
        return logits_WV, hashed | {"seen": kv["seen"]}


def taste():
    """Blocks are likely, the end of the text is not."""
    bias_V = np.zeros(VOCABULARY, np.float32)
    bias_V[: len(tags.TAGS)] = 3
    bias_V[[tags.PATH_CLOSE, tags.THINK_CLOSE, *TABLES.eos_ids]] = -5
    bias_V[[tags.THINK_OPEN]] = -5
    return bias_V


@functools.cache
def shared_engine() -> Engine:
    """Two requests, four rows each; one row count, so that little is compiled."""
    config = EngineConfig(
        requests=2, max_branches=4, row_counts=(8,), max_slots=10_240, sync_steps=16, prefill_chunks=(32, 64)
    )
    return Engine(WatchfulModel(taste()), taste(), TABLES, config)


@functools.cache
def answers():
    """What the shared engine says to all prompts."""
    engine = shared_engine()
    engine.params = taste()
    return engine.generate(PROMPTS, limits=LIMITS, sampling=DRAWN)


def same(result, other):
    """Equal answers, whatever the schedule."""
    for name in ("tokens", "written", "segment", "position", "parent"):
        np.testing.assert_array_equal(getattr(result, name), getattr(other, name), name)
    for name in ("reason", "cuts", "abandoned", "barred"):
        assert getattr(result, name) == getattr(other, name), name


def layout_of(prompt, result):
    tokens_T = np.array([*prompt, *result.tokens])
    codes_T = CODES[tokens_T].copy()
    codes_T[: len(prompt)] = tags.TEXT
    return lay_out(codes_T, TABLES.colon[tokens_T], len(prompt), engine_output=True, complete=True)


def plain_taste():
    """Only text, and no end of it."""
    bias_V = np.where(CODES >= 0, -100, 0).astype(np.float32)
    bias_V[list(TABLES.eos_ids)] = -100
    return bias_V
