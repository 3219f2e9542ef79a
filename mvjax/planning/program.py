"""The real training step, compiled for a machine that is not here. Nothing is allocated."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr
from jax.sharding import Sharding

from mvjax.errors import UserError
from mvjax.models.placement import Placement
from mvjax.models.tensors import parameter_count
from mvjax.planning.compiler_warnings import CompilerWarning, compiler_warnings, heard
from mvjax.planning.machines import Machine, lowering_platform, uncached
from mvjax.planning.shapes import Shape
from mvjax.training.base_model import describe_model
from mvjax.training.batch import abstract_batch, check_rows, step_batch_sharding
from mvjax.training.config import TrainConfig
from mvjax.training.mesh import make_placement
from mvjax.training.model import TrainableModel, TrainState, make_trainable
from mvjax.training.optimizer import make_optimizer, make_schedule
from mvjax.training.state import make_state
from mvjax.training.step import make_update

OUT_OF_MEMORY = re.compile(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm")
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Arguments:
    """Bytes on each chip of what a step is given, padding left out."""

    weights: int
    """Parameters, trained or not."""
    trained: int
    """Those of them that are trained."""
    optimizer: int
    """Adam's moments and counters."""
    batch: int
    """Tokens, positions, intervals, targets."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.optimizer + self.batch


@dataclass(frozen=True)
class Step:
    """A training step for a machine, not compiled yet."""

    config: TrainConfig
    shape: Shape
    machine: Machine
    placement: Placement
    model: TrainableModel
    """With abstract arrays."""
    arguments: Arguments
    parameters: int
    """Weights of the whole model, adapters left out."""
    adapters: int | None
    """Weights of the adapters; None where all weights are trained."""

    @property
    def mesh(self) -> dict[str, int]:
        """Size of each axis."""
        return dict(self.placement.mesh.shape)

    @property
    def possible(self) -> bool:
        """Whether a chip has room for what the step is given; otherwise it need not be compiled."""
        return self.arguments.total <= self.machine.chip.hbm


@dataclass(frozen=True)
class Compiled:
    """What came of it."""

    seconds: float
    """Time to compile."""
    text: str = ""
    """The optimised program of one chip; empty where it did not fit."""
    arguments: int = 0
    """Bytes on each chip, as the compiler lays them out."""
    results: int = 0
    """Bytes of results that do not take an argument's place."""
    temporaries: int = 0
    code: int = 0
    refused: int = 0
    """Bytes that the compiler says the program would need, where that is more than it allows."""
    warnings: tuple[CompilerWarning, ...] = ()
    """What the compiler warned of."""
    traced: ClosedJaxpr | None = None
    """What the compiler was given, as JAX's operations."""

    @property
    def total(self) -> int:
        """Bytes of memory a chip needs."""
        return self.refused or self.arguments + self.results + self.temporaries + self.code


def describe_step(config: TrainConfig, shape: Shape, machine: Machine) -> Step:
    """The step of a configuration, with shapes for arrays.

    Raises:
        UserError: the configuration makes no sense, or its mesh does not fit the machine or divide the model.
    """
    config.validate()
    if config.model.attention not in ("auto", "xla", machine.chip.platform):
        raise UserError(
            f"config: model.attention = {config.model.attention!r} does not run on {machine.name}; use auto"
        )
    with jax.default_device(machine.devices[0]):
        placement = make_placement(config.mesh, machine.devices)
        check_rows(config, placement)
        model = make_trainable(describe_model(config, shape.config, shape.tag_ids, placement), shape.tag_ids)
    model.check(placement)
    state = jax.eval_shape(partial(make_state, describe_optimizer(config, model)), model.params)
    at = model.state_sharding(placement, state)
    trained = on_chip(state.params, at.params)
    arguments = Arguments(
        weights=trained + on_chip(model.frozen, model.frozen_sharding(placement)),
        trained=trained,
        optimizer=on_chip(state.opt_state, at.opt_state),
        batch=on_chip(abstract_batch(config.data), step_batch_sharding(placement)),
    )
    adapters = sum(x.size for name, x in model.params.items() if model.groups[name] == "lora")
    lora = config.lora.rank > 0
    return Step(
        config, shape, machine, placement, model, arguments, parameter_count(shape.config), adapters if lora else None
    )


def describe_optimizer(config: TrainConfig, model: TrainableModel):
    """The optimizer; how long its schedule is changes nothing about the program."""
    return make_optimizer(config.optimizer, make_schedule(config.optimizer, config.steps.total or 1000), model)


def on_chip(arrays, shardings) -> int:
    """Bytes of a tree's arrays on each chip."""

    def nbytes(x, sharding: Sharding) -> int:
        return jnp.dtype(x.dtype).itemsize * math.prod(sharding.shard_shape(x.shape))

    return sum(jax.tree.leaves(jax.tree.map(nbytes, arrays, shardings)))


def compile_step(step: Step) -> Compiled:
    """Compile it; a program that does not fit is no error.

    Raises:
        UserError: the compiler refuses it for another reason.
    """
    config, model = step.config, step.model
    optimizer = describe_optimizer(config, model)
    function = make_update(model, optimizer, step.placement, config.loss)
    state: TrainState = jax.eval_shape(partial(make_state, optimizer), model.params)
    return compile_on(step.machine, function, state, model.frozen, abstract_batch(config.data))


def compile_on(machine: Machine, function, *arguments) -> Compiled:
    """A jit-compiled function of shapes, for a machine."""
    start, device = time.monotonic(), machine.devices[0]
    messages: list[str] = []
    try:
        with jax.default_device(device), uncached(), heard() as messages:
            traced = function.trace(*arguments)
            compiled = traced.lower(lowering_platforms=(lowering_platform(device),)).compile()
    except ValueError as error:  # The kernels say what they cannot serve.
        raise UserError(f"{machine.name}: {' '.join(str(error).split())[:300]}") from error
    except jax.errors.JaxRuntimeError as error:
        seconds = time.monotonic() - start
        if found := OUT_OF_MEMORY.search(str(error)):
            refused = round(float(found[1]) * UNITS[found[2]])
            return Compiled(seconds, refused=refused, warnings=compiler_warnings(messages))
        text = " ".join(str(error).split())[:300]
        raise UserError(f"{machine.name}: the compiler refuses the program: {text}") from error
    memory = compiled.memory_analysis()
    return Compiled(
        time.monotonic() - start,
        compiled.as_text(),
        memory.argument_size_in_bytes,
        memory.output_size_in_bytes - memory.alias_size_in_bytes,
        memory.temp_size_in_bytes,
        memory.generated_code_size_in_bytes,
        warnings=compiler_warnings(messages),
        traced=traced.jaxpr,
    )
