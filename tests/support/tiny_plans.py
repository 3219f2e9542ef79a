"""Plans of a tiny model: its shape, a step of it, a plan with made-up figures, processes with virtual devices."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from virtual_devices import xla_flags

from mvjax.models.config import ModelConfig
from mvjax.planning.compiler_warnings import CompilerWarning
from mvjax.planning.machines import Machine, machine
from mvjax.planning.memory import Memory
from mvjax.planning.plan import Plan
from mvjax.planning.program import Step, describe_step
from mvjax.planning.shapes import Shape
from mvjax.training.config import TrainConfig

ROOT = Path(__file__).parents[2]
TINY = Shape(
    ModelConfig("qwen2", 64, 32, 3, 4, 2, 8, 48, 1e4, tied=False, max_position=256),
    tuple(range(52, 64)),
    "a tiny model",
)
"""Three layers; the last twelve tokens are the tags."""


def tiny_config(**changes) -> TrainConfig:
    """A step of eight rows of 64 tokens, with changes by section."""
    base = TrainConfig().replace(name="tiny", data={"rows": 8, "row_length": 64, "levels": 2}, loss={"chunk": 32})
    return base.replace(**changes).validate()


def tiny_machine(hbm: float) -> Machine:
    """This host's processor, with so many bytes of memory."""
    here = machine("cpu:1")
    return replace(here, chip=replace(here.chip, hbm=hbm))


def made_up(step: Step, total: int, warnings: tuple[CompilerWarning, ...] = ()) -> Plan:
    """A plan as if the step had been compiled and needed so many bytes."""
    given = step.arguments
    rest = total - given.total
    memory = Memory(
        given.weights, given.optimizer, given.batch, None, None, rest, 0, total, float(step.machine.chip.hbm)
    )
    return Plan(step, memory, 1.0, 1e6, warnings=warnings)


def tiny_step(hbm: float = 2**30, **changes) -> Step:
    """A step that is not compiled."""
    return describe_step(tiny_config(**changes), TINY, tiny_machine(hbm))


def python(*arguments: str, devices: int = 8) -> subprocess.CompletedProcess:
    """A process with so many virtual devices, whose compiler takes little trouble."""
    flags = xla_flags(devices, "--xla_backend_optimization_level=0")
    paths = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "tests" / "support"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
