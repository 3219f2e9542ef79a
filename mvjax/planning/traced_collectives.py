"""Collectives that a traced function asks for, before any compiler combines, splits or removes them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr

from mvjax.planning.collectives import Collective, ring_bytes

KIND_OF = {
    "psum": "all-reduce",
    "psum_invariant": "all-reduce",
    "pmax": "all-reduce",
    "pmin": "all-reduce",
    "all_gather": "all-gather",
    "all_gather_invariant": "all-gather",
    "reduce_scatter": "reduce-scatter",
    "all_to_all": "all-to-all",
    "ragged_all_to_all": "ragged-all-to-all",
    "ppermute": "collective-permute",
    "pbroadcast": "collective-broadcast",
}
"""JAX's operations inside a `shard_map` that make devices exchange something."""


def traced_collectives(traced: ClosedJaxpr, mesh_shape: Mapping[str, int]) -> list[Collective]:
    """The collectives of a function, those that move most first; in loops whose rounds the device decides, of one
    round; of a branch, as if it were taken always.

    Args:
        mesh_shape: size of each mesh axis.
    """
    counts: dict[tuple[str, tuple[str, ...]], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for times, equation in equations(traced.jaxpr):
        if (kind := KIND_OF.get(equation.primitive.name)) is None:
            continue
        named = equation.params.get("axes", equation.params.get("axis_name"))
        axes = tuple(axis for axis in mesh_shape if axis in (named if isinstance(named, tuple) else (named,)))
        members = math.prod(mesh_shape[axis] for axis in axes)
        if members < 2:
            continue
        for operand in equation.invars:
            nbytes = operand.aval.size * operand.aval.dtype.itemsize
            counts[kind, axes][0] += times
            counts[kind, axes][1] += times * ring_bytes(kind, nbytes, members)
    found = [Collective(kind, axes, *numbers) for (kind, axes), numbers in counts.items()]
    return sorted(found, key=lambda collective: -collective.nbytes)


def equations(jaxpr: Jaxpr, times: float = 1.0) -> Iterator[tuple[float, Any]]:
    """Every operation of a traced function and of those that it calls, and how often each runs."""
    for equation in jaxpr.eqns:
        yield times, equation
        inner = times * equation.params["length"] if equation.primitive.name == "scan" else times
        for value in equation.params.values():
            for part in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(part, (ClosedJaxpr, Jaxpr)):
                    yield from equations(part.jaxpr if isinstance(part, ClosedJaxpr) else part, inner)
