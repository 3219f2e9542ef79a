"""Finding sorts in a compiled program."""

import jax
import jax.numpy as jnp
import pytest

from mvjax.planning.sorts import sort_widths

PROGRAM = """HloModule m

%fused (param_0: f32[4,300]) -> (f32[4,300], s32[4,300]) {
  %param_0 = f32[4,300]{1,0} parameter(0)
  %iota = s32[4,300]{1,0} iota(), iota_dimension=1
  ROOT %sort.1 = (f32[4,300]{1,0}, s32[4,300]{1,0}) sort(%param_0, %iota), dimensions={1}, to_apply=%greater
}

ENTRY %main (x: f32[4,300], y: f32[70,2]) -> f32[4,300] {
  %x = f32[4,300]{1,0} parameter(0)
  %y = f32[70,2]{1,0} parameter(1)
  %fusion = (f32[4,300]{1,0}, s32[4,300]{1,0}) fusion(%x), kind=kLoop, calls=%fused
  %sort.2 = f32[70,2]{1,0} sort(%y), dimensions={0}, to_apply=%greater
  %gather = f32[900]{0} gather(%x), indices_are_sorted=true
  %keys = (f32[4,300]{1,0}, u8[9999]{0}) custom-call(%x), custom_call_target="__cub$DeviceRadixSort"
  %gemm = f32[4,9000]{1,0} custom-call(%x), custom_call_target="__cublas$gemm"
  ROOT %result = f32[4,300]{1,0} get-tuple-element(%fusion), index=0
}
"""


def test_the_width_is_that_of_the_sorted_dimension():
    assert sort_widths(PROGRAM) == [300, 300, 70]


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="what the CPU compiler makes")
def test_in_a_real_program():
    program = jax.jit(lambda x: jnp.sort(x, axis=0)[0] + x[0]).lower(jnp.zeros((30, 7))).compile().as_text()
    assert sort_widths(program) == [30]
    assert sort_widths(jax.jit(jnp.sin).lower(1.0).compile().as_text()) == []
