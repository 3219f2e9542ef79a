"""Attention over a mesh: batch and heads split as they are, the sequence split so that every chip gets equal work.

Along the context axis the text is cut into rounds of 2n chunks; of each round chip i holds chunk i and its mirror
image, chunk 2n - 1 - i ("zigzag"): on a causal document the early chunk is as much cheaper as the late one is dearer.
Trees and packed documents have work in patches; more rounds spread them. Keys and values are gathered along the axis
and brought into the order of the text; the chunks of a chip are then one call, each with the row it begins at, over
hidden intervals in rows of the whole sequence. The gradients of the gathered keys and values are summed over the chips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from mvjax_kernels.entry import attention


@dataclass(frozen=True)
class Split:
    """Which mesh axes split what; none of them: that dimension is whole on every chip."""

    mesh: Mesh
    batch: tuple[str, ...] = ()
    heads: str | None = None
    context: str | None = None
    rounds: int = 1
    """Rounds of chunks along the context axis. More of them spread the work of trees and packed documents better, but a
    chunk, T / (2 chips rounds) rows, must hold whole tiles."""

    def order(self, length: int) -> Int[np.ndarray, " T"]:
        """Row of the text that stands at each place of a sequence, see `zigzag`."""
        return zigzag(length, self.size(self.context), self.rounds)

    def size(self, *axes: str | None) -> int:
        """Chips along some axes."""
        return int(np.prod([self.mesh.shape[axis] for axis in axes if axis is not None]))


def zigzag(length: int, chips: int, rounds: int = 1) -> Int[np.ndarray, " T"]:
    """Row of the text that stands at each place of a sequence split over `chips` chips; chip by chip.

    Reorder all that is one number a token (ids, positions, targets) by it before the arrays are put on the mesh; its
    `argsort` brings results back. Hidden intervals stay in the order of the text.

    Raises:
        ValueError: the length is no multiple of two chunks a chip and round.
    """
    if rounds < 1 or length % (2 * chips * rounds):
        each = f"{2 * rounds} chunks for each of {chips} chips"
        raise ValueError(f"a sequence of {length} tokens does not split into {each}")
    chunks = np.arange(length, dtype=np.int32).reshape(2 * chips * rounds, -1)
    return chunks[chunks_of(chips, rounds)].reshape(-1)


def chunks_of(chips: int, rounds: int) -> Int[np.ndarray, "chips C"]:
    """Chunks that each chip holds, rising."""
    chip = np.arange(chips, dtype=np.int32)[:, None]
    first = 2 * chips * np.arange(rounds, dtype=np.int32)
    return np.stack([first + chip, first + 2 * chips - 1 - chip], -1).reshape(chips, -1)


def sharded_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BTKH: Float[Array, "B T K H"],
    v_BTKH: Float[Array, "B T K H"],
    hide_start_BET: Int[Array, "B E T"],
    hide_end_BET: Int[Array, "B E T"],
    split: Split,
    *,
    scale: float | None = None,
    soft_cap: float | None = None,
    backend: str = "auto",
    return_lse: bool = False,
) -> Float[Array, "B T N H"] | tuple[Float[Array, "B T N H"], Float[Array, "B T N"]]:
    """`attention` of whole sequences under `jit` on a mesh; differentiable, the gradients are exact.

    Args:
        q_BTNH, k_BTKH, v_BTKH: in `split.order` along T if a context axis is given.
        hide_start_BET, hide_end_BET: in the order of the text, rows of the whole sequence.
        split: how the arrays lie on the mesh.
        scale, soft_cap, backend, return_lse: as `attention`.

    Raises:
        ValueError: sizes that do not divide, or as `attention`.
    """
    _check(q_BTNH.shape, k_BTKH.shape[2], split)
    chips = split.size(split.context)
    side = PartitionSpec(split.batch or None, split.context, split.heads)
    hide = PartitionSpec(split.batch or None)
    options = {"scale": scale, "soft_cap": soft_cap, "backend": backend, "return_lse": True}

    def local(q_BTNH, k_BTKH, v_BTKH, hide_start_BES, hide_end_BES):
        if chips == 1:
            return attention(q_BTNH, k_BTKH, v_BTKH, hide_start_BES, hide_end_BES, **options)
        k_BSKH, v_BSKH = (_in_text_order(x, split) for x in (k_BTKH, v_BTKH))
        B, T = q_BTNH.shape[:2]
        first_XC = jnp.asarray(chunks_of(chips, split.rounds) * (T // (2 * split.rounds)))
        offset_BC = jnp.broadcast_to(first_XC[lax.axis_index(split.context)], (B, 2 * split.rounds))
        return attention(q_BTNH, k_BSKH, v_BSKH, hide_start_BES, hide_end_BES, q_offset=offset_BC, **options)

    # The kernels' results carry no record of the axes they vary over.
    run = jax.shard_map(
        local, mesh=split.mesh, in_specs=(side, side, side, hide, hide), out_specs=(side, side), check_vma=False
    )
    o_BTNH, lse_BTN = run(q_BTNH, k_BTKH, v_BTKH, hide_start_BET, hide_end_BET)
    return (o_BTNH, lse_BTN) if return_lse else o_BTNH


def _in_text_order(x_BTKH: Array, split: Split) -> Array:
    """All chips' keys or values."""
    x_BSKH = lax.all_gather(x_BTKH, split.context, axis=1, tiled=True)
    B, S, K, H = x_BSKH.shape
    order = np.argsort(chunks_of(split.size(split.context), split.rounds).reshape(-1))
    return x_BSKH.reshape(B, len(order), -1, K, H)[:, order].reshape(B, S, K, H)


def _check(shape: Sequence[int], kv_heads: int, split: Split) -> None:
    batch, length, heads, _ = shape
    unknown = [a for a in (*split.batch, split.heads, split.context) if a is not None and a not in split.mesh.shape]
    if unknown:
        raise ValueError(f"the mesh has axes {tuple(split.mesh.shape)}, not {unknown[0]!r}")
    for name, size, parts in (
        ("sequences", batch, split.size(*split.batch)),
        ("kv heads", kv_heads, split.size(split.heads)),
        ("query heads", heads, split.size(split.heads)),
    ):
        if size % parts:
            raise ValueError(f"{size} {name} do not split over {parts} chips")
    if split.context is not None:
        split.order(length)
