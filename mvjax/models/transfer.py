"""Chunks of arrays, moved onto the devices and off them by programs that compute nothing.

An array that lies on several devices has a `NamedSharding`; what lies on one has any sharding, or None for the default
device. Of each device's part, a program takes or writes the same rows.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

CHUNK_BYTES = 32 * 2**20
"""Most bytes that move between the files and the devices of a process at once."""

Index = tuple[slice, ...]


def chunk_bytes(largest: int) -> int:
    """Bytes of the chunks in which a tensor of this size, and smaller ones, are moved."""
    return min(CHUNK_BYTES, max(largest // 8, 2**16))


def parts_of(sharding: Sharding | None, shape: tuple[int, ...]) -> tuple[dict[Any, Index], tuple[int, ...]]:
    """What each device of this process holds of an array, and the shape of that; None stands for an only device."""
    if sharding is None or len(sharding.device_set) == 1:
        return {None: tuple(slice(0, size) for size in shape)}, shape
    indices = sharding.addressable_devices_indices_map(shape)
    parts = {device: spans(index, shape) for device, index in indices.items() if index is not None}
    return parts, sharding.shard_shape(shape)


def spans(index: Index, shape: tuple[int, ...]) -> Index:
    """Slices with numbers for starts and stops."""
    return tuple(slice(*part.indices(size)[:2]) for part, size in zip(index, shape, strict=True))


def reading_place(home: Sharding | None, shape: tuple[int, ...], lead: int) -> Sharding | None:
    """Where the rows of a parameter are put when they are read: where they belong, or some whole rows on each device.

    The latter where a process holds but some columns of its rows, and the mesh divides the rows.
    """
    if not isinstance(home, NamedSharding) or len(shape) != lead + 2:
        return home
    shard = home.shard_shape(shape)
    splits, columns = shape[-1] // shard[-1], defaultdict(set)
    for device, index in home.devices_indices_map(shape).items():
        *rows, own = spans(index, shape)
        columns[process_of(device), str(rows)].add(own.start)
    if shard[-2] % splits or all(len(own) == splits for own in columns.values()):
        return home
    spec = padded(home, len(shape))
    return NamedSharding(home.mesh, PartitionSpec(*spec[:lead], (*axes_of(spec[-2]), *axes_of(spec[-1])), None))


def process_of(device: jax.Device) -> int:
    """The process that a device belongs to."""
    return device.process_index


def padded(sharding: NamedSharding, axes: int) -> tuple:
    """The partition of each axis of an array."""
    return (*sharding.spec, *(None,) * (axes - len(sharding.spec)))


def axes_of(names: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Mesh axes of one entry of a partition."""
    return () if names is None else (names,) if isinstance(names, str) else tuple(names)


def zeros(shape: tuple[int, ...], dtype: np.dtype, sharding: Sharding | None) -> jax.Array:
    """Room for a parameter."""
    if not isinstance(sharding, NamedSharding):
        return jnp.zeros(shape, dtype, device=sharding)
    return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=sharding)()


def compiler_options() -> tuple[tuple[str, str], ...]:
    """Options for programs that move numbers and compute none.

    XLA:CPU takes what it is given in bfloat16 to float32 and back: for every chunk, the whole parameter.
    """
    return (("xla_disable_hlo_passes", "float-normalization-bf16"),) if jax.default_backend() == "cpu" else ()


@functools.lru_cache
def inserter(home: Sharding | None, source: Sharding | None, options: tuple) -> Callable[..., jax.Array]:
    """A compiled function (whole, chunk, begin): the parameter `whole`, which lies in `home`, with a chunk of each
    device's part, which lies in `source`, written in place from row `begin` ([layer,] row) of it on."""

    def local(whole: jax.Array, chunk: jax.Array, begin: jax.Array) -> jax.Array:
        first = list(begin)
        if source == home:
            return jax.lax.dynamic_update_slice(whole, chunk, first + [0] * (whole.ndim - len(first)))
        assert isinstance(home, NamedSharding)
        # Each device has all columns of some rows, `splits` devices those of the rows of one part: they exchange.
        rows, splits = chunk.shape[-2], chunk.shape[-1] // whole.shape[-1]
        axes = axes_of(padded(home, whole.ndim)[-1])
        chunk = jax.lax.all_to_all(chunk, axes, whole.ndim - 1, whole.ndim - 2, tiled=True)

        def write(i: jax.Array, whole: jax.Array) -> jax.Array:
            part = jax.lax.dynamic_slice_in_dim(chunk, i * rows, rows, axis=-2)
            start = first[-1] + i * (whole.shape[-2] // splits)
            return jax.lax.dynamic_update_slice(whole, part, [*first[:-1], start, 0])

        return jax.lax.fori_loop(0, splits, write, whole)

    if isinstance(home, NamedSharding) and isinstance(source, NamedSharding):
        specs = (home.spec, source.spec, PartitionSpec())
        local = jax.shard_map(local, mesh=home.mesh, in_specs=specs, out_specs=home.spec, check_vma=False)
    return jax.jit(local, donate_argnums=0, compiler_options=dict(options))


@functools.lru_cache
def taker(
    sharding: NamedSharding | None, lead: int, sizes: tuple[int, ...], options: tuple
) -> Callable[..., jax.Array]:
    """A compiled function (array, [layer,] row): from that row on, `sizes` of each device's part of the array."""

    def local(array: jax.Array, begin: jax.Array) -> jax.Array:
        starts = list(begin) + [0] * (array.ndim - len(begin))
        return jax.lax.dynamic_slice(array, starts, (*(1,) * lead, *sizes)).reshape(sizes)

    if sharding is not None:
        specs = (sharding.spec, PartitionSpec())
        out = PartitionSpec(*padded(sharding, lead + len(sizes))[lead:])
        local = jax.shard_map(local, mesh=sharding.mesh, in_specs=specs, out_specs=out, check_vma=False)
    return jax.jit(local, compiler_options=dict(options))
