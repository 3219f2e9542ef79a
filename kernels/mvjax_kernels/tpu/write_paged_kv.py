"""New slots of paged KV streams, written in place on TPUs.

XLA's scatter copies all pages into another layout first. Here a grid step is one request: the groups of slots that its
lanes fall into are read, changed and written back. A group is what a tile in memory holds, 16 slots or, of 8-bit
numbers, 32; of scales, whose slots lie along the lanes of a register, a page.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Int, Shaped

from mvjax_kernels.precision import precision_of


class Kind(NamedTuple):
    """How one of the arrays of pages is written."""

    group: int
    """Slots that are written together."""
    count: int
    """Groups that the lanes of a request may fall into."""
    scale: bool
    """[K, slots] instead of [K, slots, H]."""


def write_paged_kv(
    pages: Sequence[Shaped[Array, "P K Z ..."]],
    news: Sequence[Shaped[Array, "R L K ..."]],
    pages_RM: Int[Array, "R M"],
    start_R: Int[Array, " R"],
    interpret: bool,
) -> tuple[Shaped[Array, "P K Z ..."], ...]:
    """See `mvjax_kernels.write_paged_kv`; the arguments are checked there. `news` go into `pages`, one by one."""
    R, L = news[0].shape[:2]
    # What moves is a product, which the compiler has in floating-point numbers only; int8 fits bfloat16.
    news = [x.swapaxes(1, 2).astype(jnp.bfloat16 if x.dtype == jnp.int8 else x.dtype) for x in news]
    kinds = [kind_of(x, L) for x in pages]
    whole = pl.BlockSpec(memory_space=pl.ANY)

    def block(new: Array) -> pl.BlockSpec:
        return pl.BlockSpec((1, *new.shape[1:]), lambda r, *_: (r,) + (0,) * (new.ndim - 1))

    def held(x: Array, kind: Kind) -> Any:
        return pltpu.VMEM((kind.count, x.shape[1], kind.group, *x.shape[3:]), x.dtype)

    count = len(pages)
    return tuple(
        pl.pallas_call(
            partial(_kernel, kinds=kinds, stretches=pages_RM.shape[1]),
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=2,
                grid=(R,),
                in_specs=[*map(block, news), *[whole] * count],
                out_specs=[whole] * count,
                scratch_shapes=[
                    *map(held, pages, kinds),
                    pltpu.SemaphoreType.DMA((count, max(kind.count for kind in kinds))),
                ],
            ),
            out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in pages],
            input_output_aliases={2 + count + i: i for i in range(count)},
            compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
            interpret=interpret,
        )(pages_RM.reshape(-1), start_R, *news, *pages)
    )


def kind_of(x_PKZ_: Array, lanes: int) -> Kind:
    """How an array of pages is written."""
    scale = x_PKZ_.ndim == 3
    group = x_PKZ_.shape[2] if scale else 32 if x_PKZ_.dtype == jnp.int8 else 16
    return Kind(group, -(-(lanes - 1) // group) + 1, scale)


def _kernel(pages_ref, start_ref, *refs, kinds: Sequence[Kind], stretches: int):
    count = len(kinds)
    news, outs, helds, semaphores = refs[:count], refs[2 * count : 3 * count], refs[3 * count : 4 * count], refs[-1]
    request = pl.program_id(0)
    L, Z = news[0].shape[2], outs[0].shape[2]
    start = start_ref[request]

    def slot_of(kind, group):
        return (start // kind.group + group) * kind.group

    def copy(side, group, into_memory):
        kind, slot = kinds[side], slot_of(kinds[side], group)
        page = pages_ref[request * stretches + jnp.minimum(slot // Z, stretches - 1)]
        place = outs[side].at[page]
        if not kind.scale:
            place = place.at[:, pl.ds(pl.multiple_of(lax.rem(slot, Z), kind.group), kind.group)]
        ends = (helds[side].at[group], place)
        return pltpu.make_async_copy(*(ends if into_memory else ends[::-1]), semaphores.at[side, group])

    def move(into_memory):
        for action in ("start", "wait"):
            for side, kind in enumerate(kinds):
                for group in range(kind.count):
                    slot = slot_of(kind, group)

                    @pl.when((slot < start + L) & (slot < stretches * Z))
                    def _(side=side, group=group, action=action):
                        getattr(copy(side, group, into_memory), action)()

    move(False)
    for new_ref, held, kind in zip(news, helds, kinds):
        for group in range(kind.count):
            change = _change_scales if kind.scale else _change
            change(new_ref, held.at[group], slot_of(kind, group) - start)
    move(True)


def _change(new_ref, held, first):
    """Put the lanes into a group of slots, the first of which is lane `first`: a product with ones and zeros moves the
    rows without a rounding."""
    K, G, H = held.shape
    L = new_ref.shape[2]
    lane_GL = first + lax.broadcasted_iota(jnp.int32, (G, L), 0)
    takes_GL = (lane_GL == lax.broadcasted_iota(jnp.int32, (G, L), 1)).astype(new_ref.dtype)
    lane_GH = first + lax.broadcasted_iota(jnp.int32, (G, H), 0)
    changed_GH = (lane_GH >= 0) & (lane_GH < L)
    for head in range(K):
        moved_GH = _product(takes_GL, new_ref[0, head])
        if held.dtype == jnp.int8:
            old_GH = held[head].astype(jnp.int32)
            held[head] = jnp.where(changed_GH, moved_GH.astype(jnp.int32), old_GH).astype(jnp.int8)
        else:
            held[head] = jnp.where(changed_GH, moved_GH.astype(held.dtype), held[head])


def _change_scales(new_ref, held, first):
    """The same of scales [K, slots]."""
    (K, G), L = held.shape, new_ref.shape[2]
    lane_LG = first + lax.broadcasted_iota(jnp.int32, (L, G), 1)
    takes_LG = (lane_LG == lax.broadcasted_iota(jnp.int32, (L, G), 0)).astype(jnp.float32)
    lane_KG = first + lax.broadcasted_iota(jnp.int32, (K, G), 1)
    changed_KG = (lane_KG >= 0) & (lane_KG < L)
    held[...] = jnp.where(changed_KG, _product(new_ref[0], takes_LG), held[...])


def _product(a, b):
    dimensions = (((1,), (0,)), ((), ()))
    return lax.dot_general(a, b, dimensions, precision=precision_of(a.dtype), preferred_element_type=jnp.float32)
