"""Finding buffers of the size of a stream or of weights that a compiled loop makes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mvjax.planning.hlo import parse
from mvjax.planning.loop_copies import dimensions, loop_buffers, loop_copies, weight_copies

SHAPE = (1, 3, 64, 16)


def program(body, *more):
    """A jitted loop over a donated stream, compiled."""

    def run(stream_RKSH, steps, *more):
        return lax.while_loop(lambda c: c[1] < steps, lambda c: (body(*c, *more), c[1] + 1), (stream_RKSH, 0))

    arguments = (jnp.zeros(SHAPE), jnp.int32(5), *more)
    return jax.jit(run, donate_argnums=0).lower(*arguments).compile().as_text()


def test_an_update_in_place_is_no_copy():
    text = program(lambda s, i: lax.dynamic_update_slice(s, jnp.ones((1, 3, 2, 16)), (0, 0, i, 0)))
    assert sum(i.opcode == "while" for body in parse(text).values() for i in body) == 1
    assert loop_copies(text, SHAPE) == []


@pytest.mark.parametrize(
    "body",
    [
        lambda s, i: s * 1.5,
        lambda s, i: s.reshape(1, 3, 16, 64).swapaxes(2, 3) + 1,
        # The old stream is read after the new one is there: XLA must keep both.
        lambda s, i: lax.dynamic_update_slice(s, jnp.ones((1, 3, 1, 16)), (0, 0, i, 0)) + s.sum(2, keepdims=True) * 0.1,
    ],
)
def test_what_makes_a_new_stream_is_found(body):
    found = loop_copies(program(body), SHAPE)
    assert found
    assert all("[" in str(copy) for copy in found)


def test_other_sizes_do_not_count():
    text = program(lambda s, i: lax.dynamic_update_slice(s, jnp.full((1, 3, 1, 16), i * 1.0), (0, 0, i, 0)))
    assert loop_copies(text, (1, 3, 65, 16)) == []
    assert dimensions((1, 64, 3, 16)) == dimensions((3, 16, 64)) == (3, 16, 64)


def loop(fused, body):
    """A loop of unknown rounds, as text, over pages and a weight, with a fused computation and an inner loop of three
    rounds that makes a matrix."""
    return f"""HloModule m

%fused (param_0: bf16[9,64], param_1: bf16[2,64], param_2: s32[2,1]) -> bf16[9,64] {{
  %param_0 = bf16[9,64]{{1,0}} parameter(0)
  %param_1 = bf16[2,64]{{1,0}} parameter(1)
  %param_2 = s32[2,1]{{1,0}} parameter(2)
{fused}
}}

%inner_body (state: (s32[], bf16[9,64])) -> (s32[], bf16[9,64]) {{
  %state = (s32[], bf16[9,64]{{1,0}}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %w = bf16[9,64]{{1,0}} get-tuple-element(%state), index=1
  %sliced = bf16[1,9,64]{{2,1,0}} fusion(%w), kind=kLoop, calls=%other
  ROOT %next = (s32[], bf16[9,64]{{1,0}}) tuple(%i, %w)
}}

%test (state: (s32[], bf16[9,64])) -> pred[] {{
  %state = (s32[], bf16[9,64]{{1,0}}) parameter(0)
  ROOT %no = pred[] constant(false)
}}

%other (param_0: bf16[9,64]) -> bf16[1,9,64] {{
  %param_0 = bf16[9,64]{{1,0}} parameter(0)
  %inside = f32[9,64]{{1,0}} convert(%param_0)
  %narrow = bf16[9,64]{{1,0}} convert(%inside)
  ROOT %out = bf16[1,9,64]{{2,1,0}} bitcast(%narrow)
}}

%body (state: (s32[], bf16[9,64])) -> (s32[], bf16[9,64]) {{
  %state = (s32[], bf16[9,64]{{1,0}}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %w = bf16[9,64]{{1,0}} get-tuple-element(%state), index=1
{body}
  ROOT %next = (s32[], bf16[9,64]{{1,0}}) tuple(%i, %w)
}}

ENTRY %main (start: (s32[], bf16[9,64])) -> (s32[], bf16[9,64]) {{
  %start = (s32[], bf16[9,64]{{1,0}}) parameter(0)
  %outside = bf16[9,64]{{1,0}} copy(%start)
  ROOT %while = (s32[], bf16[9,64]{{1,0}}) while(%start), condition=%test, body=%body
}}
"""


SCATTER = "  ROOT %out = bf16[9,64]{1,0} scatter(%param_0, %param_2, %param_1), to_apply=%add"
UPDATE = "  %w2 = bf16[9,64]{1,0} fusion(%w, %u, %i2), kind=kInput, calls=%fused"
CALL = "  %w2 = (f32[2]{0}, bf16[9,64]{1,0}) custom-call(%i, %w), custom_call_target="
INNER = """  %inner = (s32[], bf16[9,64]{1,0}) while(%state), condition=%test, body=%inner_body, backend_config={\
"known_trip_count":{"n":"3"}}"""


@pytest.mark.parametrize(
    ("fused", "body"),
    [
        (SCATTER, UPDATE),  # Pages are written in place.
        (SCATTER, "  %w2 = bf16[9,64]{1,0} scatter(%w, %i2, %u), to_apply=%add"),
        (
            "  %s = bf16[9,64]{1,0} scatter(%param_0, %param_2, %param_1)\n  ROOT %out = bf16[9,64]{1,0} bitcast(%s)",
            UPDATE,
        ),
        # One of the two parts of a result is updated, the other one is small.
        (
            "  %new = bf16[2,64]{1,0} negate(%param_1)\n"
            + SCATTER.replace("ROOT %out", "%s")
            + "\n  ROOT %out = (bf16[2,64]{1,0}, bf16[9,64]{1,0}) tuple(%new, %s)",
            "  %w2 = (bf16[2,64]{1,0}, bf16[9,64]{1,0}) fusion(%w, %u, %i2), kind=kInput, calls=%fused",
        ),
        (SCATTER, CALL + '"write", output_to_operand_aliasing={{1}: (1, {})}'),
        # A piece on its way into the chip's own memory.
        (
            SCATTER,
            "  %p = (bf16[9,64]{1,0:S(1)}, bf16[9,64]{1,0}, u32[]) copy-start(%w)\n"
            "  %q = bf16[9,64]{1,0:S(1)} copy-done(%p)",
        ),
    ],
)
def test_what_stays_in_its_place_is_no_copy(fused, body):
    assert loop_buffers(loop(fused, body), 2 * 9 * 64) == []
    assert loop_copies(loop(fused, body), (64, 9)) == []


@pytest.mark.parametrize(
    ("fused", "body", "nbytes"),
    [
        (SCATTER, "  %w2 = bf16[9,64]{1,0} copy(%w)", 1152),
        (SCATTER, "  %w2 = f32[64,9]{1,0} transpose(%w), dimensions={1,0}", 2304),
        (SCATTER, CALL + '"gemm"', 1152),
        (SCATTER, CALL + '"write", output_to_operand_aliasing={{0}: (1, {})}', 1152),
        (SCATTER, INNER, 3 * 1152),
        # A scatter into something new, and one of two parts that is new.
        ("  %zero = bf16[9,64]{1,0} broadcast(%c)\n" + SCATTER.replace("(%param_0", "(%zero"), UPDATE, 1152),
        ("  %s = bf16[9,64]{1,0} add(%param_0, %param_0)\n  ROOT %out = bf16[9,64]{1,0} bitcast(%s)", UPDATE, 1152),
        (
            "  %new = bf16[9,64]{1,0} negate(%param_0)\n"
            + SCATTER.replace("ROOT %out", "%s")
            + "\n  ROOT %out = (bf16[9,64]{1,0}, bf16[9,64]{1,0}) tuple(%s, %new)",
            "  %w2 = (bf16[9,64]{1,0}, bf16[9,64]{1,0}) fusion(%w, %u, %i2), kind=kInput, calls=%fused",
            1152,
        ),
    ],
)
def test_a_copy_of_a_weight_is_found_with_its_bytes(fused, body, nbytes):
    text = loop(fused, body)
    for found in (loop_buffers(text, 2 * 9 * 64), loop_copies(text, (5, 5), (9, 64))):
        assert [copy.nbytes for copy in found] == [nbytes]
    assert loop_buffers(text, 2304 + 1) == loop_copies(text, (9, 65)) == []


def test_parts_of_a_result_may_have_parts():
    whole, pair = "bf16[9,64]{1,0}", "(f32[2]{0}, f32[3]{0})"
    parts = f"(s32[2,1]{{1,0}}, {pair}, {whole}, {whole})"
    before = f"""  %pair = {pair} reduce(%param_2, %param_2, %c, %c), dimensions={{1}}, to_apply=%most
  %new = {whole} negate(%param_0)
{SCATTER.replace("ROOT %out", "%s")}
"""
    for order, left in (("%s, %s", 0), ("%s, %new", 1), ("%new, %s", 1), ("%new, %new", 2)):
        fused = f"{before}  ROOT %out = {parts} tuple(%param_2, %pair, {order})"
        assert len(loop_buffers(loop(fused, UPDATE.replace(whole, parts)), 1152)) == left


def test_matrices_are_those_of_layers_one_by_one_or_stacked():
    text = loop(SCATTER, INNER)
    norm, matrix = np.zeros(9), np.zeros((64, 9))
    assert [copy.nbytes for copy in weight_copies(text, [{"a.weight": matrix, "norm.weight": norm}])] == [3 * 1152]
    stacked = {"a.weight": np.zeros((2, 64, 9)), "norm.weight": np.zeros((2, 9))}
    assert [copy.instruction.name for copy in weight_copies(text, stacked)] == ["sliced"]
    assert weight_copies(text, [{"a.weight": np.zeros((64, 8)), "norm.weight": norm}]) == []
    # Stacked norms are no matrices, and a copy of all layers counts.
    assert weight_copies(text, {"a.weight": np.zeros((2, 64, 8)), "norm.weight": np.zeros((64, 9))}) == []
    whole = text.replace("bf16[1,9,64]{2,1,0} fusion", "bf16[2,9,64]{2,1,0} fusion")
    assert [copy.nbytes for copy in weight_copies(whole, stacked)] == [3 * 2304]
