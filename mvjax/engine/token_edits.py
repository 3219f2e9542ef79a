"""What a request wants of single tokens: biases of their logits, and stop ids, which count as end-of-text."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mvjax.engine.sampling_params import MOST_BIASES, MOST_STOPS, SamplingParams

PLACES = MOST_STOPS + MOST_BIASES
NO_TOKEN = 2**31 - 1
"""Filler of ids."""


class TokenEdits(NamedTuple):
    """A few tokens of each request. E: places of the stop ids, then of the other tokens with a bias."""

    id: Int[Array | np.ndarray, "*requests E"]
    """Each token once."""
    bias: Float[Array | np.ndarray, "*requests E"]
    used: Int[Array | np.ndarray, "*requests"]
    """0: nothing is edited."""


def token_edits(params: SamplingParams) -> TokenEdits:
    """The edits of one request (NumPy)."""
    stops = list(dict.fromkeys(params.stop_token_ids))
    others = [token for token in params.logit_bias if token not in stops]
    id_E, bias_E = np.full(PLACES, NO_TOKEN, np.int32), np.zeros(PLACES, np.float32)
    id_E[: len(stops)] = stops
    id_E[MOST_STOPS : MOST_STOPS + len(others)] = others
    for place in np.flatnonzero(id_E != NO_TOKEN):
        bias_E[place] = params.logit_bias.get(int(id_E[place]), 0.0)
    return TokenEdits(id_E, bias_E, np.asarray(len(stops) + len(others), np.int32))


def edited(
    logits_WV: Float[Array, "W V"],
    edits: TokenEdits,
    request_W: Int[Array, "W"],
    samples_W: Bool[Array, "W"],
    bars_stops_W: Bool[Array, "W"],
) -> Float[Array, "W V"]:
    """The logits with biases added, and -inf at the stop ids of the rows where they are barred.

    A condition around the scatter, since nearly all steps have nothing to edit.
    """

    def scattered():
        barred_WE = bars_stops_W[:, None] & (np.arange(PLACES) < MOST_STOPS)
        added_WE = jnp.where(barred_WE, -jnp.inf, edits.bias[request_W])
        return logits_WV.at[np.arange(len(request_W))[:, None], edits.id[request_W]].add(added_WE, mode="drop")

    return lax.cond(jnp.any(samples_W & (edits.used[request_W] > 0)), scattered, lambda: logits_WV)


def stops(token_W: Int[Array, "W"], edits: TokenEdits, request_W: Int[Array, "W"]) -> Bool[Array, "W"]:
    """Whether the token is a stop id of the row's request."""
    return jnp.any(edits.id[:, :MOST_STOPS][request_W] == token_W[:, None], axis=1)
