"""What a compiled program computes and moves on one chip: operations of its products, bytes of its memory."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from mvjax.planning.collectives import KINDS
from mvjax.planning.hlo import Buffer, Instruction, Place, Program

NO_TRAFFIC = {
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call", "iota"),
    *("after-all", "partition-id", "replica-id", "opt-barrier", "optimization-barrier", "copy-done", "async-done"),
    *("async-update", "domain", "add-dependency", "call-start", "call-done"),
}
"""Instructions that move nothing, or whose insides are counted."""

HANDED = {"parameter", "tuple", *KINDS}
"""Inside a fusion: what only passes through it, as the buffers of a collective do that runs beside other work."""

SLICES = {"dynamic-slice", "slice", "gather"}
"""Instructions that read a part of their operand."""


@dataclass(frozen=True)
class Work:
    """Of one run of a program, on one chip."""

    products: float
    """Operations of matrix products, two a multiply-add."""
    attention: float
    """Those of the attention kernels, as if every row were one causal document."""
    traffic: float
    """Bytes read from and written to the chip's memory. Rough: operands and results of everything that runs by itself,
    slices and updates in place by the part that they touch."""

    @property
    def flops(self) -> float:
        """All operations that are counted."""
        return self.products + self.attention


def work(program: Program, unknown: Mapping[str, float] | None = None) -> Work:
    """Counts a program's work; `unknown` as for `Program.times`."""
    times = program.times(unknown)
    products = kernels = moved = 0.0
    for name, body in program.computations.items():
        if not times[name]:
            continue
        for instruction in body:
            place = Place(name, instruction)
            products += times[name] * product_flops(place, program)
            kernels += times[name] * kernel_flops(place, program)
            if name not in program.fused:
                moved += times[name] * traffic(place, program)
    return Work(products, kernels, moved)


def product_flops(place: Place, program: Program) -> float:
    """Operations of a matrix product; 0 for anything else."""
    instruction = place.instruction
    if instruction.opcode == "dot":
        contracted = numbers(instruction.attribute("lhs_contracting_dims"))
        left = program.operand(place, 0).buffers[0].shape
        return 2.0 * math.prod(instruction.buffers[0].shape) * math.prod(left[axis] for axis in contracted)
    if instruction.opcode == "convolution":
        return convolution_flops(place, program)
    if instruction.opcode == "custom-call" and "gemm_backend_config" in instruction.rest:
        (contracted,) = re.findall(r'"lhs_contracting_dimensions":\[([^\]]*)\]', instruction.rest)
        left = program.operand(place, 0).buffers[0].shape
        return 2.0 * math.prod(instruction.buffers[0].shape) * math.prod(left[axis] for axis in numbers(contracted))
    return 0.0


def convolution_flops(place: Place, program: Program) -> float:
    """What XLA:TPU makes of a product: spatial dimensions stand for batch or contracted ones."""
    instruction = place.instruction
    left, right, out = re.split("_|->", instruction.stated("dim_labels"))
    x, kernel = (program.operand(place, number).buffers[0].shape for number in (0, 1))
    y = instruction.buffers[0].shape
    flops = 2.0 * y[out.index("b")] * y[out.index("f")] * kernel[right.index("i")]
    window = instruction.attribute("window") or "{}"
    spatial = [label for label in out if label.isdigit()]
    settings = {key: values.split("x") for key, values in re.findall(r"(\w+)=([\w\-]+)", window)}
    for number, label in enumerate(sorted(spatial)):

        def setting(key: str, default: str, number=number) -> str:
            return settings[key][number] if key in settings else default

        low = int(setting("pad", "0_0").split("_")[0])
        stride, grow, spread = (int(setting(key, "1")) for key in ("stride", "lhs_dilate", "rhs_dilate"))
        length, size, steps = x[left.index(label)], kernel[right.index(label)], y[out.index(label)]
        reach = (length - 1) * grow + 1
        places = (step * stride - low + tap * spread for step in range(steps) for tap in range(size))
        flops *= sum(0 <= place < reach and place % grow == 0 for place in places)
    return flops


def kernel_flops(place: Place, program: Program) -> float:
    """Operations of an attention kernel on a causal row; 0 for anything else.

    A TPU kernel carries an estimate. A Triton kernel's name is packed away: its arguments begin with q [B, T, N, H] and
    k [B, S, K, H], and it is known by its results.
    """
    instruction = place.instruction
    if instruction.opcode not in ("custom-call", "custom-call-start"):
        return 0.0
    if stated := re.search(r'"cost_estimate":(\{[^}]*\})', instruction.rest):
        return float(json.loads(stated[1]).get("flops", 0))
    if 'custom_call_target="triton_kernel_call"' not in instruction.rest:
        return 0.0
    (B, T, N, H), (_, S, *_) = (program.operand(place, number).buffers[0].shape for number in (0, 1))
    ranks = [len(buffer.shape) for buffer in instruction.buffers]
    # Products of each pair: dq 3, o and the log-sum-exp 2, dk and dv 4.
    products = 3 if len(ranks) == 1 else 2 if ranks[1] < ranks[0] else 4
    return 2 * products * B * N * H * T * S / 2


def traffic(place: Place, program: Program) -> float:
    """Bytes of memory that an instruction reads and writes."""
    instruction = place.instruction
    if instruction.opcode in NO_TRAFFIC or instruction.opcode.endswith("-done"):
        return 0.0
    if instruction.opcode == "fusion":
        return fusion_traffic(place, program)
    operands = [program.find(place.computation, name) for name in instruction.operands]
    if instruction.opcode in SLICES:
        return 2 * off_chip(instruction.buffers)
    if instruction.opcode == "dynamic-update-slice":
        return 2 * off_chip(operands[1].buffers)
    results = instruction.buffers
    if instruction.opcode.endswith("-start"):  # (operands, results, ...)
        results = results[len(operands) : 2 * len(operands)]
    return off_chip(results) + sum(off_chip(operand.buffers) for operand in operands)


def fusion_traffic(place: Place, program: Program) -> float:
    """Of a fusion: a parameter that is only sliced counts by its slices, a result that is updated by the updates."""
    instruction = place.instruction
    body = program.computations[instruction.called[0]]
    inside = {i.name: i for i in body}
    parameters = {int(i.rest.split(")")[0]): i for i in body if i.opcode == "parameter"}
    updated: set[str] = set()
    moved = 0.0

    def source(i: Instruction) -> Instruction:
        while i.opcode in ("bitcast", "copy", "reshape", "convert", "transpose") and i.operands[0] in inside:
            i = inside[i.operands[0]]
        return i

    root = next(i for i in body if i.root)
    parts = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
    for part, buffer in zip(parts, instruction.buffers):
        part = source(part)
        if part.opcode in HANDED:
            continue
        if part.opcode == "dynamic-update-slice":
            moved += off_chip((buffer,), inside[part.operands[1]].nbytes)
            updated.add(source(inside[part.operands[0]]).name)
        else:
            moved += off_chip((buffer,))
    for number, name in enumerate(instruction.operands):
        operand = program.find(place.computation, name)
        parameter = parameters.get(number)
        if parameter is None or parameter.name in updated:
            continue
        users = [i for i in body if parameter.name in i.operands and i.opcode not in HANDED]
        if not users:
            continue
        if all(i.opcode in SLICES for i in users):
            moved += off_chip(operand.buffers, sum(i.nbytes for i in users))
        else:
            moved += off_chip(operand.buffers)
    return moved


def off_chip(buffers: tuple[Buffer, ...], nbytes: float | None = None) -> float:
    """Bytes of the buffers that lie in the large memory; `nbytes` of the first instead, where that is touched."""
    if nbytes is not None:
        return 0.0 if not buffers or buffers[0].on_chip else min(nbytes, buffers[0].nbytes)
    return sum(buffer.nbytes for buffer in buffers if not buffer.on_chip)


def numbers(text: str | None) -> list[int]:
    """Whole numbers of an attribute."""
    return [int(number) for number in re.findall(r"\d+", text or "")]
