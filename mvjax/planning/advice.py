"""The nearest change that makes a program fit: a short list of them, each tried by a real compilation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mvjax.errors import UserError
from mvjax.planning.plan import Plan, plan_step
from mvjax.planning.program import Step, describe_step
from mvjax.settings import leaves
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
    if config.model.remat != "full":
        yield config.replace(model={"remat": "full"})


def accumulate(config: TrainConfig, devices: int) -> Iterator[TrainConfig]:
    """More and smaller micro-batches, as far as the rows go."""
    data, fsdp, *_ = mesh_shape(config.mesh, devices)
    for count in range(config.data.accumulation + 1, config.data.rows // (data * fsdp) + 1):
        if config.data.rows % (count * data * fsdp) == 0:
            yield config.replace(data={"accumulation": count})


def shard(config: TrainConfig, devices: int) -> Iterator[TrainConfig]:
    """Copies of the model give way to parts of it."""
    data = mesh_shape(config.mesh, devices)[0]
    if data > (slices := config.mesh.slices):
        yield config.replace(mesh={"data": slices, "fsdp": config.mesh.fsdp * (data // slices)})


def spread(config: TrainConfig, devices: int) -> Iterator[TrainConfig]:
    """Fewer rows at a time, each over more chips."""
    data, fsdp, *_ = mesh_shape(config.mesh, devices)
    if fsdp % 2 or config.data.rows % (2 * config.data.accumulation):
        return
    for axis in ("context", "tensor"):
        mesh = {"data": data, "fsdp": fsdp // 2, axis: 2 * getattr(config.mesh, axis)}
        yield config.replace(mesh=mesh, data={"accumulation": 2 * config.data.accumulation})


def adapt(config: TrainConfig, devices: int) -> Iterator[TrainConfig]:
    """Adapters instead of all weights."""
    if not config.lora.rank:
        yield config.replace(lora={"rank": LORA_RANK})


CHANGES = (recompute, accumulate, shard, spread, adapt)
"""In the order of what they cost: time, time, network, network, another kind of training."""


def words(before: TrainConfig, after: TrainConfig) -> tuple[str, ...]:
    """The options that make one configuration of the other."""
    pairs = zip(leaves(before), leaves(after))
    return tuple(f"--{new.name.replace('_', '-')} {new.value}" for old, new in pairs if old.value != new.value)
