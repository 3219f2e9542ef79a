"""Small programs and a step of a tiny model on eight virtual devices, compiled once in processes of their own."""

import json

import pytest
from tiny_plans import python

PROGRAMS = """
import json
import jax, jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 3)
x = jax.ShapeDtypeStruct((8, 4, 16), jnp.float32)  # Each device has 128 numbers of it, 512 bytes.

def again(function, times):
    return lambda x: lax.scan(lambda x, _: (function(x), None), x, length=times)[0]

def until(function):
    return lambda x: lax.while_loop(lambda x: x.sum() < 100, function, x)

FUNCTIONS = {
    "sum over tensor": lambda x: lax.psum(x, "tensor"),
    "sum over data and tensor": lambda x: lax.psum(x, ("data", "tensor")),
    "gather over fsdp": lambda x: lax.all_gather(x, "fsdp"),
    "scatter over tensor": lambda x: lax.psum_scatter(x, "tensor", scatter_dimension=2, tiled=True),
    "swap over tensor": lambda x: lax.all_to_all(x, "tensor", 2, 2, tiled=True),
    "shift over data": lambda x: lax.ppermute(x, "data", [(0, 1), (1, 0)]),
    "five sums": again(lambda x: lax.psum(jnp.sin(x), "tensor"), 5),
    "three times five sums": again(again(lambda x: lax.psum(jnp.sin(x), "tensor"), 5), 3),
    "sums until": until(lambda x: lax.psum(jnp.sin(x), "tensor")),
    "nothing": jnp.sin,
    "four products": again(lambda x: x @ jnp.ones((16, 16)), 4),
}

texts = {}
for name, function in FUNCTIONS.items():
    split = P("data", "fsdp")
    function = jax.shard_map(function, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)
    texts[name] = jax.jit(function).lower(x).compile().as_text()
print(json.dumps(texts))
"""


@pytest.fixture(scope="session")
def texts() -> dict[str, str]:
    """Optimised programs by name."""
    done = python("-c", PROGRAMS)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


PLAN = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from mvjax.planning.generation import Load, describe_service, plan_generation
from mvjax.planning.generation_report import generation_json, generation_text
from mvjax.planning.machines import machine
from mvjax.planning.plan import make_plan
from mvjax.planning.program import compile_on
from mvjax.planning.report import to_json, to_text
from tiny_plans import TINY, tiny_config

config = tiny_config(mesh={"fsdp": 2, "tensor": 2}, data={"accumulation": 2}, model={"remat": "full"})
plan = make_plan(config, TINY, machine("cpu:8"))

# A sharding that the partitioner has no way to; what is said of it is XLA's own.
mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
rows, columns = NamedSharding(mesh, P(("a", "b"), None)), NamedSharding(mesh, P(None, "b"))
function = jax.jit(lambda x: jnp.cos(lax.with_sharding_constraint(jnp.sin(x), columns)), in_shardings=rows)
warned = compile_on(machine("cpu:8"), function, jax.ShapeDtypeStruct((16, 16), jnp.float32)).warnings

split = plan_generation(describe_service(TINY, machine("cpu:8"), 2), Load(2, 2, 200))
generation = {"json": generation_json(split, None, 0), "text": generation_text(split, None, 0)}
warned = [(one.text, one.count) for one in warned]
print(json.dumps({"json": to_json(plan), "text": to_text(plan), "warned": warned, "generation": generation}))
"""


@pytest.fixture(scope="session")
def sharded_plan() -> dict:
    """Of the tiny model's step on data 2 x fsdp 2 x tensor 2: as text and as JSON; warnings of another program; its
    generation loop with tensor parallel 2."""
    done = python("-c", PLAN)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout) | {"stderr": done.stderr}
