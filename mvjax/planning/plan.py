"""A plan: everything that is known of a run before it is started."""

from __future__ import annotations

from dataclasses import dataclass

from mvjax.planning.collectives import Collective, collectives
from mvjax.planning.compiler_warnings import CompilerWarning
from mvjax.planning.estimate import Times, model_flops, times, unknown_loops
from mvjax.planning.hlo import Program
from mvjax.planning.machines import Machine
from mvjax.planning.memory import Memory, memory
from mvjax.planning.program import Compiled, Step, compile_step, describe_step
from mvjax.planning.shapes import Shape
from mvjax.planning.work import Work, work
from mvjax.training.config import TrainConfig


@dataclass(frozen=True)
class Plan:
    """Of one training step on one machine."""

    step: Step
    memory: Memory
    seconds: float
    """Time to compile; 0 where it was not, as its arguments alone do not fit."""
    model_flops: float
    """Operations that the model itself needs, on all chips."""
    collectives: tuple[Collective, ...] = ()
    """Empty, as the rest is None, where the program did not fit."""
    work: Work | None = None
    times: Times | None = None
    """None as well for a chip without published figures."""
    warnings: tuple[CompilerWarning, ...] = ()
    """What the compiler warned of."""

    @property
    def mfu(self) -> float | None:
        """The share of the peak at most, by the model's own count."""
        if self.times is None:
            return None
        machine = self.step.machine
        return self.model_flops / len(machine.devices) / machine.chip.flops / self.times.bound


def make_plan(config: TrainConfig, shape: Shape, machine: Machine) -> Plan:
    """Compiles the step of a configuration and reads the program.

    Raises:
        UserError: the configuration does not fit model or machine, or its program cannot be compiled for it.
    """
    return plan_step(describe_step(config, shape, machine))


def plan_step(step: Step) -> Plan:
    """The same for a step."""
    compiled = compile_step(step) if step.possible else Compiled(0.0, refused=step.arguments.total)
    if not compiled.text:
        known = memory(step, compiled, None), compiled.seconds, model_flops(step)
        return Plan(step, *known, warnings=compiled.warnings)
    program = Program(compiled.text)
    rounds = unknown_loops(step, program)
    found = collectives(program, step.mesh, rounds)
    done = work(program, rounds)
    return Plan(
        step,
        memory(step, compiled, program),
        compiled.seconds,
        model_flops(step),
        tuple(found),
        done,
        times(step.machine, step.placement.mesh, done, found),
        compiled.warnings,
    )
