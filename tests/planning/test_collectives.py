"""Collectives of compiled programs: kind, axes of the mesh, number and bytes."""

import pytest

from mvjax.planning.collectives import Collective, by_axes, collectives, groups
from mvjax.planning.hlo import Program

MESH = {"data": 2, "fsdp": 2, "tensor": 2}
NBYTES = 512
"""Of each device's part of the array."""

pytestmark = pytest.mark.xdist_group("planning")


@pytest.mark.parametrize(
    ("name", "kind", "axes", "count", "sent"),
    [
        # In a ring of n an all-reduce sends the array twice but for an n-th, the others once but for an n-th.
        ("sum over tensor", "all-reduce", ("tensor",), 1, 2 * 1 / 2),
        ("sum over data and tensor", "all-reduce", ("data", "tensor"), 1, 2 * 3 / 4),
        ("gather over fsdp", "all-gather", ("fsdp",), 1, 1),
        ("scatter over tensor", "reduce-scatter", ("tensor",), 1, 1 / 2),
        ("swap over tensor", "all-to-all", ("tensor",), 1, 1 / 2),
        ("shift over data", "collective-permute", ("data",), 1, 1),
        ("five sums", "all-reduce", ("tensor",), 5, 5),
        ("three times five sums", "all-reduce", ("tensor",), 15, 15),
    ],
)
def test_kind_axes_number_and_bytes(texts, name, kind, axes, count, sent):
    assert collectives(Program(texts[name]), MESH) == [Collective(kind, axes, count, sent * NBYTES)]


def test_none(texts):
    assert collectives(Program(texts["nothing"]), MESH) == []


def test_loops_whose_rounds_the_device_decides(texts):
    program = Program(texts["sums until"])
    (loop,) = program.loops()
    assert program.rounds(loop) is None
    assert [found.count for found in collectives(program, MESH)] == [1]
    assert [found.count for found in collectives(program, MESH, {loop.instruction.name: 7})] == [7]


def test_bytes_by_axes():
    found = [Collective("all-gather", ("fsdp",), 1, 3), Collective("all-reduce", ("fsdp",), 2, 4)]
    found.append(Collective("all-reduce", ("data", "fsdp"), 2, 5))
    assert by_axes(found) == {("fsdp",): 7, ("data", "fsdp"): 5}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("replica_groups={{0,1},{2,3}}, to_apply=%add", [[0, 1], [2, 3]]),
        ("replica_groups={}, to_apply=%add", [[0, 1, 2, 3]]),
        ("to_apply=%add", [[0, 1, 2, 3]]),
        ("replica_groups=[2,2]<=[4], dimensions={0}", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0), dimensions={0}", [[0, 2], [1, 3]]),
        ("source_target_pairs={{0,1},{1,0},{2,2}}, channel_id=1", [[0, 1], [1, 0]]),
        ("source_target_pairs={}", []),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_1'}, metadata={}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_0'}, metadata={}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_0','axis_1'}", [[0, 1, 2, 3]]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=2], device_ids=([2,2]T(1,0)) {'axis_1'}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=2], device_ids=(3,2,1,0) {'axis_1'}", [[3, 2], [1, 0]]),
        # Parts of an axis: (before)size.
        ("replica_groups=mesh['a'=4] {'a':(1)2}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(2)2}", [[0, 1], [2, 3]]),
    ],
)
def test_groups_in_all_notations(text, wanted):
    assert groups(f"%x), {text}", 4).tolist() == wanted


FUSED = """
HloModule program

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%all-reduce-scatter.1 (x: f32[64]) -> f32[32] {
  %x = f32[64]{0} parameter(0)
  %all = f32[64]{0} all-reduce(%x), channel_id=1, replica_groups={{0,1}}, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %own = f32[32]{0} dynamic-slice(%all, %zero), dynamic_slice_sizes={32}
}

%first (y: f32[32]) -> f32[64] {
  %y = f32[32]{0} parameter(0)
  ROOT %gather.1 = f32[64]{0} all-gather(%y), channel_id=2, replica_groups={{0,1}}, dimensions={0}
}

%second (z: f32[32]) -> f32[64] {
  %z = f32[32]{0} parameter(0)
  ROOT %gather.2 = f32[64]{0} all-gather(%z), channel_id=2, replica_groups={{0,1}}, dimensions={0}
}

ENTRY %main (p: f32[64]) -> f32[64] {
  %p = f32[64]{0} parameter(0)
  %own.2 = f32[32]{0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1
  %piece = f32[64]{0} fusion(%own.2), kind=kCustom, calls=%first
  ROOT %rest = f32[64]{0} fusion(%own.2), kind=kCustom, calls=%second
}
"""


def test_what_the_tpu_compiler_fuses():
    """A sum of which a chip keeps its part is a reduce-scatter; pieces of one collective are counted once."""
    assert collectives(Program(FUSED), {"fsdp": 2}) == [
        Collective("reduce-scatter", ("fsdp",), 1, 128),
        Collective("all-gather", ("fsdp",), 1, 128),
    ]
