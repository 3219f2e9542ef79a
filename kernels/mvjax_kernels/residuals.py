"""What attention keeps for its backward pass beyond its inputs, under a name for `jax.checkpoint` policies."""

from __future__ import annotations

import jax
from jax.ad_checkpoint import checkpoint_name

RESIDUALS = "attention residuals"
"""With `jax.checkpoint_policies.save_only_these_names(RESIDUALS)` the forward kernel is not run again: its results and
log-sum-exps are kept, q, k and v recomputed."""


def named(x: jax.Array) -> jax.Array:
    """The array under that name."""
    return checkpoint_name(x, RESIDUALS)
