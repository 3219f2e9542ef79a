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
    """Decode steps of one request with `rows` branches: output head included, no interpreter, no sampling.

    The loop is of the engine's kind (`lax.while_loop`, the KV stream donated and updated in place); the logits of every
    step are carried, so that none of its work can be left out. Every row sees the prompt's slots and its own.
    """

    def __init__(self, model: StepModel, params: Any, rows: int, slots: int, prompt: int = 32):
        """Compile for `rows` rows over a KV stream of `slots` slots of which the first `prompt` ones are in use."""
        self.rows, self.slots, self.prompt = rows, slots, prompt
        self.params = params
        self._kv = model.init_kv(1, slots)
        lane_W = jnp.arange(rows, dtype=jnp.int32)

        def run(params, kv, visibility_RS, start, steps):
            def body(carry):
                kv, visibility_RS, _, step = carry
                first = start + step * rows
                visibility_RS = lax.dynamic_update_slice(
                    visibility_RS, (jnp.uint32(1) << lane_W.astype(jnp.uint32))[None], (0, first)
                )
                placement = RowPlacement(
                    request_W=jnp.zeros_like(lane_W),
                    lane_W=lane_W,
                    row_RL=lane_W[None],
                    start_R=first[None],
                    active_W=jnp.ones(rows, bool),
                )
                logits_WV, kv = model.decode(params, kv, lane_W, first + 0 * lane_W, placement, visibility_RS)
                return kv, visibility_RS, logits_WV, step + 1

            logits_WV = jnp.zeros((rows, model.vocab_size), jnp.float32)
            carry = (kv, visibility_RS, logits_WV, jnp.int32(0))
            kv, _, logits_WV, _ = lax.while_loop(lambda carry: carry[3] < steps, body, carry)
            return kv, logits_WV

        everyone = jnp.uint32(2**rows - 1)
        self._visibility_RS = jnp.where(jnp.arange(slots) < prompt, everyone, jnp.uint32(0))[None]
        arguments = (params, self._kv, self._visibility_RS, jnp.int32(prompt), jnp.int32(SYNC))
        self._compiled = jax.jit(run, donate_argnums=1).lower(*arguments).compile()
        self._at = prompt

    @property
    def program(self) -> str:
        """The compiled program as text."""
        return self._compiled.as_text() or ""

    def __call__(self, steps: int = SYNC) -> float:
        """Seconds per step, over `steps` steps; the KV cache is filled on, and anew when it is full."""
        if self._at + steps * self.rows > self.slots:
            self._at = self.prompt
        start = time.perf_counter()
        self._kv, logits_WV = self._compiled(
            self.params, self._kv, self._visibility_RS, jnp.int32(self._at), jnp.int32(steps)
        )
        jax.block_until_ready((self._kv, logits_WV))
        self._at += steps * self.rows
        return (time.perf_counter() - start) / steps
