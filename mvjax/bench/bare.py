"""The bare forward: a step model's decode and nothing else, in a jitted loop with a donated KV stream."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from mvjax.bench.config import SYNC
from mvjax.engine.model import RowPlacement, StepModel


class BareLoop:
    """Decode steps of `rows` branches, of one request or of several with equally many: output head included, no
    interpreter, no sampling.

    The loop is of the engine's kind (`lax.while_loop`, the KV stream donated and updated in place); the logits of every
    step are carried, so that none of its work can be left out. Every row sees the prompt's slots and its own.
    """

    def __init__(self, model: StepModel, params: Any, rows: int, slots: int, prompt: int = 32, requests: int = 1):
        """Compile for `rows` rows over `requests` contiguous KV streams of `slots` slots of which the first `prompt`
        ones are in use."""
        lanes = rows // requests
        self.lanes, self.slots, self.prompt = lanes, slots, prompt
        self.params = params
        self._kv = model.init_kv(requests, slots)
        row_W = jnp.arange(rows, dtype=jnp.int32)
        lane_W, row_RL = row_W % lanes, row_W.reshape(requests, lanes)
        bit_RL = jnp.broadcast_to(jnp.uint32(1) << jnp.arange(lanes, dtype=jnp.uint32), (requests, lanes))

        def run(params, kv, visibility_RS, start, steps):
            def body(carry):
                kv, visibility_RS, _, step = carry
                first = start + step * lanes
                visibility_RS = lax.dynamic_update_slice(visibility_RS, bit_RL, (0, first))
                placement = RowPlacement(
                    request_W=row_W // lanes,
                    lane_W=lane_W,
                    row_RL=row_RL,
                    start_R=jnp.broadcast_to(first, requests),
                    active_W=jnp.ones(rows, bool),
                )
                logits_WV, kv = model.decode(params, kv, row_W, first + 0 * row_W, placement, visibility_RS)
                return kv, visibility_RS, logits_WV, step + 1

            logits_WV = jnp.zeros((rows, model.vocab_size), jnp.float32)
            carry = (kv, visibility_RS, logits_WV, jnp.int32(0))
            kv, _, logits_WV, _ = lax.while_loop(lambda carry: carry[3] < steps, body, carry)
            return kv, logits_WV

        everyone_S = jnp.where(jnp.arange(slots) < prompt, jnp.uint32(2**lanes - 1), jnp.uint32(0))
        self._visibility_RS = jnp.broadcast_to(everyone_S, (requests, slots))
        arguments = (params, self._kv, self._visibility_RS, jnp.int32(prompt), jnp.int32(SYNC))
        self._compiled = jax.jit(run, donate_argnums=1).lower(*arguments).compile()
        self._at = prompt

    @property
    def program(self) -> str:
        """The compiled program as text."""
        return self._compiled.as_text() or ""

    def __call__(self, steps: int = SYNC) -> float:
        """Seconds per step, over `steps` steps; the KV cache is filled on, and anew when it is full."""
        if self._at + steps * self.lanes > self.slots:
            self._at = self.prompt
        start = time.perf_counter()
        self._kv, logits_WV = self._compiled(
            self.params, self._kv, self._visibility_RS, jnp.int32(self._at), jnp.int32(steps)
        )
        jax.block_until_ready((self._kv, logits_WV))
        self._at += steps * self.lanes
        return (time.perf_counter() - start) / steps
