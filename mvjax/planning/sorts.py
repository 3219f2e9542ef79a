"""Reads compiled programs: how wide are the rows that are sorted?"""

from __future__ import annotations

from mvjax.planning.hlo import Place, Program

CUB = 'custom_call_target="__cub$'
"""NVIDIA's library of sorts, which XLA:GPU calls where it knows its version."""


def sort_widths(program: str) -> list[int]:
    """Numbers in a row of every sort of a compiled program, inside fusions too, the widest first.

    program: `compiled.as_text()`.
    """
    read = Program(program)
    widths = []
    for name, body in read.computations.items():
        for instruction in body:
            if instruction.opcode == "sort":
                axis = int(instruction.stated("dimensions").strip("{}"))
                widths.append(instruction.buffers[0].shape[axis])
            elif instruction.opcode == "custom-call" and CUB in instruction.rest:
                widths.append(read.operand(Place(name, instruction), 0).buffers[0].shape[-1])
    return sorted(widths, reverse=True)
