"""A plan in words and in numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mvjax.chips import GIB
from mvjax.planning.advice import Advice
from mvjax.planning.compiler_warnings import CompilerWarning
from mvjax.planning.estimate import Times
from mvjax.planning.memory import Memory
from mvjax.planning.plan import Plan
from mvjax.planning.work import Work
from mvjax.training.config import TrainConfig

SMALL = 1e-3
"""Collectives of a smaller share of the bytes are not shown one by one."""


def to_json(plan: Plan, advice: Advice | None = None) -> dict[str, Any]:
    """Plain values; bytes, seconds, operations, per chip unless said otherwise."""
    step, work = plan.step, plan.work
    result: dict[str, Any] = {
        "name": step.config.name,
        "model": step.shape.source,
        "parameters": step.parameters,
        "topology": step.machine.name,
        "slices": step.machine.slices,
        "chips": len(step.machine.devices),
        "mesh": step.mesh,
        "fits": plan.memory.fits,
        "hbm": asdict(plan.memory) | {"margin": plan.memory.margin},
        "compiled": step.possible,
        "compile_seconds": plan.seconds,
        "warnings": [asdict(warning) for warning in plan.warnings],
        "model_flops_all_chips": plan.model_flops,
    }
    if work is not None:
        result["collectives"] = [asdict(collective) for collective in plan.collectives]
        result["work"] = asdict(work) | {"flops": work.flops}
    if plan.times is not None:
        result["estimate"] = asdict(plan.times) | {"bound": plan.times.bound, "mfu_at_most": plan.mfu}
    if advice is not None:
        result["advice"] = {"options": advice.words, "tried": advice.tried}
        result["advice"] |= {"plan": to_json(advice.plan)} if advice.plan else {}
    return result


def to_text(plan: Plan, advice: Advice | None = None) -> str:
    """A page."""
    step = plan.step
    config, chips = step.config, len(step.machine.devices)
    lines = [
        f"{config.name}: {step.shape.source}, {count_words(step.parameters)} weights"
        + (f", {count_words(step.adapters)} of adapters" if step.adapters is not None else ""),
        f"{config.data.rows} rows of {config.data.row_length:,} tokens in {micro_batches(config)}, {numbers(config)}, "
        f"remat {config.model.remat}",
        f"{step.machine.title}, {mesh_words(step.mesh)}; "
        + (f"compiled in {plan.seconds:.0f} s, not run" if step.possible else "not compiled"),
        "",
        *memory_lines(plan.memory, step.possible),
    ]
    if plan.work is not None:
        lines += ["", *network_lines(plan), "", *work_lines(plan.work, plan.model_flops / chips)]
    if plan.times is not None:
        lines += ["", *time_lines(plan.times, plan.mfu)]
    if plan.warnings:
        lines += ["", *warning_lines(plan.warnings)]
    if advice is not None:
        lines += ["", *advice_lines(plan, advice)]
    return "\n".join(lines)


def count_words(count: int) -> str:
    """A number of weights."""
    return f"{count / 1e9:.2f} billion" if count >= 1e9 else f"{count / 1e6:.3g} million"


def micro_batches(config: TrainConfig) -> str:
    """Parts of a step's batch."""
    count = config.data.accumulation
    return "one batch" if count == 1 else f"{count} micro-batches"


def numbers(config: TrainConfig) -> str:
    """Element types."""
    if config.lora.rank:
        return f"LoRA of rank {config.lora.rank} over {config.model.dtype}"
    return f"{config.model.dtype} over weights in {config.model.master_dtype}"


def mesh_words(mesh: dict[str, int]) -> str:
    """The axes that split something."""
    return " x ".join(f"{axis} {size}" for axis, size in mesh.items() if size > 1) or "no mesh"


def memory_lines(memory: Memory, compiled: bool) -> list[str]:
    """The table of memory."""
    rows = [("weights", memory.weights), ("optimizer", memory.optimizer), ("batch", memory.batch)]
    if memory.activations is not None:
        rows.append(("activations kept for the backward pass", memory.activations))
    if memory.gradients is not None:
        rows.append(("gradients of the layers", memory.gradients))
    other = "temporaries" if memory.activations is None else "other temporaries"
    if compiled:
        rows += [(other, memory.rest), ("code", memory.code)]
    rows.append(("total" if compiled else "total of these", memory.total))
    width = max(len(name) for name, _ in rows)
    lines = ["HBM of a chip, GiB", *(f"  {name:<{width}} {nbytes / GIB:8.2f}" for name, nbytes in rows)]
    room, margin = memory.room / GIB, memory.margin / GIB
    if memory.fits:
        return [*lines, f"  fits: {margin:.2f} of {room:.2f} are left ({margin / room:.0%})"]
    return [*lines, f"  DOES NOT FIT: {-margin:.2f} more than the {room:.2f} there are"]


def network_lines(plan: Plan) -> list[str]:
    """The table of collectives."""
    if not plan.collectives:
        return ["No collectives."]
    whole = sum(collective.nbytes for collective in plan.collectives)
    lines, rest = ["Sent by a chip in a step, GiB"], []
    for collective in plan.collectives:
        if collective.nbytes < SMALL * whole:
            rest.append(collective)
            continue
        axes = " + ".join(collective.axes)
        lines.append(
            f"  {collective.kind:<20} {axes:<18} {collective.nbytes / GIB:9.2f}   {collective.count:,.0f} times"
        )
    if rest:
        nbytes, count = (sum(getattr(one, name) for one in rest) for name in ("nbytes", "count"))
        lines.append(f"  {'smaller ones':<39} {nbytes / GIB:9.2f}   {count:,.0f} times")
    return [*lines, f"  {'total':<39} {whole / GIB:9.2f}"]


def work_lines(work: Work, need: float) -> list[str]:
    """Operations of a chip, those of its program and those that the model itself needs."""
    return [
        "Operations of a chip in a step, 10^12 (rows taken for one causal document each, all of it target)",
        f"  matrix products      {work.products / 1e12:12,.1f}",
        f"  attention kernels    {work.attention / 1e12:12,.1f}",
        f"  the model's own need {need / 1e12:12,.1f}   the program makes {work.flops / need:.2f} times that",
    ]


def time_lines(times: Times, mfu: float | None) -> list[str]:
    """The roofline."""
    parts = f"compute {times.compute:.3g} s, memory {times.memory:.3g} s, network {times.network:.3g} s"
    return [
        "Time of a step, an estimate from peak rates, not a measurement",
        f"  {parts}, each as if alone",
        f"  at least {times.bound:.3g} s, by {times.bound_by}; so MFU is {mfu:.0%} at most",
    ]


def warning_lines(warnings: Sequence[CompilerWarning]) -> list[str]:
    """What the compiler warned of."""
    often = ["" if warning.count == 1 else f"{warning.count} times: " for warning in warnings]
    return ["The compiler warns", *(f"  {count}{warning.text}" for count, warning in zip(often, warnings))]


def advice_lines(plan: Plan, advice: Advice) -> list[str]:
    """What to change."""
    if advice.plan is not None:
        memory = advice.plan.memory
        return [
            f"The nearest change that fits: {' '.join(advice.words)}",
            f"  {memory.total / GIB:.2f} GiB of {memory.room / GIB:.2f}, tried {advice.tried}",
        ]
    tried = f"None of the {advice.tried} nearest changes makes it fit" if advice.tried else "No change makes it fit"
    lines = [f"{tried}: take more chips or shorter rows."]
    if not plan.step.possible:
        whole = plan.step.arguments.total * len(plan.step.machine.devices)
        least = math.ceil(whole / plan.step.machine.chip.hbm)
        lines.append(f"  Weights, optimizer and batch alone fill {least} of these chips, split as they are here.")
    return lines
