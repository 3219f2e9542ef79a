"""What a compiled step of the loop does beside its work: kernels, the loop itself, collectives that were asked for."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from mvjax.planning.collectives import Collective
from mvjax.planning.decode_step import outermost
from mvjax.planning.hlo import Program
from mvjax.planning.kernels import kernels
from mvjax.planning.traced_collectives import traced_collectives

LOOPS = """
HloModule program

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %one = f32[8]{0} add(%p, %p)
  ROOT %two = f32[8]{0} multiply(%one, %p)
}

%few (f: f32[8]) -> f32[8] {
  ROOT %f = f32[8]{0} parameter(0)
}

%many (m: f32[8]) -> f32[8] {
  %m = f32[8]{0} parameter(0)
  %sorted = f32[8]{0} sort(%m), dimensions={0}, to_apply=%less
  ROOT %again = f32[8]{0} fusion(%sorted), kind=kLoop, calls=%fused
}

%inner_body (i: (s32[], f32[8])) -> (s32[], f32[8]) {
  %i = (s32[], f32[8]{0}) parameter(0)
  %n = s32[] get-tuple-element(%i), index=0
  %x = f32[8]{0} get-tuple-element(%i), index=1
  %step = f32[8]{0} fusion(%x), kind=kLoop, calls=%fused
  ROOT %next = (s32[], f32[8]{0}) tuple(%n, %step)
}

%body (b: (s32[], f32[8])) -> (s32[], f32[8]) {
  %b = (s32[], f32[8]{0}) parameter(0)
  %count = s32[] get-tuple-element(%b), index=0
  %y = f32[8]{0} get-tuple-element(%b), index=1
  %started = f32[8]{0} all-reduce-start(%y), channel_id=1, replica_groups={{0,1}}, to_apply=%sum
  %summed = f32[8]{0} all-reduce-done(%started)
  %flat = f32[8]{0} bitcast(%summed)
  %called = f32[8]{0} call(%flat), to_apply=%many
  %either = f32[8]{0} conditional(%count, %called, %called), branch_computations={%few, %many}
  %given = (s32[], f32[8]{0}) tuple(%count, %either)
  %rounds = (s32[], f32[8]{0}) while(%given), condition=%less, body=%inner_body, backend_config=TRIPS
  %events = (pred[], f32[8]{0}) while(%rounds), condition=%flag, body=%inner_body
  %last = f32[8]{0} get-tuple-element(%events), index=1
  %kernel = f32[8]{0} custom-call(%last), custom_call_target="triton_kernel_call"
  ROOT %out = (s32[], f32[8]{0}) tuple(%count, %kernel)
}

%flag (e: (pred[], f32[8])) -> pred[] {
  %e = (pred[], f32[8]{0}) parameter(0)
  ROOT %set = pred[] get-tuple-element(%e), index=0
}

%less (l: (s32[], f32[8])) -> pred[] {
  %l = (s32[], f32[8]{0}) parameter(0)
  ROOT %goes = pred[] custom-call(%l), custom_call_target="unknown"
}

ENTRY %main (z: (s32[], f32[8])) -> (s32[], f32[8]) {
  %z = (s32[], f32[8]{0}) parameter(0)
  ROOT %loop = (s32[], f32[8]{0}) while(%z), condition=%less, body=%body
}
""".replace("TRIPS", '{"known_trip_count":{"n":"5"}}')


def test_kernels_of_a_round():
    """The collective, two of the call, none or two of the branches, five rounds of a body and a condition, none or one
    of a loop that asks a flag, the custom call; the loop's own condition."""
    program = Program(LOOPS)
    loop = outermost(program).instruction
    assert loop.name == "loop"
    assert kernels(program, *loop.called) == (1 + 2 + 0 + 5 * 2 + 0 + 1 + 1, 1 + 2 + 2 + 5 * 2 + 1 + 1 + 1)


def test_a_program_without_a_generation_loop():
    text = LOOPS.replace(" while(%z), condition=%less, body=%body", " custom-call(%z)")
    text = text.replace(" while(%rounds), condition=%flag, body=%inner_body", " custom-call(%rounds)")
    with pytest.raises(ValueError, match="0 generation loops"):
        outermost(Program(text))


def test_collectives_that_a_traced_function_asks_for():
    """In a scan once a round, in a loop whose rounds the device decides once; the bytes that a chip sends in a ring."""
    mesh = AbstractMesh((2, 4), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)

    def on_each(x):
        x, y = lax.scan(lambda x, _: (lax.psum((jnp.sin(x), x), "tensor")[0], None), x, length=3)[0], x
        x = lax.while_loop(lambda x: x.sum() < 100, lambda x: lax.psum(jnp.cos(x), ("data", "tensor")), x)
        return x + lax.ppermute(y, "data", [(0, 1), (1, 0)]), lax.all_gather(x, "tensor", tiled=True)

    split = P("data", "tensor")
    function = jax.jit(jax.shard_map(on_each, mesh=mesh, in_specs=split, out_specs=(split, P()), check_vma=False))
    traced = function.trace(jax.ShapeDtypeStruct((8, 64), jnp.float32)).jaxpr
    nbytes = 4 * 16 * 4  # Of each device's part.
    assert traced_collectives(traced, {"data": 2, "tensor": 4}) == [
        Collective("all-reduce", ("tensor",), 6, 6 * 2 * 3 / 4 * nbytes),
        Collective("all-gather", ("tensor",), 1, 3 * nbytes),
        Collective("all-reduce", ("data", "tensor"), 1, 2 * 7 / 8 * nbytes),
        Collective("collective-permute", ("data",), 1, nbytes),
    ]
    assert traced_collectives(traced, {"data": 1, "tensor": 1}) == []
