"""The nearest change that makes a program fit: a short list of them, each tried by a real compilation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from mvjax.errors import UserError
from mvjax.planning.plan import Plan, plan_step
from mvjax.planning.program import Step, describe_step
from mvjax.training.config import TrainConfig
from mvjax.training.mesh import mesh_shape

LORA_RANK = 16


@dataclass(frozen=True)
class Advice:
    """What was tried."""

    words: tuple[str, ...]
    """Options that make it fit; empty: none was found."""
    plan: Plan | None
    """The plan with them."""
    tried: int
    """Programs that were compiled."""


def nearest(plan: Plan, tries: int, say: Callable[[str], None]) -> Advice:
    """The first change of the list with which the program fits; at most `tries` are compiled.

    Changes whose weights, optimizer and batch alone exceed the chip are passed over without compiling.
    """
    step, compiled = plan.step, 0
    for config in changes(step.config, len(step.machine.devices)):
        changed = described(step, config)
        if changed is None or not changed.possible:
            continue
        if compiled == tries:
            break
        compiled += 1
        options = words(step.config, config)
        say(f"does not fit; trying {' '.join(options)} (at most {tries - compiled} more)")
        found = plan_step(changed)
        if found.memory.fits:
            return Advice(options, found, compiled)
    return Advice((), None, compiled)


def described(step: Step, config: TrainConfig) -> Step | None:
    """The step of another configuration; None where that makes no sense for this model and machine."""
    try:
        return describe_step(config, step.shape, step.machine)
    except UserError:
        return None


def changes(config: TrainConfig, devices: int) -> Iterator[TrainConfig]:
    """Configurations to try, the nearest first: each change alone, then one upon the other."""
    seen, together = {config}, config
    for change in CHANGES:
        for changed in change(config, devices):
            if changed not in seen:
                seen.add(changed)
                yield changed
    for change in CHANGES:
        for changed in change(together, devices):
            together = changed
            if changed not in seen:
                seen.add(changed)
                yield changed


def recompute(config: TrainConfig, devices: int) -> Iterator[TrainConfig]:
    """Keep each layer's input only."""
    if config.remat != "full":
        yield replace(config, remat="full")


def accumulate(config: TrainConfig, devices: int) -> Iterator[TrainConfig]:
    """More and smaller micro-batches, as far as the rows go."""
    data, fsdp, *_ = mesh_shape(config, devices)
    for count in range(config.accumulation + 1, config.rows // (data * fsdp) + 1):
        if config.rows % (count * data * fsdp) == 0:
            yield replace(config, accumulation=count)


def shard(config: TrainConfig, devices: int) -> Iterator[TrainConfig]:
    """Copies of the model give way to parts of it."""
    data = mesh_shape(config, devices)[0]
    if data > config.slices:
        yield replace(config, data_parallel=config.slices, fsdp=config.fsdp * (data // config.slices))


def spread(config: TrainConfig, devices: int) -> Iterator[TrainConfig]:
    """Fewer rows at a time, each over more chips."""
    data, fsdp, *_ = mesh_shape(config, devices)
    if fsdp % 2 or config.rows % (2 * config.accumulation):
        return
    fewer = replace(config, data_parallel=data, fsdp=fsdp // 2, accumulation=2 * config.accumulation)
    yield replace(fewer, context_parallel=2 * config.context_parallel)
    yield replace(fewer, tensor_parallel=2 * config.tensor_parallel)


def shorten(config: TrainConfig, devices: int) -> Iterator[TrainConfig]:
    """Weights and moments in 16 bits."""
    if not config.lora_rank and config.master_dtype == "float32":
        yield replace(config, master_dtype="bfloat16")


def adapt(config: TrainConfig, devices: int) -> Iterator[TrainConfig]:
    """Adapters instead of all weights."""
    if not config.lora_rank:
        yield replace(config, lora_rank=LORA_RANK)


CHANGES = (recompute, accumulate, shard, spread, shorten, adapt)
"""In the order of what they cost: time, time, network, network, exactness, another kind of training."""


def words(before: TrainConfig, after: TrainConfig) -> tuple[str, ...]:
    """The options that make one configuration of the other."""
    names = (name for name in vars(before) if getattr(before, name) != getattr(after, name))
    return tuple(f"--{name.replace('_', '-')} {getattr(after, name)}" for name in names)
