"""Operations and bytes of compiled programs."""

import pytest

from mvjax.planning.hlo import Program
from mvjax.planning.work import work

pytestmark = pytest.mark.xdist_group("planning")


def test_products_in_a_loop(texts):
    done = work(Program(texts["four products"]))
    assert done.products == done.flops == 4 * 2 * (4 * 2) * 16 * 16
    assert work(Program(texts["nothing"])).products == 0


def test_bytes_of_one_pass_over_an_array(texts):
    assert work(Program(texts["nothing"])).traffic == 2 * 512


def entry(*lines: str) -> Program:
    """A program of these instructions."""
    return Program("ENTRY %main () -> f32[] {\n" + "\n".join(f"  {line}" for line in lines) + "\n}\n")


@pytest.mark.parametrize(
    ("x", "kernel", "line", "flops"),
    [
        # A plain product, [64, 32] x [32, 16].
        ("bf16[64,32]", "bf16[16,32]", "bf16[64,16]{0,1} convolution(%x, %y), dim_labels=bf_oi->bf", 64 * 32 * 16),
        # A batch of 5 products of [8, 4] x [4, 6]: the batch is a spatial dimension, of which each place meets one tap.
        (
            "f32[8,4,5]",
            "f32[5,4,6]",
            "f32[8,6,5]{2,1,0} convolution(%x, %y), window={size=5 stride=4 pad=4_4 lhs_dilate=5 rhs_reversal=1}, "
            "dim_labels=bf0_0io->bf0",
            5 * 8 * 4 * 6,
        ),
        # A contraction over two dimensions, [8, 4, 3] x [4, 3, 6]: one is a window over all of its places.
        (
            "f32[8,4,3]",
            "f32[3,4,6]",
            "f32[8,6,1]{2,1,0} convolution(%x, %y), window={size=3}, dim_labels=bf0_0io->bf0",
            8 * 4 * 3 * 6,
        ),
    ],
)
def test_products_that_the_tpu_compiler_writes_as_convolutions(x, kernel, line, flops):
    program = entry(f"%x = {x} parameter(0)", f"%y = {kernel} parameter(1)", f"ROOT %z = {line}")
    assert work(program).products == 2 * flops


def test_products_of_cublas():
    config = 'backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}'
    program = entry(
        "%x = bf16[64,32]{1,0} parameter(0)",
        "%y = bf16[32,16]{1,0} parameter(1)",
        f'%z = (bf16[64,16]{{1,0}}, s8[100]{{0}}) custom-call(%x, %y), custom_call_target="__cublas$gemm", {config}',
    )
    assert work(program).products == 2 * 64 * 32 * 16


B, T, N, K, H = 2, 256, 4, 2, 64


@pytest.mark.parametrize(
    ("results", "products"),
    [
        (f"(bf16[{B},{T},{N},{H}]{{3,2,1,0}}, f32[{B},{T},{N}]{{2,1,0}})", 2),
        (f"bf16[{B},{T},{N},{H}]{{3,2,1,0}}", 3),
        (f"(bf16[{B},{T},{K},{H}]{{3,2,1,0}}, bf16[{B},{T},{K},{H}]{{3,2,1,0}})", 4),
    ],
    ids=["forward", "dq", "dk dv"],
)
def test_triton_kernels(results, products):
    program = entry(
        f"%q = bf16[{B},{T},{N},{H}]{{3,2,1,0}} parameter(0)",
        f"%k = bf16[{B},{T},{K},{H}]{{3,2,1,0}} parameter(1)",
        f'%o = {results} custom-call(%q, %k, %k), custom_call_target="triton_kernel_call"',
    )
    done = work(program)
    assert done.attention == done.flops == products * 2 * B * N * H * T * T / 2


def test_tpu_kernels_state_their_operations():
    cost = 'backend_config={"custom_call_config":{"cost_estimate":{"flops":12345,"bytes_accessed":"7"}}}'
    program = entry(
        "%q = bf16[8,128]{1,0} parameter(0)",
        f'%o = bf16[8,128]{{1,0}} custom-call(%q), custom_call_target="tpu_custom_call", {cost}',
    )
    assert work(program).attention == 12345


def test_an_update_in_place_moves_the_update_and_a_slice_the_slice():
    program = entry(
        "%x = f32[1000,16]{1,0} parameter(0)",
        "%new = f32[2,16]{1,0} parameter(1)",
        "%at = s32[] constant(3)",
        "%y = f32[1000,16]{1,0} dynamic-update-slice(%x, %new, %at, %at)",
        "ROOT %z = f32[5,16]{1,0} dynamic-slice(%y, %at, %at), dynamic_slice_sizes={5,16}",
    )
    assert work(program).traffic == 2 * 2 * 16 * 4 + 2 * 5 * 16 * 4


def test_what_stays_on_the_chip_moves_nothing():
    program = entry("%x = f32[8,16]{1,0:T(8,128)S(1)} parameter(0)", "ROOT %y = f32[8,16]{1,0} negate(%x)")
    assert work(program).traffic == 8 * 16 * 4


FUSION = """
%inside (a: f32[1000,16], b: f32[2,16], i: s32[]) -> f32[1000,16] {
  %a = f32[1000,16]{1,0} parameter(0)
  %b = f32[2,16]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %c = f32[2,16]{1,0} negate(%b)
  ROOT %u = f32[1000,16]{1,0} dynamic-update-slice(%a, %c, %i, %i)
}

ENTRY %main (x: f32[1000,16], y: f32[2,16], i: s32[]) -> f32[1000,16] {
  %x = f32[1000,16]{1,0} parameter(0)
  %y = f32[2,16]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %z = f32[1000,16]{1,0} fusion(%x, %y, %i), kind=kLoop, calls=%inside
}
"""


def test_an_update_in_place_inside_of_a_fusion():
    assert work(Program(FUSION)).traffic == 2 * 2 * 16 * 4 + 4
