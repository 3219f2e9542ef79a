"""Reads compiled programs: does a loop copy the KV cache or weights, instead of using them where they lie?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mvjax.planning.hlo import Buffer, Instruction, Program

PASSED_ON = {
    *("parameter", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call", "opt-barrier"),
    *("optimization-barrier", "dynamic-update-slice", "scatter"),
}
"""Instructions that make no new buffer: XLA puts a copy before an update that cannot be done in place."""
ALIASED = re.compile(r"\{(\d*)\}: \(")


class LoopBuffer(NamedTuple):
    """A buffer that an instruction inside a loop makes."""

    instruction: Instruction
    computation: str
    buffer: Buffer
    times: float
    """How often it is made in a round of the loop whose rounds are not known beforehand; inside a branch, as if that
    were taken always."""

    @property
    def nbytes(self) -> float:
        """Bytes written in such a round."""
        return self.times * self.buffer.nbytes

    def __str__(self) -> str:
        instruction = self.instruction
        return f"{instruction.opcode} {instruction.name} {instruction.shape} in {self.computation}"


def loop_buffers(program: str, least: int) -> list[LoopBuffer]:
    """Buffers of at least so many bytes that a program's loops make in the device's large memory.

    Left out: the insides of fusions, which are never stored; what is passed on; arrays that are updated in place.

    Args:
        program: `compiled.as_text()`.
    """
    read = Program(program)
    inside = set()
    for loop in read.loops():
        for name in loop.instruction.called:
            inside |= set(reached(name, read.computations))
    times = read.times()
    return [
        LoopBuffer(instruction, name, buffer, times[name])
        for name in sorted(inside)
        for instruction in read.computations.get(name, [])
        for buffer in made(instruction, name, read)
        if buffer.nbytes >= least and not buffer.on_chip
    ]


def loop_copies(program: str, *shapes: tuple[int, ...]) -> list[LoopBuffer]:
    """Buffers made inside loops that have the dimensions of one of some arrays, in any order; empty: none.

    Args:
        program: `compiled.as_text()`.
        shapes: of the arrays, such as the cache's [R, K, S, H] or a layer's matrices.
    """
    wanted = {dimensions(shape) for shape in shapes}
    return [found for found in loop_buffers(program, 0) if dimensions(found.buffer.shape) in wanted]


def weight_copies(program: str, layers: Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> list[LoopBuffer]:
    """Buffers made inside loops that have the dimensions of a layer's matrices: a loop that decodes should make none.

    Args:
        program: `compiled.as_text()`.
        layers: `params["layers"]` of a `DecoderStepModel`, arrays or shapes: a dictionary per layer or of stacked ones.
    """
    one, rank = (layers, 3) if isinstance(layers, Mapping) else (layers[0], 2)
    shapes = {tuple(array.shape) for array in one.values() if len(array.shape) == rank}
    # A column of scales has the dimensions of an activation.
    shapes = {shape for shape in shapes if min(shape[-2:]) > 1}
    return loop_copies(program, *shapes, *(shape[-2:] for shape in shapes))


def dimensions(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Dimensions other than 1, sorted: the same for every transposition."""
    return tuple(sorted(size for size in shape if size != 1))


def reached(name: str, computations: Mapping[str, list[Instruction]]) -> Iterator[str]:
    """A computation and those that it runs. Not the insides of fusions: they make no buffers of their own."""
    seen, queue = set(), [name]
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        yield name
        for instruction in computations.get(name, []):
            if instruction.opcode != "fusion":
                queue += instruction.called


def made(instruction: Instruction, computation: str, program: Program) -> Iterator[Buffer]:
    """The parts of an instruction's result that are new buffers."""
    opcode = instruction.opcode
    if opcode in PASSED_ON or opcode.endswith("-start"):  # What is started counts where it is done.
        return
    kept = set(ALIASED.findall(instruction.attribute("output_to_operand_aliasing") or ""))
    for number, buffer in enumerate(instruction.buffers):
        if str(number) in kept or "" in kept:
            continue
        if opcode == "fusion" and updates_in_place(instruction.called[0], number, program):
            continue
        yield buffer


def updates_in_place(fused: str, number: int, program: Program) -> bool:
    """Whether a part of a fusion's result is one of its operands, passed on or updated in places."""
    place = program.root(fused)
    if place.opcode == "tuple":
        parts = [(part, inner) for part in place.operands for inner in range(len(program.find(fused, part).buffers))]
        name, number = parts[number]
        place = program.find(fused, name)
    while place.opcode in ("bitcast", "dynamic-update-slice", "scatter"):
        place, number = program.find(fused, place.operands[number]), 0
    return place.opcode == "parameter"
