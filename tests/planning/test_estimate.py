"""The roofline of a step, and rates of the network by axes of the mesh."""

from types import SimpleNamespace

import numpy as np
import pytest
from tiny_plans import tiny_step

from mvjax.chips import CHIPS
from mvjax.planning.collectives import Collective
from mvjax.planning.estimate import rate, times
from mvjax.planning.machines import Machine
from mvjax.planning.work import Work

AXES = ("data", "fsdp", "context", "tensor")


def mesh(devices, *shape: int) -> SimpleNamespace:
    """What a mesh says of itself."""
    grid = np.empty(len(devices), object)
    grid[:] = devices
    return SimpleNamespace(axis_names=AXES, devices=grid.reshape(shape))


def torus(x: int, y: int, slices: int = 1) -> list[SimpleNamespace]:
    return [SimpleNamespace(coords=(i, j, 0), slice_index=s) for s in range(slices) for i in range(x) for j in range(y)]


def test_a_group_uses_the_links_of_the_dimensions_it_spans():
    chip, grid = CHIPS["v5e"], mesh(torus(4, 4), 1, 4, 1, 4)
    assert rate(chip, grid, ("tensor",)) == 2 * chip.link
    assert rate(chip, grid, ("fsdp",)) == 2 * chip.link
    assert rate(chip, grid, ("fsdp", "tensor")) == 4 * chip.link == chip.links * chip.link


def test_between_slices_the_share_of_the_host_counts():
    chip, grid = CHIPS["v5e"], mesh(torus(2, 2, slices=2), 2, 4, 1, 1)
    assert rate(chip, grid, ("data",)) == rate(chip, grid, ("data", "fsdp")) == chip.outside
    assert rate(chip, grid, ("fsdp",)) == 4 * chip.link


def test_gpus_of_a_host_and_of_two():
    chip, grid = CHIPS["h100"], mesh([SimpleNamespace(id=i) for i in range(16)], 2, 8, 1, 1)
    assert rate(chip, grid, ("fsdp",)) == chip.link
    assert rate(chip, grid, ("data",)) == chip.outside


def test_the_slowest_part_bounds_a_step():
    chip = CHIPS["h100"]
    machine = Machine("h100:8", chip, tuple(range(8)))
    grid = mesh([SimpleNamespace(id=i) for i in range(8)], 1, 8, 1, 1)
    found = [Collective("all-gather", ("fsdp",), 1, 2 * chip.link), Collective("all-reduce", ("fsdp",), 1, chip.link)]
    at = times(machine, grid, Work(0.5 * chip.flops, 0.5 * chip.flops, 2 * chip.bandwidth), found)
    assert (at.compute, at.memory, at.network) == pytest.approx((1, 2, 3))
    assert (at.bound, at.bound_by) == (pytest.approx(3), "network")
    assert times(machine, grid, Work(5 * chip.flops, 0, 0), found).bound_by == "compute"


def test_no_figures_no_estimate():
    step = tiny_step()
    assert times(step.machine, step.placement.mesh, Work(1, 1, 1), []) is None
