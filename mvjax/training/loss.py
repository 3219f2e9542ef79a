"""Cross-entropy over target tokens, in chunks, with its gradient made on the way.

The logits of a batch would be T x V numbers (0.8 GB for 4096 tokens of a vocabulary of 49152). Only the targets of
the loss need any: the hidden states that predict them are gathered, `chunk` at a time, and each chunk's logits are
turned into loss and gradient at once and dropped. So nothing is kept or recomputed for the backward pass, which only
scales. The number of chunks is decided on the device: positions without a target cost nothing.

On a mesh every chip takes the targets of its own rows and stretch of text, and its own rows of the output matrix: no
chip holds more than `chunk` x V / tensor logits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from mvjax.language import PARTS
from mvjax.models.placement import RULES, Placement


class Targets(NamedTuple):
    """What is to be predicted, and from where."""

    tokens_BT: Int[Array, "B T"]
    """Token ids."""
    predecessor_BT: Int[Array, "B T"]
    """Index in the row of the token whose hidden state predicts this one: the token before it in its segment."""
    weight_BT: Float[Array, "B T"]
    """Weight of the token in the loss; 0: no target."""
    part_BT: Int[Array, "B T"]
    """Part of the transcript (index into `language.PARTS`)."""


class LossSums(NamedTuple):
    """Sums over target tokens (not means: they add up over micro-batches and devices)."""

    total: Float[Array, ""]
    """Weighted cross-entropy in nats, z-loss included. The only member with a gradient."""
    parts_P: Float[Array, "P"]
    """Cross-entropy of each part, unweighted."""
    counts_P: Float[Array, "P"]
    """Targets of each part."""
    correct_P: Float[Array, "P"]
    """Targets of each part whose token has the largest logit."""


@dataclass(frozen=True)
class Head:
    """How the output head is to be read (static)."""

    tag_ids: tuple[int, ...] = ()
    """Token ids whose rows are kept apart from the base matrix."""
    train_base: bool = False
    """Whether the base matrix needs a gradient."""
    chunk: int = 256
    """Targets whose logits exist at the same time."""
    z_loss: float = 0.0
    """Factor of the squared log of the softmax's denominator, which keeps logits near zero (arXiv 2204.02311, 5)."""
    rows: int = 0
    """Rows of the base matrix that stand for tokens; those behind them are padding. 0: all."""
    vocabulary_axes: tuple[str, ...] = ()
    """Mesh axes that the rows of the base matrix are split over; inside `shard_map` only."""


def cross_entropy(
    head: Head,
    hidden_BTD: Float[Array, "B T D"],
    base_VD: Float[Array, "V D"],
    tags_KD: Float[Array, "K D"] | None,
    targets: Targets,
) -> LossSums:
    """Sum of weight * -log softmax(head @ hidden[predecessor])[token] over the targets of a batch.

    The logits are hidden @ base_VD^T, those of `head.tag_ids` replaced by hidden @ tags_KD^T. Float32 from the logits
    on. `hidden_BTD` may be longer than the targets' rows: predecessors count along it. Rows are this device's own: over
    a mesh there is `cross_entropy_on_mesh`. Gradients flow to hidden, tags and (with `head.train_base`) base, in their
    own types.
    """
    return _cross_entropy(head, *jax.tree.map(jnp.asarray, (hidden_BTD, base_VD, tags_KD, targets)))


def cross_entropy_on_mesh(
    placement: Placement,
    head: Head,
    hidden_BTD: Float[Array, "B T D"],
    base_VD: Float[Array, "V D"],
    tags_KD: Float[Array, "K D"] | None,
    targets: Targets,
) -> LossSums:
    """`cross_entropy` of arrays that lie on a mesh, summed over all of it.

    Args:
        hidden_BTD, targets: split over batch and length; along T in `placement.split.order`, predecessors too.
        base_VD: split over the vocabulary only; where that does not split evenly, as `placement.vocabulary` takes it.
        tags_KD: whole.
    """
    if placement.mesh.size == 1:
        return cross_entropy(head, hidden_BTD, base_VD, tags_KD, targets)
    head, rows = replace(head, vocabulary_axes=RULES["vocab"]), base_VD.shape[0]
    if rows % placement.parts("vocab"):
        head, base_VD = replace(head, rows=rows), placement.vocabulary(base_VD)

    def local(hidden_BTD, base_VD, tags_KD, targets):
        # A target's predecessor may lie on another chip: at the border of a chunk, or before the fork of a path.
        if placement.size("context") > 1:
            hidden_BTD = jax.lax.all_gather(hidden_BTD, "context", axis=1, tiled=True)
        sums = cross_entropy(head, hidden_BTD, base_VD, tags_KD, targets)
        return jax.lax.psum(sums, (*RULES["batch"], *RULES["length"]))

    text, whole = placement.spec(("batch", "length")), PartitionSpec()
    specs = (text, placement.spec(("vocab",)), whole, text)
    spread = jax.shard_map(local, mesh=placement.mesh, in_specs=specs, out_specs=whole, check_vma=False)
    return spread(hidden_BTD, base_VD, tags_KD, targets)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cross_entropy(head, hidden_BTD, base_VD, tags_KD, targets):
    return _sums(head, hidden_BTD, base_VD, tags_KD, targets, gradients=False)[0]


def _cross_entropy_forward(head, hidden_BTD, base_VD, tags_KD, targets):
    return _sums(head, hidden_BTD, base_VD, tags_KD, targets, gradients=True)


def _cross_entropy_backward(head, gradients, cotangent):
    # Chips that share a token return the same sums; `shard_map` divides what comes back among them.
    total = jax.lax.psum(cotangent.total, head.vocabulary_axes) if head.vocabulary_axes else cotangent.total
    hidden_BTD, base_VD, tags_KD = jax.tree.map(lambda g: (g * total).astype(g.dtype), gradients)
    return hidden_BTD, base_VD, tags_KD, None


_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def _sums(head, hidden_BTD, base_VD, tags_KD, targets, gradients):
    """Loss sums, and the gradients of `total` (None where not asked for)."""
    B, S, D = hidden_BTD.shape
    T = targets.tokens_BT.shape[1]
    hidden_ND = hidden_BTD.reshape(B * S, D)
    tokens_N, weight_N, part_N = (x.reshape(-1) for x in (targets.tokens_BT, targets.weight_BT, targets.part_BT))
    source_N = (targets.predecessor_BT + jnp.arange(B, dtype=jnp.int32)[:, None] * S).reshape(-1)
    chunk = min(head.chunk, B * T)
    count = jnp.sum(weight_N != 0)
    (order_S,) = jnp.nonzero(weight_N != 0, size=-(-B * T // chunk) * chunk, fill_value=0)

    def add_chunk(i, carry):
        sums, (hidden_grad, base_grad, tags_grad) = carry
        pick_C = jax.lax.dynamic_slice(order_S, (i * chunk,), (chunk,))
        live_C = (i * chunk + jnp.arange(chunk) < count).astype(jnp.float32)
        h_CD, source_C = hidden_ND[source_N[pick_C]], source_N[pick_C]
        weight_C = weight_N[pick_C].astype(jnp.float32) * live_C
        chunk_out = _chunk(head, h_CD, base_VD, tags_KD, tokens_N[pick_C], weight_C, gradients)
        nll_C, z_C, correct_C, h_grad, base_more, tags_more = chunk_out
        onehot_CP = jax.nn.one_hot(part_N[pick_C], len(PARTS), dtype=jnp.float32) * live_C[:, None]
        sums = LossSums(
            sums.total + weight_C @ (nll_C + z_C),
            sums.parts_P + nll_C @ onehot_CP,
            sums.counts_P + onehot_CP.sum(0),
            sums.correct_P + correct_C @ onehot_CP,
        )
        if h_grad is not None:
            hidden_grad = hidden_grad.at[source_C].add(h_grad)
        base_grad, tags_grad = jax.tree.map(jnp.add, (base_grad, tags_grad), (base_more, tags_more))
        return sums, (hidden_grad, base_grad, tags_grad)

    zero, parts_P = jnp.float32(0), jnp.zeros(len(PARTS), jnp.float32)
    start = (
        jnp.zeros((B * S, D), jnp.float32) if gradients else None,
        jnp.zeros(base_VD.shape, jnp.float32) if gradients and head.train_base else None,
        jnp.zeros(tags_KD.shape, jnp.float32) if gradients and tags_KD is not None else None,
    )
    carry = (LossSums(zero, parts_P, parts_P, parts_P), start)
    sums, (hidden_grad, base_grad, tags_grad) = jax.lax.fori_loop(0, -(-count // chunk), add_chunk, carry)
    if gradients:
        hidden_grad = hidden_grad.reshape(B, S, D).astype(hidden_BTD.dtype)
        base_grad = None if base_grad is None else base_grad.astype(base_VD.dtype)
        tags_grad = None if tags_grad is None else tags_grad.astype(tags_KD.dtype)
    return sums, (hidden_grad, base_grad, tags_grad)


def _chunk(head, h_CD, base_VD, tags_KD, token_C, weight_C, gradients):
    """-> (nll_C, z-loss_C, correct_C, gradient of h, of base, of tags) of the weighted sum; the gradients None if not
    wanted, each chip's own share of them where the vocabulary is split."""
    dot = partial(jnp.einsum, preferred_element_type=jnp.float32)
    over, V = head.vocabulary_axes, base_VD.shape[0]
    chip = jax.lax.axis_index(over) if over else 0
    own_C = token_C - chip * V  # Its row among this chip's.
    logits_CV = dot("CD,VD->CV", h_CD, base_VD.astype(h_CD.dtype))
    target_C = jnp.take_along_axis(logits_CV, jnp.clip(own_C, 0, V - 1)[:, None], axis=1)[:, 0]
    target_C = _sum(over, jnp.where((own_C >= 0) & (own_C < V), target_C, 0.0))
    barred_V: Any = None  # Rows that give no logits.
    if head.rows:
        barred_V = chip * V + jnp.arange(V) >= head.rows
    tag_logits_CK: Any = None
    is_tag_CK: Any = None
    if tags_KD is not None:
        ids_K = jnp.asarray(head.tag_ids, jnp.int32)
        replaced_V = (ids_K[:, None] == chip * V + jnp.arange(V)).any(0)  # their logits come from the tag rows
        barred_V = replaced_V if barred_V is None else barred_V | replaced_V
        tag_logits_CK = dot("CD,KD->CK", h_CD, tags_KD.astype(h_CD.dtype))
        is_tag_CK = token_C[:, None] == ids_K
        target_C = jnp.where(is_tag_CK.any(1), jnp.sum(is_tag_CK * tag_logits_CK, 1), target_C)
    if barred_V is not None:
        logits_CV = jnp.where(barred_V, -jnp.inf, logits_CV)
    top_C = logits_CV.max(1)
    if over:
        top_C = jax.lax.pmax(top_C, over)
    if tags_KD is not None:
        top_C = jnp.maximum(top_C, tag_logits_CK.max(1))
    total_C = _sum(over, jnp.exp(logits_CV - top_C[:, None]).sum(1))
    if tags_KD is not None:
        total_C += jnp.exp(tag_logits_CK - top_C[:, None]).sum(1)
    lse_C = top_C + jnp.log(total_C)
    nll_C, z_C, correct_C = lse_C - target_C, head.z_loss * lse_C**2, (target_C >= top_C).astype(jnp.float32)
    if not gradients:
        return nll_C, z_C, correct_C, None, None, None

    pull_C = weight_C * (1.0 + 2.0 * head.z_loss * lse_C)  # Of the softmax.
    hit_CV = own_C[:, None] == jnp.arange(V)
    if barred_V is not None:
        hit_CV &= ~barred_V
    grad_CV = pull_C[:, None] * jnp.exp(logits_CV - lse_C[:, None]) - weight_C[:, None] * hit_CV
    grad_CV = grad_CV.astype(h_CD.dtype)
    h_grad_CD = dot("CV,VD->CD", grad_CV, base_VD.astype(h_CD.dtype))
    tags_grad_KD = None
    if tags_KD is not None:
        grad_CK = pull_C[:, None] * jnp.exp(tag_logits_CK - lse_C[:, None]) - weight_C[:, None] * is_tag_CK
        grad_CK = jnp.where(chip == 0, grad_CK, 0.0)  # All chips hold the tag rows; one counts.
        h_grad_CD += dot("CK,KD->CD", grad_CK, tags_KD.astype(jnp.float32))
        tags_grad_KD = dot("CK,CD->KD", grad_CK, h_CD.astype(jnp.float32))
    base_grad_VD = dot("CV,CD->VD", grad_CV, h_CD) if head.train_base else None
    return nll_C, z_C, correct_C, h_grad_CD, base_grad_VD, tags_grad_KD


def _sum(axes: tuple[str, ...], x):
    return jax.lax.psum(x, axes) if axes else x
