"""The plan of a generation loop in words and in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mvjax.chips import GIB
from mvjax.models.tensors import parameter_count
from mvjax.planning.collectives import Collective
from mvjax.planning.decode_step import DecodeStep
from mvjax.planning.estimate import Times
from mvjax.planning.generation import GenerationPlan
from mvjax.planning.loop_copies import LoopBuffer
from mvjax.planning.report import count_words, warning_lines

MIB = 2**20


def generation_json(plan: GenerationPlan, advice: GenerationPlan | None, tried: int) -> dict[str, Any]:
    """Plain values; bytes, seconds, of each chip unless said otherwise."""
    service, machine, times = plan.service, plan.service.machine, plan.times
    parts = {name: getattr(plan, name) for name in ("weights", "pages", "state", "rest")}
    parts |= {"code": plan.compiled.code, "total": plan.compiled.total, "room": plan.room}
    result: dict[str, Any] = {
        "model": service.shape.source,
        "parameters": parameter_count(service.shape.config),
        "topology": machine.name,
        "chips": len(machine.devices),
        "tensor_parallel": service.chips,
        "number_formats": {name: str(dtype) for name, dtype in asdict(service.model.formats).items()},
        "load": asdict(plan.load),
        "fits": plan.fits,
        "hbm": parts | {"margin": plan.room - plan.compiled.total},
        "kv_tokens_that_fit": plan.tokens,
        "compile_seconds": plan.compiled.seconds,
        "warnings": [asdict(warning) for warning in plan.compiled.warnings],
        "step_seconds_at_least": times.bound if times else None,
    }
    if (step := plan.step) is not None:
        result["step"] = {
            "collectives_asked_for": [asdict(collective) for collective in step.asked],
            "collectives": [asdict(collective) for collective in step.collectives],
            "weight_copies": [copy_json(copy) for copy in step.weight_copies],
            "page_copies": [copy_json(copy) for copy in step.page_copies],
            "sort_widths": list(step.sorts),
            "kernels": step.kernels._asdict(),
        }
    if times is not None:
        result["estimate"] = asdict(times) | {"bound": times.bound, "bound_by": times.bound_by}
    if tried:
        result["advice"] = {"tried": tried, "plan": generation_json(advice, None, 0) if advice else None}
    return result


def copy_json(copy: LoopBuffer) -> dict[str, Any]:
    """A buffer that every step makes."""
    return {"instruction": str(copy), "shape": list(copy.buffer.shape), "times": copy.times, "nbytes": copy.nbytes}


def generation_text(plan: GenerationPlan, advice: GenerationPlan | None, tried: int) -> str:
    """A page."""
    service, load, machine = plan.service, plan.load, plan.service.machine
    split = f"on {service.chips} of the {len(machine.devices)} chips of"
    if service.chips == len(machine.devices):
        split = "on"
    if service.chips > 1:
        split = f"tensor parallel {service.chips} {split}"
    kinds = ("weights", plan.weights), ("keys and values", plan.pages), ("state and tables", plan.state)
    if plan.compiled.seconds:
        kinds += ("temporaries", plan.rest), ("code", plan.compiled.code)
    kinds += (("total" if plan.compiled.seconds else "total of these", plan.compiled.total),)
    left = (plan.room - plan.compiled.total) / GIB
    formats, count = service.model.formats, parameter_count(service.shape.config)
    made = f"compiled in {plan.compiled.seconds:.0f} s, not run" if plan.compiled.seconds else "not compiled"
    lines = [
        f"{service.shape.source}, {count_words(count)} weights",
        f"weights in {formats.weights}, activations in {formats.activations}, keys and values in {formats.kv}",
        f"{load.requests} requests of {load.max_branches} branches and {load.slots:,} tokens, {split} {machine.name}; "
        f"{made}",
        "",
        "HBM of a chip, GiB",
        *(f"  {name:<18} {size / GIB:8.2f}" for name, size in kinds),
        f"  fits: {left:.2f} of {plan.room / GIB:.2f} are left"
        if plan.fits
        else f"  DOES NOT FIT: {-left:.2f} more than the {plan.room / GIB:.2f} there are",
        f"  KV tokens that fit beside the rest: {plan.tokens:,}; this load fills {load.requests * load.slots:,}",
    ]
    if plan.step is not None:
        lines += ["", f"A step of {load.rows} rows, as compiled", *step_lines(plan.step)]
    if (times := plan.times) is not None:
        lines += ["", *time_lines(times, load.rows)]
    if plan.compiled.warnings:
        lines += ["", *warning_lines(plan.compiled.warnings)]
    if advice is not None:
        smaller = advice.load
        lines += ["", f"The nearest load that fits: --requests {smaller.requests} --slots {smaller.slots}"]
    elif tried:
        lines += ["", f"None of {tried} smaller loads fits: take more chips or larger ones, or a smaller model."]
    elif plan.weights > plan.room:
        lines += ["", f"The weights alone do not fit: {chips_words(plan)}."]
    return "\n".join(lines)


def chips_words(plan: GenerationPlan) -> str:
    """How many chips would hold the weights."""
    if (need := plan.chips_needed) is None:
        return "no number of these chips that could share the model holds them; take larger ones or a smaller model"
    return f"--tensor-parallel {need} would hold them, on a machine of at least {need} such chips"


def step_lines(step: DecodeStep) -> list[str]:
    """What the compiled step does beside its work."""
    few, most = step.kernels
    widest = f", of {step.sorts[0]:,} numbers a row at most" if step.sorts else ""
    return [
        f"  collectives of the model    {collective_words(step.asked)}",
        f"  as compiled                 {collective_words(step.collectives)}",
        f"  copies of weights           {copy_words(step.weight_copies)}",
        f"  copies of keys and values   {copy_words(step.page_copies)}",
        f"  sorts                       {len(step.sorts) or 'none'}{widest}",
        f"  kernels                     {few:,.0f} where every branch takes its likeliest token; {most:,.0f} at most, "
        "where requests sample and blocks open or close",
    ]


def collective_words(found: Sequence[Collective]) -> str:
    """How many of each kind, and their bytes."""
    if not found:
        return "none"
    counts = ", ".join(f"{one.count:,.0f} {one.kind}" for one in found)
    return f"{counts}; a chip sends {sum(one.nbytes for one in found) / MIB:,.2f} MiB"


def copy_words(found: Sequence[LoopBuffer]) -> str:
    """How many, and their bytes."""
    if not found:
        return "none"
    times, nbytes = sum(one.times for one in found), sum(one.nbytes for one in found)
    return f"{times:,.0f}, {nbytes / MIB:,.1f} MiB written"


def time_lines(times: Times, rows: int) -> list[str]:
    """The roofline."""
    parts = (f"{name} {1e3 * getattr(times, name):.2f} ms" for name in ("compute", "memory", "network"))
    least, rate = 1e3 * times.bound, rows / times.bound
    return [
        "Its time with every branch live and every KV stream full, an estimate from peak rates, not a measurement",
        f"  {', '.join(parts)}, each as if alone; no latencies",
        f"  at least {least:.2f} ms, by {times.bound_by}; {rate:,.0f} tokens a second at most",
    ]
