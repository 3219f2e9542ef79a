"""Collectives of a compiled program: what kind, along which axes of the mesh, how many bytes, how often."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from mvjax.planning.hlo import Instruction, Program

KINDS = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
FUSED_SCATTER = "all-reduce-scatter"
"""Beginning of the name that XLA:TPU gives a computation which sums and keeps only the chip's own part."""
IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
MESH = re.compile(r"mesh\[([^\]]*)\]\s*(?:,\s*device_ids=\(([^)]*(?:\([^)]*\))?[^)]*)\))?\s*\{([^}]*)\}")
NAMED_AXIS = re.compile(r"'(\w+)'(?::\((\d+)\)(\d+))?")


@dataclass(frozen=True)
class Collective:
    """All collectives of one kind along the same axes."""

    kind: str
    """A name of KINDS."""
    axes: tuple[str, ...]
    """Axes of the mesh along which the chips of a group differ."""
    count: float
    """How many a chip takes part in, in one run of the program."""
    nbytes: float
    """Bytes that a chip sends for them where the members of a group form a ring."""


def collectives(
    program: Program, mesh_shape: Mapping[str, int], unknown: Mapping[str, float] | None = None
) -> list[Collective]:
    """The collectives of a program, those that move most first.

    Args:
        mesh_shape: size of each mesh axis; a partition's number is its place in the mesh, the last axis fastest.
        unknown: as for `Program.times`.
    """
    counts: dict[tuple[str, tuple[str, ...]], list[float]] = defaultdict(lambda: [0.0, 0.0])
    times, seen = program.times(unknown), set()
    for name, body in program.computations.items():
        for instruction in body:
            kind = instruction.opcode.removesuffix("-start")
            if kind not in KINDS or not times[name]:
                continue
            if name in program.fused:
                # XLA:TPU lets a collective run beside other work as several fusions, each with a piece of it.
                piece = kind, instruction.attribute("channel_id"), instruction.shape
                if piece in seen:
                    continue
                seen.add(piece)
            if name.startswith(FUSED_SCATTER) and kind == "all-reduce":
                kind = "reduce-scatter"
            members = groups(instruction.rest, math.prod(mesh_shape.values()))
            if members.shape[1] < 2:
                continue
            key = kind, varying(members, mesh_shape)
            counts[key][0] += times[name]
            operands = [program.find(name, operand) for operand in instruction.operands]
            nbytes = sum(operand.nbytes for operand in operands)
            counts[key][1] += times[name] * ring_bytes(kind, nbytes, members.shape[1])
    found = [Collective(kind, axes, *numbers) for (kind, axes), numbers in counts.items()]
    return sorted(found, key=lambda collective: -collective.nbytes)


def ring_bytes(kind: str, nbytes: float, members: int) -> float:
    """Bytes that each chip sends, in a ring (all-to-all: directly), where its operand of a collective has `nbytes`."""
    share = (members - 1) / members
    return {
        "all-gather": nbytes * (members - 1),
        "reduce-scatter": nbytes * share,
        "all-reduce": 2 * nbytes * share,
        "all-to-all": nbytes * share,
        "ragged-all-to-all": nbytes * share,
    }.get(kind, nbytes)


def groups(rest: str, devices: int) -> Int[np.ndarray, "groups members"]:
    """Partitions that exchange with each other, of the attributes of a collective; a permutation's pairs."""
    text = Instruction("", "", "", f" {rest}", False)
    if pairs := text.attribute("source_target_pairs"):
        numbers = np.asarray([int(number) for number in re.findall(r"\d+", pairs)], np.int64)
        pairs_X2 = numbers.reshape(-1, 2)
        return pairs_X2[pairs_X2[:, 0] != pairs_X2[:, 1]] if len(pairs_X2) else np.zeros((0, 1), np.int64)
    if match := MESH.search(rest):
        return _of_mesh(*match.groups())
    stated = text.attribute("replica_groups") or "{}"
    if match := IOTA.match(stated):
        shape = _numbers(match[1])
        return _iota(match[2], match[3]).reshape(shape)
    lists = [[int(number) for number in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", stated)]
    return np.asarray(lists or [range(devices)], np.int64)


def _of_mesh(sizes: str, ids: str | None, axes: str) -> Int[np.ndarray, "groups members"]:
    """`mesh['a'=32,'b'=4] {'b'}`: groups along some axes, or parts of axes, of a mesh."""
    shape = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", sizes)}
    match = IOTA.match((ids or "").strip()) or re.match(r"\[([\d,]+)\]T\(([\d,]+)\)", (ids or "").strip())
    if ids is None:
        order = np.arange(math.prod(shape.values()))
    elif match and match.re is IOTA:
        order = _iota(match[2], match[3])
    elif match:
        order = _iota(match[1], match[2])
    else:
        order = np.asarray(_numbers(ids))
    # Each axis as (before, part, after): an axis may be taken in part.
    dimensions, chosen = [], []
    wanted = {name: (int(before or 1), int(part or shape[name])) for name, before, part in NAMED_AXIS.findall(axes)}
    for name, size in shape.items():
        before, part = wanted.get(name, (size, 1))
        if name in wanted:
            chosen.append(len(dimensions) + 1)
        dimensions += [before, part, size // before // part]
    grid = order.reshape(dimensions)
    rest = [axis for axis in range(grid.ndim) if axis not in chosen]
    members = math.prod(grid.shape[axis] for axis in chosen)
    return grid.transpose(*rest, *chosen).reshape(-1, members)


def _iota(shape: str, order: str | None) -> Int[np.ndarray, " devices"]:
    sizes = _numbers(shape)
    grid = np.arange(math.prod(sizes)).reshape(sizes)
    return (grid.transpose(_numbers(order)) if order else grid).reshape(-1)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def varying(members: Int[np.ndarray, "groups members"], mesh_shape: Mapping[str, int]) -> tuple[str, ...]:
    """Axes of the mesh along which the members of a group differ."""
    places = np.stack(np.unravel_index(members, tuple(mesh_shape.values())))
    differ = (places != places[:, :, :1]).any(axis=(1, 2))
    return tuple(axis for axis, several in zip(mesh_shape, differ) if several)


def by_axes(found: Sequence[Collective]) -> dict[tuple[str, ...], float]:
    """Bytes along each combination of axes."""
    sums: dict[tuple[str, ...], float] = defaultdict(float)
    for collective in found:
        sums[collective.axes] += collective.nbytes
    return dict(sums)
