"""Attention over meshes of simulated devices equals the call on one device, gradients included."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import mvjax_kernels
import numpy as np
import pytest
from jax.sharding import AxisType
from packed_trees import TreeShape, packed_batch
from virtual_devices import xla_flags

COMMON = """
import jax, jax.numpy as jnp, numpy as np
from functools import partial
from jax.sharding import AxisType
from mvjax_kernels import Split, attention, sharded_attention
from packed_trees import packed_batch

N, K, H, E = 4, 2, 64, 4

def arrays(B, T):
    hide = tuple(map(jnp.asarray, packed_batch(5, B, T, E)[:2]))
    rng = np.random.default_rng(0)
    moving = [jnp.asarray(rng.normal(size=(B, T, n, H)), jnp.float32) for n in (N, K, K, N)]
    return hide, [*moving, jnp.asarray(rng.normal(size=(B, T, N)), jnp.float32)]

def run(call, hide, q, k, v, do, dlse):
    (o, lse), pull = jax.vjp(lambda *x: call(*x, *hide, return_lse=True), q, k, v)
    return o, lse, *pull((do, dlse))

def compare(shape, names, split, T, hide, moving, wanted, **options):
    mesh = jax.make_mesh(shape, tuple(names), axis_types=(AxisType.Auto,) * len(shape))
    split = Split(mesh, **split)
    order = split.order(T)
    moved = [x[:, order] for x in moving]
    got = jax.jit(partial(run, partial(sharded_attention, split=split, **options), hide))(*moved)
    for name, one, other in zip(("o", "lse", "dq", "dk", "dv"), got, wanted):
        error = np.abs(np.asarray(one)[:, np.argsort(order)] - other).max() / np.abs(other).max()
        assert error < 2e-6, (shape, options, name, error)
"""

MESHES = """
hide, moving = arrays(2, 64)
wanted = jax.jit(partial(run, attention, hide))(*moving)
for shape, names, split in CASES:
    compare(shape, names, split, 64, hide, moving, wanted)
print("all equal")
"""
FAST = (
    ((1, 1, 8), "dtc", {"context": "c"}),
    ((2, 2, 2), "dtc", {"batch": ("d",), "heads": "t", "context": "c", "rounds": 2}),
)
REST = (
    ((2, 4), "dc", {"batch": ("d",), "context": "c", "rounds": 2}),
    ((2, 2, 2), "dtc", {"batch": ("d",), "heads": "t", "context": "c"}),
    ((4, 2), "ct", {"heads": "t", "context": "c"}),
)

PALLAS = """
hide, moving = arrays(1, 512)
wanted = jax.jit(partial(run, attention, hide))(*moving)
compare((4, 2), "dc", {"context": "c", "rounds": 2}, 512, hide, moving, wanted, backend="tpu_interpret")
print("all equal")
"""


@pytest.mark.parametrize(
    "script",
    [
        f"CASES = {FAST!r}\n{MESHES}",
        pytest.param(f"CASES = {REST!r}\n{MESHES}", marks=pytest.mark.slow),
        pytest.param(PALLAS, marks=pytest.mark.slow),
    ],
    ids=["xla", "xla_rest", "tpu"],
)
def test_every_mesh_gives_what_one_device_gives(script):
    """ "tpu": the Pallas kernels inside a mesh, step by step; a chunk must hold a whole tile."""
    tests = Path(__file__).parents[1]
    flags = xla_flags(8)
    paths = [str(tests / "support"), str(Path(mvjax_kernels.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, "-c", COMMON + script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "all equal", done.stderr[-3000:]


@pytest.mark.parametrize(("length", "chips", "rounds"), [(64, 1, 1), (64, 8, 1), (96, 4, 3)])
def test_zigzag_gives_every_chip_the_same_number_of_causal_pairs(length, chips, rounds):
    order = mvjax_kernels.zigzag(length, chips, rounds)
    np.testing.assert_array_equal(np.sort(order), np.arange(length))
    pairs = (order.reshape(chips, -1) + 1).sum(1)
    assert (pairs == pairs[0]).all()


@functools.partial(jax.jit, static_argnums=(2, 3))
def count(start_BES, end_BES, rows, tile, first_1C):
    """Tiles that one chip visits."""
    visible = mvjax_kernels.visible_tiles
    return visible(start_BES, end_BES, rows, block_q=tile, block_k=tile, q_offset_BC=first_1C)[0].sum()


def tiles_of_chips(hide, length, chips, rounds, tile=32):
    """Tiles that each chip visits."""
    first_XC = mvjax_kernels.zigzag(length, chips, rounds).reshape(chips, 2 * rounds, -1)[..., 0]
    return [int(count(*hide, length // chips, tile, first_1C)) for first_1C in first_XC[:, None]]


def test_rounds_spread_the_work_of_packed_trees():
    """Balance is exact for causal documents; trees have their work in patches."""
    length, chips = 4096, 4
    spread = {1: [], 4: [], 16: []}
    for seed in range(4):
        hide = packed_batch(seed, 1, length, 4, TreeShape(text=200, paths=4))[:2]
        for rounds, found in spread.items():
            visits = tiles_of_chips(hide, length, chips, rounds)
            found.append(max(visits) / (sum(visits) / chips))
    assert np.mean(spread[4]) < np.mean(spread[1])
    assert max(spread[16]) < 1.1


def test_sizes_that_do_not_divide_are_named():
    mesh = jax.make_mesh((1, 1), ("data", "context"), axis_types=(AxisType.Auto,) * 2)
    hide = jax.numpy.zeros((1, 2, 9), "int32")
    arrays = [jax.numpy.zeros((1, 9, n, 64)) for n in (4, 2, 2)]
    with pytest.raises(ValueError, match="9 tokens does not split into 2 chunks for each of 1 chips"):
        mvjax_kernels.sharded_attention(*arrays, hide, hide, mvjax_kernels.Split(mesh, context="context"))
    with pytest.raises(ValueError, match=r"the mesh has axes .*, not 'tensor'"):
        mvjax_kernels.sharded_attention(*arrays, hide, hide, mvjax_kernels.Split(mesh, heads="tensor"))
