"""What a compiled step keeps in a chip's memory, by kind."""

from __future__ import annotations

from dataclasses import dataclass

from mvjax.planning.hlo import Place, Program
from mvjax.planning.program import Compiled, Step

BACKWARD = "transpose("
"""In the path of JAX's operation: it belongs to the backward pass."""


@dataclass(frozen=True)
class Memory:
    """Bytes on each chip. The kinds add up to `total`. Of a program that was refused only the arguments and the total
    are known; of one that was not compiled, as its arguments alone do not fit, only these."""

    weights: int
    optimizer: int
    batch: int
    activations: int | None
    """Kept of each layer for the backward pass; None where it is unknown (layers that are not scanned)."""
    gradients: int | None
    """Of the layers' weights, summed up layer by layer and over micro-batches; None as above."""
    rest: int
    """Other temporaries at their peak, padding of the arguments, results."""
    code: int
    total: int
    room: float
    """What a program may use of the chip's memory."""

    @property
    def fits(self) -> bool:
        """Whether the chip has room for it."""
        return self.total <= self.room

    @property
    def margin(self) -> float:
        """Bytes left."""
        return self.room - self.total


def memory(step: Step, compiled: Compiled, program: Program | None) -> Memory:
    """By kind; `program`: the text of `compiled`, None where it was refused."""
    given, room = step.arguments, step.machine.chip.hbm
    kinds = given.weights, given.optimizer, given.batch
    if program is None:
        rest = max(0, compiled.total - given.total)
        return Memory(*kinds, None, None, rest, 0, compiled.total, min(room, compiled.total - 1))
    activations, gradients = kept(program, step.shape.config.layers) if step.config.model.scan_layers else (None, None)
    rest = compiled.total - given.total - compiled.code - (activations or 0) - (gradients or 0)
    return Memory(*kinds, activations, gradients, rest, compiled.code, compiled.total, room)


def kept(program: Program, layers: int) -> tuple[int, int]:
    """Bytes of what the loops over layers write one layer at a time: activations going forward, gradients backward.

    Gradients that are summed over micro-batches lie in the loop around.
    """
    activations = gradients = 0
    around: dict[str, tuple[tuple[int, ...], ...]] = {}
    for loop in program.loops():
        if program.rounds(loop) != layers:
            continue
        written = stacked(program, loop, layers)
        if BACKWARD in loop.instruction.op_name:
            gradients += sum(nbytes for _, nbytes in written)
            around[loop.computation] = tuple(shape for shape, _ in written)
        else:
            activations += sum(nbytes for _, nbytes in written)
    for loop in program.loops():
        body = loop.instruction.stated("body")
        if shapes := around.get(body):
            gradients += sum(nbytes for shape, nbytes in stacked(program, loop, layers) if shape in shapes)
    return activations, gradients


def stacked(program: Program, loop: Place, layers: int) -> list[tuple[tuple[int, ...], int]]:
    """Shape and bytes of the elements of a loop's tuple that have a layer axis and that its body changes."""
    body = loop.instruction.stated("body")
    root = program.root(body)
    found = []
    for number, buffer in enumerate(loop.instruction.buffers):
        if len(buffer.shape) < 2 or buffer.shape[0] != layers or buffer.on_chip:
            continue
        source = program.find(body, root.operands[number])
        handed = source.opcode == "get-tuple-element" and int(source.stated("index")) == number
        if not handed:
            found.append((buffer.shape, buffer.nbytes))
    return found
