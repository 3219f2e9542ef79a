"""A step on any mesh is the step of one device: losses, gradients and weights, all ways to split."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from jax.sharding import AbstractMesh
from virtual_devices import xla_flags

from mvjax.errors import UserError
from mvjax.models.config import ModelConfig
from mvjax.models.placement import MESH_AXES, Placement
from mvjax.training.config import MeshConfig
from mvjax.training.mesh import mesh_notes, mesh_shape

SCRIPT = """
import sys
import jax, jax.numpy as jnp, numpy as np

BOUND = 1e-5
if jax.config.jax_enable_x64:
    BOUND, jnp.float32 = 1e-12, jnp.float64  # What the model computes in float32 is then computed in float64.
from tiny_training import RandomBatches, make_model
from mvjax.training.batch import shard_batch
from mvjax.training.config import LossConfig, MeshConfig, OptimizerConfig
from mvjax.training.mesh import make_placement
from mvjax.training.state import init_state
from mvjax.training.optimizer import make_optimizer
from mvjax.training.step import make_update

SHAPE = {"embed": 32, "heads": 8}

def train(devices, accumulation=1, rank=0, remat="none", scan=True, family="qwen2", kv_heads=4, vocab_size=52,
          tied=False, **mesh):
    # With the usual epsilon Adam makes steps of full size out of gradients that are rounding alone.
    config = OptimizerConfig(epsilon=1e-3)
    placement = make_placement(MeshConfig(**mesh), jax.devices()[:devices])
    model = make_model(rank, scan, placement, remat, family=family, kv_heads=kv_heads, vocab_size=vocab_size,
                       tied=tied, **SHAPE)
    model.check(placement)
    optimizer = make_optimizer(config, lambda step: 1e-2, model)
    step = make_update(model, optimizer, placement, LossConfig(7, 1e-3))
    state = init_state(model, optimizer, placement)
    frozen = jax.device_put(model.frozen, model.frozen_sharding(placement))
    batches, losses = RandomBatches(rows=8), []
    for _ in range(4):
        state, metrics = step(state, frozen, shard_batch(next(batches), accumulation, placement))
        losses += [metrics[name].item() for name in ("loss", "loss_path", "gradient_norm", "accuracy")]
    split = max(x.sharding.num_devices // len(set(map(str, x.sharding.devices_indices_map(x.shape).values())))
                for x in jax.tree.leaves(state.opt_state) if x.ndim > 1)
    return np.array(losses), jax.device_get(state.params), split

def compare(**options):
    mesh = {name: options[name] for name in options if name in ("data", "fsdp", "context", "context_rounds", "tensor")}
    rest = {name: value for name, value in options.items() if name not in mesh}
    got, params, _ = train(8, **rest, **mesh)
    wanted, before, _ = train(1, **(rest | {"accumulation": 1}))
    np.testing.assert_allclose(got, wanted, rtol=BOUND, err_msg=str(options))
    for name, x in before.items():
        assert x.dtype == jnp.float32
        assert np.abs(params[name] - x).max() <= BOUND * np.abs(x).max(), (options, name)

for options in eval(sys.argv[1]):
    compare(**options)
print("equal")
"""

# The norms of olmo2 are over features that lie on several chips; the vocabulary does not split over them.
UNEVEN = {"family": "olmo2", "fsdp": 2, "context": 2, "tensor": 2, "accumulation": 2, "remat": "attention"}
FAST = (UNEVEN | {"vocab_size": 51},)
REST = (
    {"fsdp": 2, "context": 2, "tensor": 2, "accumulation": 2, "rank": 4, "remat": "attention"},
    {"family": "olmo2", "fsdp": 4, "tensor": 2},
    UNEVEN,
    {"data": 2, "fsdp": 2, "tensor": 2, "accumulation": 2},
    {"data": 8},
    {"fsdp": 8, "remat": "full"},
    {"tensor": 4, "data": 2, "scan": False},
    {"context": 4, "fsdp": 2},
    {"tensor": 4, "context": 2, "kv_heads": 2},  # Heads that do not split.
    {"tensor": 4, "fsdp": 2, "tied": True, "vocab_size": 53, "accumulation": 2},
    {"tensor": 4, "context": 2, "rank": 4, "vocab_size": 51},
    {"context": 2, "context_rounds": 3, "fsdp": 4, "rank": 4, "remat": "products"},
)
# OLMo-2 normalises after each sublayer, which makes the gradients of adapters in the feed-forward a hundred times as
# large as Qwen2's. Gradients of both agree within 7e-7 of the largest, but what Adam's epsilon damps in Qwen2, small
# elements that are rounding alone, moves OLMo-2's adapters: within 7.6e-6 to 1.1e-5 after four steps. In float64 they
# agree within 1.3e-14.
FLOAT64 = (
    {"family": "olmo2", "fsdp": 4, "tensor": 2, "rank": 4},
    {"family": "olmo2", "fsdp": 2, "context": 2, "tensor": 2, "accumulation": 2, "rank": 4, "remat": "attention"},
    {"family": "olmo2", "fsdp": 4, "tensor": 2},
    {"context": 2, "context_rounds": 3, "fsdp": 4, "rank": 4, "remat": "products"},
)


@pytest.mark.parametrize(
    ("meshes", "wide"),
    [
        (FAST, False),
        pytest.param(REST, False, marks=pytest.mark.slow),
        pytest.param(FLOAT64, True, marks=pytest.mark.slow),
    ],
    ids=["fast", "rest", "float64"],
)
def test_every_mesh_trains_like_one_device(meshes, wide):
    root = Path(__file__).parents[2]
    flags = xla_flags(8)
    paths = [str(root), str(root / "kernels"), str(root / "tests" / "support"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(paths)}
    environment["JAX_ENABLE_X64"] = str(int(wide))
    command = [sys.executable, "-c", SCRIPT, repr(meshes)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "equal", done.stderr[-3000:]


def test_what_the_data_axis_takes():
    config = MeshConfig(fsdp=4, tensor=2)
    assert mesh_shape(config, 32) == (4, 4, 1, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fsdp": 3}, r"data 2 x fsdp 3 x context 1 x tensor 1 = 6 chips, but there are 8"),
        ({"data": 4, "fsdp": 4}, "= 16 chips, but there are 8"),
        ({"fsdp": 8, "slices": 2}, "a data axis of 1 does not split over mesh.slices = 2"),
    ],
)
def test_meshes_that_do_not_fit_the_devices_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        mesh_shape(MeshConfig(**options), 8)


def test_heads_that_do_not_split_are_told_of():
    placement = Placement(AbstractMesh((1, 1, 1, 4), MESH_AXES))
    sizes = {"vocab_size": 8, "embed": 8, "layers": 1, "head_dim": 8, "ffn": 8}
    assert mesh_notes(placement, ModelConfig("llama", heads=8, kv_heads=4, **sizes)) == ()
    (note,) = mesh_notes(placement, ModelConfig("llama", heads=9, kv_heads=3, **sizes))
    assert "9 heads, 3 of keys and values, do not split over tensor 4" in note
