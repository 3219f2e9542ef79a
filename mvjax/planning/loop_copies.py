"""Reads compiled programs: does a loop copy the KV cache, instead of updating it in place?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from mvjax.planning.hlo import Instruction, parse

SHAPE = re.compile(r"\w+\[([\d,]*)\]")

IN_PLACE = {
    *("parameter", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call", "opt-barrier"),
    *("optimization-barrier", "dynamic-update-slice"),
}
"""Instructions that make no new buffer: XLA puts a copy before an update that cannot be done in place."""


def loop_copies(program: str, shape: tuple[int, ...]) -> list[str]:
    """Instructions inside loops that make a buffer with an array's dimensions, in any order; empty: none.

    Args:
        program: `compiled.as_text()`.
        shape: of the array, such as the cache's [R, K, S, H].
    """
    computations = parse(program)
    wanted = dimensions(",".join(map(str, shape)))
    loops = [i for body in computations.values() for i in body if i.opcode == "while"]
    inside = set()
    for loop in loops:
        for name in loop.called:
            inside |= set(reached(name, computations))
    found = []
    for name in sorted(inside):
        for instruction in computations.get(name, []):
            sizes = [dimensions(dims) for dims in SHAPE.findall(instruction.shape)]
            if wanted in sizes and not updates_in_place(instruction, computations):
                found.append(f"{instruction.opcode} {instruction.name} {instruction.shape} in {name}")
    return found


def dimensions(text: str) -> tuple[int, ...]:
    """Dimensions other than 1, sorted: the same for every transposition."""
    return tuple(sorted(int(size) for size in text.split(",") if size and size != "1"))


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


def updates_in_place(instruction: Instruction, computations: Mapping[str, list[Instruction]]) -> bool:
    """Whether an instruction only passes its buffer on or updates a part of it."""
    if instruction.opcode != "fusion":
        return instruction.opcode in IN_PLACE
    body = computations.get(instruction.called[0], []) if instruction.called else []
    root = next((inner for inner in body if inner.root), None)
    return root is not None and root.opcode in ("dynamic-update-slice", "bitcast", "parameter")
