"""How long a step takes at best: the roofline of a compiled program on a machine's published figures.

Nothing here was run. Compute, memory and network are each given their peak rate, and the slowest of them is taken as
the time, as if it hid the others: a bound from below, to compare meshes by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh

from mvjax.chips import Chip
from mvjax.planning.collectives import Collective, by_axes
from mvjax.planning.hlo import Program
from mvjax.planning.machines import GPUS_PER_HOST, Machine
from mvjax.planning.program import Step
from mvjax.planning.work import Work
from mvjax.training.flops import ModelFlops


@dataclass(frozen=True)
class Times:
    """Seconds of a step at peak rates."""

    compute: float
    memory: float
    network: float
    """All collectives one after the other."""

    @property
    def bound(self) -> float:
        """At least so long."""
        return max(self.compute, self.memory, self.network)

    @property
    def bound_by(self) -> str:
        """What it waits for."""
        return max(("compute", self.compute), ("memory", self.memory), ("network", self.network), key=lambda x: x[1])[0]


def times(machine: Machine, mesh: Mesh, work: Work, collectives: Sequence[Collective]) -> Times | None:
    """The roofline; None for a chip without published figures."""
    chip = machine.chip
    if not chip.flops:
        return None
    network = sum(nbytes / rate(chip, mesh, axes) for axes, nbytes in by_axes(collectives).items())
    return Times(work.flops / chip.flops, work.traffic / chip.bandwidth, network)


def rate(chip: Chip, mesh: Mesh, axes: Sequence[str]) -> float:
    """Bytes a second that a chip sends to the others of its group along some axes of the mesh.

    On a torus a group uses the two links of each dimension that its chips differ in. Out of a slice or a host the
    chip's share of the network counts.
    """
    first = tuple(slice(None) if axis in axes else 0 for axis in mesh.axis_names)
    group = np.asarray(mesh.devices[first]).reshape(-1)
    if chip.platform == "gpu":
        hosts = {device.id // GPUS_PER_HOST for device in group}
        return chip.link if len(hosts) == 1 else chip.outside
    if len({getattr(device, "slice_index", 0) for device in group}) > 1:
        return chip.outside
    coordinates = np.asarray([device.coords for device in group])
    dimensions = int((coordinates != coordinates[0]).any(axis=0).sum())
    return 2 * max(1, dimensions) * chip.link


def model_flops(step: Step) -> float:
    """Operations that the model itself needs for a step, if every row is one causal document and all of it target."""
    config = step.config
    tokens = config.data.rows * config.data.row_length
    return ModelFlops.of(step.shape.config, step.adapters).step(tokens, tokens, tokens * config.data.row_length // 2)


def unknown_loops(step: Step, program: Program) -> Mapping[str, float]:
    """Rounds of the loops whose number is decided on the device: the loss goes through the targets chunk by chunk, at
    most all tokens of the chip's rows."""
    config, mesh = step.config, step.mesh
    micro = config.data.rows // config.data.accumulation // (mesh["data"] * mesh["fsdp"])
    tokens = micro * config.data.row_length // mesh["context"]
    chunks = -(-tokens // min(config.loss.chunk, tokens))
    return {loop.instruction.name: chunks for loop in program.loops() if program.rounds(loop) is None}
