"""Temporary memory of compiled attention, forward and backward, against the length. Compiled only, never run."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import mvjax_kernels

from mvjax.bench.config import AttentionBench
from mvjax.bench.picture import draw
from mvjax.bench.report import Bar, Report
from mvjax.planning.machines import temporaries

MIB = 2**20
LINEAR_BAR = 1.2
"""Largest exponent of growth that is called linear."""


def measure(config: AttentionBench, report: Report, say: Callable[[str], None]) -> None:
    """Fill the report, and draw attention.png where matplotlib is installed."""
    sizes: dict[str, list[int]] = {"intervals": [], "dense": []}
    for length in config.lengths:
        say(f"compiling for {length} tokens")
        sizes["intervals"].append(temporary_bytes(blockwise, config, length))
        sizes["dense"].append(temporary_bytes(dense, config, length))
        ours, theirs = sizes["intervals"][-1], sizes["dense"][-1]
        report.rows.append(
            {"T": length, "intervals MiB": ours / MIB, "dense MiB": theirs / MIB, "dense/intervals": theirs / ours}
        )
    # Over the upper half of the lengths: below, what does not grow hides what does.
    middle, last = len(config.lengths) // 2 - (len(config.lengths) == 2), len(config.lengths) - 1
    span = math.log(config.lengths[last] / config.lengths[middle])
    growth = {name: math.log(values[last] / values[middle]) / span for name, values in sizes.items()}
    report.bars.append(Bar("exponent of growth with T, intervals", growth["intervals"], LINEAR_BAR))
    largest = config.lengths[-1]
    square = 4 * largest * largest
    report.bars.append(Bar(f"temporaries at T = {largest} over one T x T array", sizes["intervals"][-1] / square, 1.0))
    report.notes.append(
        f"temporaries of the compiled forward and backward pass; one sequence, {config.heads} heads over "
        f"{config.kv_heads}, width {config.head_dim}, float32; dense grows with exponent {growth['dense']:.2f}"
    )
    curves = {name: [value / MIB for value in values] for name, values in sizes.items()}
    report.notes.append(draw(config.output / "attention.png", config.lengths, curves, "temporary memory, MiB"))


def blockwise(q_BTNH, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES, row_T):
    """Ours."""
    return mvjax_kernels.attention(q_BTNH, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES)


def dense(q_BTNH, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES, row_T):
    """Softmax over all pairs under a mask made from the same intervals."""
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    row_T1 = row_T[:, None]
    hidden_BETS = (row_T1 >= hide_start_BES[:, :, None]) & (row_T1 < hide_end_BES[:, :, None])
    visible_BTS = (row_T1 >= row_T) & ~hidden_BETS.any(1)
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    logits_BKGTS = jnp.einsum("btkgh,bskh->bkgts", q_BTKGH, k_BSKH) * H**-0.5
    weights_BKGTS = jax.nn.softmax(jnp.where(visible_BTS[:, None, None], logits_BKGTS, -1e30), axis=-1)
    return jnp.einsum("bkgts,bskh->btkgh", weights_BKGTS, v_BSKH).reshape(q_BTNH.shape)


def temporary_bytes(attention: Callable, config: AttentionBench, length: int) -> int:
    """Temporary bytes of a compiled call with its gradients."""

    def loss(q_BTNH, k_BSKH, v_BSKH, weight_BTNH, *mask):
        return jnp.sum(attention(q_BTNH, k_BSKH, v_BSKH, *mask) * weight_BTNH)

    def shape(*sizes, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(sizes, dtype)

    q = shape(1, length, config.heads, config.head_dim)
    kv = shape(1, length, config.kv_heads, config.head_dim)
    hide = shape(1, config.levels, length, dtype=jnp.int32)
    arguments = (q, kv, kv, q, hide, hide, shape(length, dtype=jnp.int32))
    compiled = jax.jit(jax.value_and_grad(loss, (0, 1, 2))).lower(*arguments).compile()
    return temporaries(compiled)
