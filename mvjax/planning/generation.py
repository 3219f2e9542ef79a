"""The engine's generation loop, compiled for a chip that is not here."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from mvjax import settings
from mvjax.chips import GIB
from mvjax.engine import decode_loop
from mvjax.engine.limits import EngineConfig
from mvjax.engine.state import Sizes, empty_state
from mvjax.engine.tables import build_tables
from mvjax.models import DecoderStepModel
from mvjax.models.decode import PAGE
from mvjax.models.tensors import parameter_count
from mvjax.planning.machines import Machine
from mvjax.planning.program import Compiled, compile_on
from mvjax.planning.report import count_words, warning_lines
from mvjax.planning.shapes import Shape
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


@dataclass(frozen=True)
class GenerationPlan:
    """Of the loop with every branch of every request live. Bytes on the chip."""

    machine: Machine
    shape: Shape
    load: Load
    compiled: Compiled
    weights: int
    pages: int
    """Keys and values of all KV streams, full."""
    state: int
    """Of the interpreter, and tables."""

    @property
    def rest(self) -> int:
        """Temporaries at their peak, padding, results."""
        return max(0, self.compiled.total - self.compiled.code - self.weights - self.pages - self.state)

    @property
    def room(self) -> float:
        """What the program may take."""
        hbm, compiled = self.machine.chip.hbm, self.compiled
        return min(hbm, compiled.total - 1) if compiled.refused else hbm

    @property
    def fits(self) -> bool:
        """Whether the chip has room for it."""
        return self.compiled.total <= self.room

    @property
    def step_seconds(self) -> float | None:
        """A step at least: weights and KV streams read once at the peak rate, or the products at theirs. An estimate,
        not run; None for a chip without published figures."""
        chip, rows = self.machine.chip, self.load.requests * self.load.max_branches
        if not chip.flops:
            return None
        products = 2 * parameter_count(self.shape.config) * rows
        return max((self.weights + self.pages) / chip.bandwidth, products / chip.flops)


def plan_generation(shape: Shape, machine: Machine, load: Load, dtype: str) -> GenerationPlan:
    """Compiles the loop for the machine's first chip; `dtype` of weights, activations and KV streams.

    Raises:
        UserError: a load that makes no sense, or a program that the compiler refuses.
    """
    settings.validate(load, "plan: --")
    device = machine.devices[0]
    with jax.default_device(device):
        model = DecoderStepModel.described(shape.config, weight_dtype=dtype, page_size=PAGE)
    config = EngineConfig()
    tables = build_tables(vocabulary(shape), (), config.max_paths)
    pages = 1 + load.requests * math.ceil(load.slots / PAGE)
    slots = math.ceil(load.slots / PAGE) * PAGE
    sizes = Sizes(
        load.requests, slots, load.max_branches, config.max_depth, config.max_paths, tables.number.shape[1], pages
    )
    table = jnp.zeros((load.requests, slots // PAGE), jnp.int32)
    kv = jax.eval_shape(lambda: model.with_table(model.init_pages(pages), table))
    state = jax.eval_shape(lambda: empty_state(sizes))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype), tables)
    room, steps = jax.ShapeDtypeStruct((load.requests,), jnp.int32), jax.ShapeDtypeStruct((), jnp.int32)
    width = load.requests * load.max_branches
    run = functools.partial(decode_loop.run, model, width=width, narrower=0, log_steps=config.sync_steps)
    place = SingleDeviceSharding(device)
    function = jax.jit(run, in_shardings=place, out_shardings=place, donate_argnums=(2, 3))
    compiled = compile_on(machine, function, model.params, shapes, kv, state, room, steps)
    sizes_of = nbytes(model.params), nbytes((kv.k, kv.v)), nbytes(state)
    return GenerationPlan(machine, shape, load, compiled, *sizes_of)


def vocabulary(shape: Shape) -> VocabularyTables:
    """Tables of a vocabulary of that size: only their shapes count."""
    size = shape.config.vocab_size
    codes = np.full(size, -1, np.int8)
    codes[list(shape.tag_ids)] = range(len(shape.tag_ids))
    blank = np.zeros(size, bool)
    return VocabularyTables(codes, blank, blank, 0, 0, 0, ((0, 0),) * 64, shape.tag_ids, ())


def nbytes(tree: Any) -> int:
    """Bytes of a tree of shapes."""
    return sum(math.prod(x.shape) * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))


def fewer(
    plan: GenerationPlan, dtype: str, tries: int, say: Callable[[str], None]
) -> tuple[GenerationPlan | None, int]:
    """The nearest smaller load that fits: half the requests again and again, then half the slots."""
    load, tried = plan.load, 0
    while tried < tries and (load.requests > 1 or load.slots > PAGE):
        halved = {"requests": load.requests // 2} if load.requests > 1 else {"slots": load.slots // 2}
        load, tried = replace(load, **halved), tried + 1
        say(f"does not fit; trying --requests {load.requests} --slots {load.slots} (at most {tries - tried} more)")
        found = plan_generation(plan.shape, plan.machine, load, dtype)
        if found.fits:
            return found, tried
    return None, tried


def generation_json(plan: GenerationPlan, advice: GenerationPlan | None, tried: int) -> dict[str, Any]:
    """Plain values; bytes, seconds."""
    parts = {name: getattr(plan, name) for name in ("weights", "pages", "state", "rest")}
    parts |= {"code": plan.compiled.code, "total": plan.compiled.total, "room": plan.room}
    result: dict[str, Any] = {
        "model": plan.shape.source,
        "parameters": parameter_count(plan.shape.config),
        "topology": plan.machine.name,
        "load": vars(plan.load),
        "fits": plan.fits,
        "hbm": parts | {"margin": plan.room - plan.compiled.total},
        "compile_seconds": plan.compiled.seconds,
        "warnings": [asdict(warning) for warning in plan.compiled.warnings],
        "step_seconds_at_least": plan.step_seconds,
    }
    if tried:
        result["advice"] = {"tried": tried, "plan": generation_json(advice, None, 0) if advice else None}
    return result


def generation_text(plan: GenerationPlan, advice: GenerationPlan | None, tried: int) -> str:
    """A page."""
    load, rows = plan.load, plan.load.requests * plan.load.max_branches
    kinds = ("weights", plan.weights), ("keys and values", plan.pages), ("state and tables", plan.state)
    kinds += ("temporaries", plan.rest), ("code", plan.compiled.code), ("total", plan.compiled.total)
    left = (plan.room - plan.compiled.total) / GIB
    lines = [
        f"{plan.shape.source}, {count_words(parameter_count(plan.shape.config))} weights",
        f"{load.requests} requests of {load.max_branches} branches and {load.slots:,} tokens on one chip of "
        f"{plan.machine.name}; compiled in {plan.compiled.seconds:.0f} s, not run",
        "",
        "HBM of a chip, GiB",
        *(f"  {name:<18} {size / GIB:8.2f}" for name, size in kinds),
        f"  fits: {left:.2f} of {plan.room / GIB:.2f} are left"
        if plan.fits
        else f"  DOES NOT FIT: {-left:.2f} more than the {plan.room / GIB:.2f} there are",
    ]
    if plan.step_seconds:
        lines += [
            "",
            "A step with every branch live and every KV stream full, an estimate from peak rates, not a measurement",
            f"  at least {1e3 * plan.step_seconds:.2f} ms, {rows / plan.step_seconds:,.0f} tokens a second at most",
        ]
    if plan.compiled.warnings:
        lines += ["", *warning_lines(plan.compiled.warnings)]
    if advice is not None:
        smaller = advice.load
        lines += ["", f"The nearest load that fits: --requests {smaller.requests} --slots {smaller.slots}"]
    elif tried:
        lines += ["", f"None of {tried} smaller loads fits: take a chip with more memory or a smaller model."]
    return "\n".join(lines)
