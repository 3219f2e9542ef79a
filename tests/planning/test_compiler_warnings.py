"""What XLA logs while it compiles is part of a plan."""

import os
import sys

import pytest
from tiny_plans import made_up, tiny_step

from mvjax.planning.compiler_warnings import CompilerWarning, compiler_warnings, heard
from mvjax.planning.report import to_json, to_text

LOG = (
    "W1130 08:48:17.456303   30612 spmd_partitioner.cc:656] [SPMD] Involuntary full rematerialization. The compiler "
    "cannot go from sharding {devices=[8,1]<=[8]} to {devices=[1,4,2]<=[2,4]T(1,0) last_tile_dim_replicate} "
    "efficiently for HLO operation %constraint.0 = f32[2,16]{1,0} copy(%sin.0), sharding={devices=[8,1]<=[8]}, "
    'metadata={op_name="jit(f)/sharding_constraint" stack_frame_id=3}. As the last resort, SPMD will replicate it.'
)
OLDER = (
    "2025-04-14 17:55:24.092274: E external/xla/xla/service/spmd/spmd_partitioner.cc:621] [spmd] Involuntary full "
    "rematerialization. The compiler was not able to go from sharding {devices=[2,1]<=[2]} to {replicated} without "
    "doing a full rematerialization of the tensor for HLO operation: %pad = f64[96]{0} pad(%a, %b), padding=8_7."
)


@pytest.mark.xdist_group("planning")
def test_what_a_step_makes_whole_is_named(sharded_plan):
    ((text, count),) = sharded_plan["warned"]
    assert text.startswith("involuntary full rematerialization at ")
    # As XLA writes shardings itself, or (jax 0.12) as Shardy does.
    shardings = (
        "{devices=[8,1]<=[8]} to {devices=[1,4,2]<=[2,4]T(1,0) ",
        "{mesh['a'=2,'b'=4], [{'a', 'b'}, {}]} to {mesh[",
    )
    assert text.partition("has f32[2,16], to get from sharding ")[2].startswith(shardings)
    assert count == 1
    assert "rematerialization" not in sharded_plan["stderr"]


def test_only_the_log_is_taken_and_everything_else_goes_on(capfd):
    with heard() as messages:
        print("Python's words", file=sys.stderr)
        sys.stderr.flush()
        for line in (LOG, "an interpreter's own words", LOG, OLDER, "W1130 08:48:17.4 7 other.cc:1] slow"):
            os.write(2, f"{line}\n".encode())
    assert capfd.readouterr().err == "Python's words\nan interpreter's own words\n"
    first, second, third = compiler_warnings(messages)
    whole = "every chip makes the whole of an array of which it has"
    assert first == CompilerWarning(
        f"involuntary full rematerialization at jit(f)/sharding_constraint: {whole} f32[2,16], to get from sharding "
        "{devices=[8,1]<=[8]} to {devices=[1,4,2]<=[2,4]T(1,0) last_tile_dim_replicate}",
        2,
    )
    assert second.text.startswith(f"involuntary full rematerialization: {whole} f64[96], to get from sharding {{dev")
    assert third == CompilerWarning("slow", 1)


def test_an_error_inside_is_the_callers_and_the_log_is_there():
    messages = []
    try:
        with heard() as messages:
            os.write(2, f"{LOG}\n".encode())
            raise RuntimeError
    except RuntimeError:
        assert len(messages) == 1


def test_a_plan_shows_them():
    plan = made_up(tiny_step(), 10**6)
    assert "warns" not in to_text(plan)
    warned = made_up(tiny_step(), 10**6, (CompilerWarning("slow", 1), CompilerWarning("large", 3)))
    assert "The compiler warns\n  slow\n  3 times: large" in to_text(warned)
    assert to_json(warned)["warnings"] == [{"text": "slow", "count": 1}, {"text": "large", "count": 3}]
