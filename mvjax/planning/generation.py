"""The engine's generation loop, compiled for chips that are not here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mvjax import settings
from mvjax.engine.limits import EngineConfig
from mvjax.engine.tables import build_tables
from mvjax.errors import UserError
from mvjax.models import DecoderStepModel, TensorParallelModel
from mvjax.models.decode import PAGE
from mvjax.models.kv_arrays import KVArrays
from mvjax.models.number_formats import number_formats
from mvjax.models.tensor_split import AXIS, MOST, TensorSplit, devices_needed, divides
from mvjax.models.tensors import parameter_count
from mvjax.planning.collectives import Collective
from mvjax.planning.decode_step import DecodeStep, read_step
from mvjax.planning.engine_loop import chip_part, engine_loop, on_chip
from mvjax.planning.estimate import Times, times
from mvjax.planning.machines import Machine
from mvjax.planning.program import Compiled, compile_on
from mvjax.planning.shapes import Shape
from mvjax.planning.work import Work
from mvjax.settings import setting
from mvjax.tokenizers.tables import VocabularyTables


@dataclass(frozen=True)
class Load:
    """What the engine is to serve at a time."""

    requests: int = setting(4, at_least=1)
    max_branches: int = setting(8, at_least=1, at_most=32)
    """Branches of a request."""
    slots: int = setting(4096, at_least=1)
    """Tokens of a request's KV stream, all branches together."""

    @property
    def rows(self) -> int:
        """Branches of all requests together."""
        return self.requests * self.max_branches


@dataclass(frozen=True)
class Service:
    """A model on chips of a machine, as the engine would run it."""

    shape: Shape
    machine: Machine
    model: DecoderStepModel
    """With shapes for parameters."""

    @property
    def mesh(self) -> Mesh:
        """Of the chips that share the model."""
        if isinstance(self.model, TensorParallelModel):
            return self.model.mesh
        return Mesh(np.asarray(self.machine.devices[:1]), (AXIS,))

    @property
    def chips(self) -> int:
        """That share the model; the machine may have more."""
        return self.mesh.size


@dataclass(frozen=True)
class GenerationPlan:
    """Of the loop with every branch of every request live. Bytes on each chip."""

    service: Service
    load: Load
    compiled: Compiled
    weights: int
    pages: int
    """Keys and values of all KV streams, full."""
    state: int
    """Of the interpreter, page table, tables of the vocabulary."""
    read: int
    """Bytes of weights that a step reads: all but an embedding that only looks tokens up."""
    slot: float
    """Bytes of a KV slot."""
    page_size: int
    """Slots of a page."""
    step: DecodeStep | None
    """None where the program was refused or not compiled."""

    @property
    def rest(self) -> int:
        """Temporaries at their peak, padding, results."""
        return max(0, self.compiled.total - self.compiled.code - self.weights - self.pages - self.state)

    @property
    def room(self) -> float:
        """What the program may take."""
        hbm, compiled = self.service.machine.chip.hbm, self.compiled
        return min(hbm, compiled.total - 1) if compiled.refused else hbm

    @property
    def fits(self) -> bool:
        """Whether the chip has room for it."""
        return self.compiled.total <= self.room

    @property
    def chips_needed(self) -> int | None:
        """The smallest number of chips of this kind that could share the model and hold its weights with space for
        streams; None: there is none."""
        config, whole = self.service.shape.config, self.weights * self.service.chips
        sizes = (size for size in range(1, config.heads + 1) if divides(config, size))
        return next((size for size in sizes if whole / size <= MOST * self.service.machine.chip.hbm), None)

    @property
    def tokens(self) -> int:
        """KV slots that the memory beside weights, state, temporaries and code holds; every chip has its heads' part of
        each."""
        free = self.room - (self.compiled.total - self.pages)
        return max(0, math.floor(free / self.slot / self.page_size) - 1) * self.page_size

    @property
    def times(self) -> Times | None:
        """A step at least: weights and full KV streams read once, the products of every branch, and the bytes of the
        program's collectives, each at its peak rate. An estimate, not run; None for a chip without published
        figures."""
        config = self.service.shape.config
        parameters = parameter_count(config) - (0 if config.tied else config.vocab_size * config.embed)
        work = Work(2 * parameters * self.load.rows / self.service.chips, 0.0, self.read + self.pages)
        return times(self.service.machine, self.service.mesh, work, self.collectives)

    @property
    def collectives(self) -> tuple[Collective, ...]:
        """Of the compiled program."""
        return self.step.collectives if self.step else ()


def describe_service(
    shape: Shape,
    machine: Machine,
    tensor_parallel: int | None = None,
    weight_dtype: Any = "auto",
    kv_dtype: Any = "auto",
) -> Service:
    """A model on the first chips of a machine.

    Args:
        tensor_parallel: chips that share the model; None: as few as hold it, see `devices_needed`.
        weight_dtype, kv_dtype: as for `number_formats`.

    Raises:
        UserError: the chips cannot share it, there are not as many, or they do not compute with these numbers.
    """
    config, devices = shape.config, machine.devices
    options = {"weight_dtype": weight_dtype, "kv_dtype": kv_dtype, "page_size": PAGE}
    with jax.default_device(devices[0]):
        formats = number_formats(weight_dtype, kv_dtype)
        if tensor_parallel is None:
            room = None if machine.chip.platform == "cpu" else machine.chip.hbm
            tensor_parallel = devices_needed(config, formats.weights, devices, room)
        elif tensor_parallel > len(devices):
            several = "chips" if len(devices) > 1 else "chip"
            raise UserError(f"tensor parallel {tensor_parallel}: {machine.name} has {len(devices)} {several}")
        if TensorSplit(config, tensor_parallel).size > 1:
            return Service(shape, machine, TensorParallelModel.described(config, tensor_parallel, devices, **options))
        return Service(shape, machine, DecoderStepModel.described(config, **options))


def plan_generation(service: Service, load: Load) -> GenerationPlan:
    """Compiles the loop that the engine runs and reads its program. Where its arguments alone do not fit it is not
    compiled.

    Raises:
        UserError: a load that makes no sense, or a program that the compiler refuses.
    """
    settings.validate(load, "plan: --")
    shape, machine, model = service.shape, service.machine, service.model
    page_size = model.page_size
    assert page_size
    pages = load.requests * math.ceil(load.slots / page_size)
    config = EngineConfig(
        requests=load.requests,
        max_branches=load.max_branches,
        max_slots=load.slots,
        pages=pages,
    )
    tables = build_tables(vocabulary(shape), (), config.max_paths)
    loop = engine_loop(model, machine.devices[0], config, tables, load.rows)
    given = sum(on_chip(argument) for argument in loop.arguments)
    compiled = Compiled(0.0, refused=given)
    if given <= machine.chip.hbm:
        compiled = compile_on(machine, jax.jit(loop.function, donate_argnums=loop.donated), *loop.arguments)
    params = loop.arguments[0]
    kv = next(argument for argument in loop.arguments if isinstance(argument, KVArrays))._replace(table=None)
    weights, cached = on_chip(params), on_chip(kv)
    step = None
    if compiled.text:
        step = read_step(compiled, dict(service.mesh.shape), chip_part(params), chip_part(kv), shape.config.layers)
    return GenerationPlan(
        service,
        load,
        compiled,
        weights,
        cached,
        given - weights - cached,
        on_chip({name: part for name, part in params.items() if shape.config.tied or not name.startswith("embed")}),
        cached / ((pages + 1) * page_size),
        page_size,
        step,
    )


def vocabulary(shape: Shape) -> VocabularyTables:
    """Tables of a vocabulary of that size: only their shapes count."""
    size = shape.config.vocab_size
    codes = np.full(size, -1, np.int8)
    codes[list(shape.tag_ids)] = range(len(shape.tag_ids))
    blank = np.zeros(size, bool)
    return VocabularyTables(codes, blank, blank, 0, 0, 0, ((0, 0),) * 64, shape.tag_ids, ())


def fewer(plan: GenerationPlan, tries: int, say: Callable[[str], None]) -> tuple[GenerationPlan | None, int]:
    """The nearest smaller load that fits: half the requests again and again, then half the slots.

    Nothing is tried where the weights alone are too large.
    """
    load, tried = plan.load, 0
    if plan.weights > plan.room:
        return None, 0
    while tried < tries and (load.requests > 1 or load.slots > plan.page_size):
        halved = {"requests": load.requests // 2} if load.requests > 1 else {"slots": load.slots // 2}
        load, tried = replace(load, **halved), tried + 1
        say(f"does not fit; trying --requests {load.requests} --slots {load.slots} (at most {tries - tried} more)")
        found = plan_generation(plan.service, load)
        if found.fits:
            return found, tried
    return None, tried
