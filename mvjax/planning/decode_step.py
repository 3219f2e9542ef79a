"""What one step of the engine's compiled loop does beside its work: collectives, copies, sorts, kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from mvjax.planning.collectives import Collective, collectives
from mvjax.planning.hlo import Place, Program
from mvjax.planning.kernels import Kernels, kernels
from mvjax.planning.loop_copies import LoopBuffer, loop_copies, weight_copies
from mvjax.planning.program import Compiled
from mvjax.planning.sorts import sort_widths
from mvjax.planning.traced_collectives import traced_collectives


@dataclass(frozen=True)
class DecodeStep:
    """Of one chip."""

    asked: tuple[Collective, ...]
    """Collectives of the step model, before the compiler combines or splits any."""
    collectives: tuple[Collective, ...]
    """Those of the compiled program."""
    weight_copies: tuple[LoopBuffer, ...]
    """Buffers made in every step that have the dimensions of a weight matrix."""
    page_copies: tuple[LoopBuffer, ...]
    """Those with the dimensions of a layer's pages, or of all layers'."""
    sorts: tuple[int, ...]
    """Width of every sort, the widest first."""
    kernels: Kernels


def read_step(compiled: Compiled, mesh_shape: Mapping[str, int], params: Any, kv: Any, layers: int) -> DecodeStep:
    """Reads the program of a loop.

    Args:
        mesh_shape: size of each mesh axis.
        params: the chip's part of the parameters of a `DecoderStepModel`, as shapes.
        kv: of keys and values of `layers` layers.
    """
    text, program = compiled.text, Program(compiled.text)
    outer = [array.shape for name, array in params.items() if name in ("embed", "head")]
    # Scales, which have no axis of a head's numbers, are as small as activations.
    shapes = {array.shape for array in jax.tree.leaves(kv) if len(array.shape) == 4}
    shapes |= {(shape[0] // layers, *shape[1:]) for shape in shapes if not isinstance(params["layers"], list)}
    return DecodeStep(
        tuple(traced_collectives(compiled.traced, mesh_shape)) if compiled.traced is not None else (),
        tuple(collectives(program, mesh_shape)),
        (*weight_copies(text, params["layers"]), *loop_copies(text, *outer)),
        tuple(loop_copies(text, *shapes)),
        tuple(sort_widths(text)),
        kernels(program, *outermost(program).instruction.called),
    )


def outermost(program: Program) -> Place:
    """The loop that is in no other and whose rounds the device decides; ValueError unless there is one."""
    within = {name for loop in program.loops() for name in inner(program, loop)}
    found = [loop for loop in program.loops() if loop.computation not in within and program.rounds(loop) is None]
    if len(found) != 1:
        raise ValueError(f"the program has {len(found)} generation loops")
    return found[0]


def inner(program: Program, loop: Place) -> set[str]:
    """Computations that a loop runs."""
    seen, queue = set(), list(loop.instruction.called)
    while queue:
        if (name := queue.pop()) not in seen:
            seen.add(name)
            queue += [called for i in program.computations.get(name, []) for called in i.called]
    return seen
