"""Keys and values of every slot, as arrays on the devices: contiguous streams, pages, pages in int8."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mvjax_kernels
import numpy as np
from jaxtyping import Array, Float, Int, Int8


class KVArrays(NamedTuple):
    """Keys and values of every slot: a list of [R, K, S, H], one a layer or one [L, R, K, S, H] if scanned; in pages
    [P, K, Z, H], or one [L * P, K, Z, H] if scanned; `Int8Pages` of that shape where they are quantised."""

    k: Any
    v: Any
    table: Int[Array | np.ndarray, "R M"] | None = None
    """Page of each stretch of each request's stream; None: the streams are contiguous."""


class Int8Pages(NamedTuple):
    """Pages of keys or values in int8. A slot's scale is its own, so what is written depends on no other slot."""

    values: Int8[Array, "P K Z H"]
    scale: Float[Array, "P K Z"]
    """Factor of each slot of each head, float32."""


def blank(shape: tuple[int, ...], dtype: Any) -> Any:
    """Empty streams [..., K, S, H] or pages [P, K, Z, H]."""
    values = jnp.zeros(shape, dtype)
    return Int8Pages(values, jnp.zeros(shape[:-1], jnp.float32)) if dtype == jnp.int8 else values


def leading(pages: Any) -> int:
    """Length of the first axis: pages of a layer, or of all."""
    return len(jax.tree.leaves(pages)[0])


def arrays_of(k: Any, v: Any) -> tuple[tuple[Array, Array], dict[str, Any]]:
    """Pages as `mvjax_kernels` takes them: the numbers, and the scales by their argument's name."""
    if not isinstance(k, Int8Pages):
        return (k, v), {}
    return (k.values, v.values), {"k_scale_PKZ": k.scale, "v_scale_PKZ": v.scale}


def write_slots(
    k: Any,
    v: Any,
    new_k_RLKH: Float[Array, "R L K H"],
    new_v_RLKH: Float[Array, "R L K H"],
    pages_RM: Int[Array, "R M"],
    start_R: Int[Array, " R"],
    backend: str,
) -> tuple[Any, Any]:
    """`mvjax_kernels.write_paged_kv`, whatever the pages' format."""
    pages, scales = arrays_of(k, v)
    written = mvjax_kernels.write_paged_kv(*pages, new_k_RLKH, new_v_RLKH, pages_RM, start_R, **scales, backend=backend)
    if not scales:
        k_PKZH, v_PKZH = written
        return k_PKZH, v_PKZH
    k_PKZH, v_PKZH, k_scale_PKZ, v_scale_PKZ = written
    return Int8Pages(k_PKZH, k_scale_PKZ), Int8Pages(v_PKZH, v_scale_PKZ)


def write_lanes(kv_RKSH: Array, new_RKLH: Array, start_R: Array) -> Array:
    """Put each request's lanes into its slots from start_R on: one contiguous block a request, in place."""
    requests, lanes = kv_RKSH.shape[0], new_RKLH.shape[2]
    for r in range(requests):

        def update(kv_RKSH, r=r):
            return jax.lax.dynamic_update_slice(kv_RKSH, new_RKLH[r : r + 1], (r, 0, start_R[r], 0))

        if requests > 1 or lanes > 1:
            kv_RKSH = update(kv_RKSH)
        else:
            # XLA's CPU compiler repeats an update that is this small in every reader, and then must copy the whole
            # stream for each. It cannot do so across a branch; that this one is always taken is not known to it.
            kv_RKSH = jax.lax.cond(start_R[r] >= 0, update, lambda kv_RKSH: kv_RKSH, kv_RKSH)
    return kv_RKSH
