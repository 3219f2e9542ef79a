"""The mesh of a run, and where its arrays lie on it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mvjax.errors import UserError
from mvjax.models.config import ModelConfig
from mvjax.models.placement import MESH_AXES, RULES, Placement
from mvjax.training.config import MeshConfig


def mesh_shape(config: MeshConfig, devices: int) -> tuple[int, ...]:
    """Sizes of MESH_AXES; `data` = 0 takes what the others leave.

    Raises:
        UserError: the product is not the number of devices, or the slices do not divide the data axis.
    """
    rest = config.fsdp * config.context * config.tensor
    data = config.data or max(1, devices // rest)
    shape = data, config.fsdp, config.context, config.tensor
    if math.prod(shape) != devices:
        asked = " x ".join(f"{axis} {size}" for axis, size in zip(MESH_AXES, shape))
        raise UserError(
            f"mesh: {asked} = {math.prod(shape)} chips, but there are {devices}; change mesh.data, mesh.fsdp, "
            "mesh.context or mesh.tensor"
        )
    if data % config.slices:
        raise UserError(f"mesh: a data axis of {data} does not split over mesh.slices = {config.slices}")
    return shape


def make_placement(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Placement:
    """The mesh over all devices of all processes, or over `devices` (those of a described machine).

    Neighbours along the inner axes are neighbours on the chips' network. Over several slices the data axis is the
    outermost one: only it crosses the data-centre network.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = mesh_shape(config, len(devices))
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices != config.slices and (slices > 1 or devices[0].platform == "tpu"):
        raise UserError(f"config: mesh.slices = {config.slices}, but the devices lie in {slices}")
    if devices[0].platform != "tpu":  # Devices of a process, or of a host, come one after the other.
        grid = np.asarray(devices).reshape(shape)
    elif config.slices > 1:
        inner = (shape[0] // config.slices, *shape[1:])
        grid = mesh_utils.create_hybrid_device_mesh(
            inner, (config.slices, 1, 1, 1), devices, allow_split_physical_axes=True
        )
    else:
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    mesh = Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))
    return Placement(mesh, config.context_rounds)


def mesh_notes(placement: Placement, shape: ModelConfig) -> tuple[str, ...]:
    """What a user should know about a model on a mesh, a line each."""
    if placement.splits_heads(shape.heads, shape.kv_heads):
        return ()
    return (
        f"note: {shape.heads} heads, {shape.kv_heads} of keys and values, do not split over tensor "
        f"{placement.size('tensor')}: each of its chips computes the attention of all of them",
    )


def mesh_words(placement: Placement) -> str:
    """The mesh in words: how many devices, and the axes that split something."""
    size = placement.mesh.size
    axes = " x ".join(f"{axis} {parts}" for axis, parts in placement.mesh.shape.items() if parts > 1)
    return f"{size} device{'s' * (size > 1)}" + (f" ({axes})" if axes else "")


def batch_sharding(placement: Placement, *axes: str | None) -> NamedSharding:
    """Arrays [micro-batch, rows, ...] with logical axes from the third on."""
    return NamedSharding(placement.mesh, PartitionSpec(None, *placement.spec(("batch", *axes))))


def batch_parts(placement: Placement) -> int:
    """Number of parts that the rows of a micro-batch are split into."""
    return placement.size(*RULES["batch"])


def local_rows(placement: Placement, rows: int, accumulation: int) -> tuple[int, ...]:
    """Rows of a step's batch, rising, that this process's devices need; micro-batch a takes rows a, a + A, ..."""
    shape = (accumulation, rows // accumulation)
    where = batch_sharding(placement).addressable_devices_indices_map(shape).values()
    places = {place for index in where if index for place in range(*index[1].indices(shape[1]))}
    return tuple(sorted(place * accumulation + micro for place in places for micro in range(accumulation)))
