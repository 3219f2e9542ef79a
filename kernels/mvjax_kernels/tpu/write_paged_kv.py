"""New slots of paged KV streams, written in place on TPUs.

XLA's scatter copies all pages into another layout first. Here a grid step is one request: the groups of 16 slots that
its lanes fall into are read, changed and written back, which is what a tile of 16-bit numbers in memory needs anyway.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from mvjax_kernels.precision import precision_of

GROUP = 16
"""Slots that are written together."""


def write_paged_kv(
    k_PKZH: Float[Array, "P K Z H"],
    v_PKZH: Float[Array, "P K Z H"],
    new_k_RLKH: Float[Array, "R L K H"],
    new_v_RLKH: Float[Array, "R L K H"],
    pages_RM: Int[Array, "R M"],
    start_R: Int[Array, " R"],
    interpret: bool,
) -> tuple[Float[Array, "P K Z H"], Float[Array, "P K Z H"]]:
    """See `mvjax_kernels.write_paged_kv`; the arguments are checked there."""
    R, L, K, H = new_k_RLKH.shape
    groups = -(-(L - 1) // GROUP) + 1
    news = [x.swapaxes(1, 2) for x in (new_k_RLKH, new_v_RLKH)]
    pages = pl.BlockSpec(memory_space=pl.ANY)
    new = pl.BlockSpec((1, K, L, H), lambda r, *_: (r, 0, 0, 0))
    held = pltpu.VMEM((groups, K, GROUP, H), k_PKZH.dtype)
    return pl.pallas_call(
        partial(_kernel, stretches=pages_RM.shape[1], precision=precision_of(k_PKZH.dtype)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(R,),
            in_specs=[new, new, pages, pages],
            out_specs=[pages, pages],
            scratch_shapes=[held, held, pltpu.SemaphoreType.DMA((2, groups))],
        ),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (k_PKZH, v_PKZH)],
        input_output_aliases={4: 0, 5: 1},
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
        interpret=interpret,
    )(pages_RM.reshape(-1), start_R, *news, k_PKZH, v_PKZH)


def _kernel(pages_ref, start_ref, new_k_ref, new_v_ref, *refs, stretches: int, precision):
    _, _, k_out, v_out, k_held, v_held, semaphores = refs
    request = pl.program_id(0)
    groups, _, _, _ = k_held.shape
    L, Z = new_k_ref.shape[2], k_out.shape[2]
    start = start_ref[request]
    first = start // GROUP
    sides = ((new_k_ref, k_out, k_held), (new_v_ref, v_out, v_held))

    def copies(group, into_memory):
        slot = (first + group) * GROUP
        page = pages_ref[request * stretches + jnp.minimum(slot // Z, stretches - 1)]
        within = pl.ds(pl.multiple_of(lax.rem(slot, Z), GROUP), GROUP)
        for i, (_, out, held) in enumerate(sides):
            ends = (held.at[group], out.at[page, :, within])
            yield pltpu.make_async_copy(*(ends if into_memory else ends[::-1]), semaphores.at[i, group])

    def needed(group):
        slot = (first + group) * GROUP
        return (slot < start + L) & (slot < stretches * Z)

    def move(into_memory):
        for action in ("start", "wait"):
            for group in range(groups):

                @pl.when(needed(group))
                def _(group=group, action=action):
                    for copy in copies(group, into_memory):
                        getattr(copy, action)()

    move(False)
    for group in range(groups):
        # Which lane each slot of the group takes: a product with ones and zeros moves the rows without a rounding.
        slot_GL = (first + group) * GROUP + lax.broadcasted_iota(jnp.int32, (GROUP, L), 0)
        takes_GL = slot_GL - start == lax.broadcasted_iota(jnp.int32, (GROUP, L), 1)
        slot_GH = (first + group) * GROUP + lax.broadcasted_iota(jnp.int32, (GROUP, k_held.shape[3]), 0)
        changed_GH = (slot_GH >= start) & (slot_GH < start + L)
        for new_ref, _, held in sides:
            for head in range(held.shape[1]):
                new_LH = new_ref[0, head]
                moved_GH = lax.dot_general(
                    takes_GL.astype(new_LH.dtype),
                    new_LH,
                    (((1,), (0,)), ((), ())),
                    precision=precision,
                    preferred_element_type=jnp.float32,
                )
                held[group, head] = jnp.where(changed_GH, moved_GH.astype(held.dtype), held[group, head])
    move(True)
