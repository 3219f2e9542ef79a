"""Reads compiled programs: how many kernels does a loop's body start in a round?"""

from __future__ import annotations

from typing import NamedTuple

from mvjax.planning.hlo import Instruction, Place, Program
from mvjax.planning.work import NO_TRAFFIC

CALLS = ("while", "conditional", "call")
"""Instructions that run computations whose kernels are counted one by one; any other, a fusion as well as a custom
call, a collective or a copy, is one kernel."""
NOTHING = NO_TRAFFIC - {"iota", "copy-done", "async-done"} - set(CALLS)


class Kernels(NamedTuple):
    """Kernels of one round."""

    least: float
    """Where every condition takes the branch with the fewest: a step in which nothing happens but a token a branch."""
    most: float
    """Where every one takes the branch with the most."""


def kernels(program: Program, *computations: str) -> Kernels:
    """Instructions of some computations that run something by themselves, those of the loops in them as often as they
    run (once where that is decided on the device): thunks on a GPU, top-level operations on a TPU."""
    least = most = 0.0
    for name in computations:
        for instruction in program.computations[name]:
            opcode = instruction.opcode
            if opcode in NOTHING or opcode.endswith(("-done", "-update")):  # What is started has been counted.
                continue
            if opcode == "conditional":
                branches = [kernels(program, called) for called in instruction.called]
                found = Kernels(min(one.least for one in branches), max(one.most for one in branches))
            elif opcode in CALLS:
                found = kernels(program, *instruction.called)
            else:
                found = Kernels(1, 1)
            if opcode == "while" and asks_a_flag(program, instruction):
                found = Kernels(0, found.most)
            rounds = (program.rounds(Place(name, instruction)) or 1) if opcode == "while" else 1
            least, most = least + rounds * found.least, most + rounds * found.most
    return Kernels(least, most)


def asks_a_flag(program: Program, loop: Instruction) -> bool:
    """Whether a loop goes on while a flag that it carries is set: it may make no turn, as the events of
    `decode_loop.step` do."""
    condition = loop.stated("condition")
    return program.root(condition).opcode == "get-tuple-element"
