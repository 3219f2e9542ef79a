"""Where arrays live: one table of rules, from names to mesh axes.

Today's mesh has one axis, "data": rows of the batch are spread over it and every parameter is copied to each device.
A larger mesh ("fsdp", "tensor") needs new rows in PARAMETER_RULES and names in BATCH_AXES, and nothing else.
"""

from __future__ import annotations

import re

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mvjax.errors import UserError

BATCH_AXES = ("data",)
"""Mesh axes that the rows of a batch are spread over."""

PARAMETER_RULES: tuple[tuple[str, PartitionSpec], ...] = ((r".*", PartitionSpec()),)
"""The first pattern that matches a parameter's whole name wins; the optimizer's moments follow their parameter."""


def make_mesh(devices: int = 0) -> Mesh:
    """A mesh over the first `devices` local devices (0: all); UserError where there are not so many."""
    local = jax.local_devices()
    if devices > len(local):
        raise UserError(f"config: devices = {devices}, but this process has {len(local)}; use fewer, or 0 for all")
    local = local[: devices or len(local)]
    return jax.make_mesh((len(local),), BATCH_AXES, axis_types=(AxisType.Auto,), devices=local)


def parameter_sharding(mesh: Mesh, name: str) -> NamedSharding:
    """Sharding of the parameter called `name`."""
    for pattern, spec in PARAMETER_RULES:
        if re.fullmatch(pattern, name):
            return NamedSharding(mesh, spec)
    raise KeyError(f"no sharding rule for parameter {name}")


def state_sharding(mesh: Mesh, tree):
    """Shardings of a tree whose dictionaries of parameters are keyed by name; what has no such name is replicated."""

    def of(path, _):
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        return parameter_sharding(mesh, names[-1]) if names else replicated(mesh)

    return jax.tree_util.tree_map_with_path(of, tree)


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Arrays [accumulation, rows, ...]: rows over the batch axes."""
    return NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))


def batch_devices(mesh: Mesh) -> int:
    """Number of parts that the rows of a micro-batch are split into."""
    parts = 1
    for axis in BATCH_AXES:
        parts *= mesh.shape[axis]
    return parts
