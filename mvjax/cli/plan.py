"""`mvjax plan CONFIG.py`: what a run will need on a machine that need not be here, and whether it fits."""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mvjax import settings
from mvjax.errors import UserError

if TYPE_CHECKING:
    from mvjax.training.config import TrainConfig

FITS, DOES_NOT_FIT = 0, 2

USAGE = """usage: mvjax plan CONFIG.py [--topology CHIPS] [--json] [--tries N] [--generate ...] [--SECTION.FIELD VALUE]

Compiles the training step of a configuration for a machine that need not be here, and prints what it needs: memory of a
chip by kind and whether it fits, bytes over the network by kind and axis of the mesh, operations, a step's time at
best. Where it does not fit, the nearest change that does. Nothing is allocated; TPUs need libtpu, GPUs the CUDA plugin
(pip install 'mvjax[aot]'). The exit status is 0 where it fits and 2 where it does not.

  --topology CHIPS    v5p:4x4x8, v5e:16x16, v6e:16x16, v4:4x4x4, h100:8, h200:8, b200:8, a100:8 (16, 24, ... for several
                      hosts), cpu:1; by default the configuration's `topology`
  --mesh.slices N     N such slices, joined by the data-centre network (a field of the configuration)
  --generate          the engine's loop instead, for the trained model: memory, KV tokens that fit, collectives, copies,
                      sorts and kernels of a step, its time at best
    --requests N          requests at a time (4)
    --max-branches N      branches of each (8)
    --slots N             tokens of each (4096)
    --tensor-parallel N   chips that share the model, each with a part of every layer; as few as hold it by default
    --weight-dtype TYPE   number format of weights: auto, float32, bfloat16, int8, fp8 (auto, as mvjax generate)
    --kv-dtype TYPE       number format of keys and values: auto, float32, bfloat16, int8 (auto)
  --tries N           programs to compile at most in search of one that fits (4; 0: none)
  --json              print JSON
  --model.path shape:NAME
                      a published shape, where the model is not here; by default the configuration's `shape`

Every field of the configuration can be given as for `mvjax train`, see mvjax train --help."""

OWN = {"topology": str, "tries": int, "requests": int, "max_branches": int, "slots": int, "tensor_parallel": int}
OWN |= {"weight_dtype": str, "kv_dtype": str}
SWITCHES = ("generate", "json")
LOAD = ("requests", "max_branches", "slots")
MODEL = ("tensor_parallel", "weight_dtype", "kv_dtype")


class Words(NamedTuple):
    """The command line, taken apart."""

    own: dict[str, Any]
    """Options of this verb."""
    fields: list[str]
    """Words for fields of the configuration."""


def main(argv: list[str]) -> int:
    """Run the verb; returns 0 where the program fits, 2 where it does not."""
    if not argv or {"-h", "--help"} & set(argv):
        print(USAGE)
        return FITS
    if argv[0].startswith("-"):
        raise UserError(f"plan: the configuration comes first, as in `mvjax plan configs/demo.py {argv[0]} ...`")
    # Nothing runs on an accelerator here, and one that is here may be busy.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # What the compilers warn of is in the plan.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    from mvjax.training.config_file import load_config, override

    path = Path(argv[0])
    words = split(argv[1:])
    config = override(load_config(path), words.fields).validate()
    preset = runpy.run_path(str(path))
    topology, shape = words.own.get("topology") or preset.get("topology"), preset.get("shape", "")
    if not topology:
        raise UserError(f"{path}: names no topology; give --topology, such as v5p:4x4x8 or h100:8")
    for name, value in {"topology": topology, "shape": shape}.items():
        if not isinstance(value, str):
            raise UserError(f"{path}: {name} = {value!r} must be a string")
    if words.own.get("generate"):
        return generate(config, shape, topology, words.own)
    if given := [name for name in (*LOAD, *MODEL) if name in words.own]:
        raise UserError(f"plan: --{given[0].replace('_', '-')} goes with --generate")
    return train(config, shape, topology, words.own)


def train(config: TrainConfig, shape: str, topology: str, own: dict[str, Any]) -> int:
    """Plan a training step."""
    from mvjax.planning.advice import nearest
    from mvjax.planning.machines import machine
    from mvjax.planning.plan import plan_step
    from mvjax.planning.program import describe_step
    from mvjax.planning.report import to_json, to_text
    from mvjax.planning.shapes import find_shape

    model = find_shape(config.model.path, shape, config.model.tokenizer, cache=config.model.cache)
    step = describe_step(config, model, machine(topology, config.mesh.slices))
    if step.possible:
        say(f"compiling the step of {config.name} for {step.machine.title}")
    plan = plan_step(step)
    advice = None
    if not plan.memory.fits and (tries := own.get("tries", 4)):
        advice = nearest(plan, tries, say)
    print(json.dumps(to_json(plan, advice), indent=2) if own.get("json") else to_text(plan, advice))
    return FITS if plan.memory.fits else DOES_NOT_FIT


def generate(config: TrainConfig, shape: str, topology: str, own: dict[str, Any]) -> int:
    """Plan the engine's loop."""
    from mvjax.planning.generation import Load, describe_service, fewer, plan_generation
    from mvjax.planning.generation_report import generation_json, generation_text
    from mvjax.planning.machines import machine
    from mvjax.planning.shapes import find_shape

    model = find_shape(config.model.path, shape, config.model.tokenizer, cache=config.model.cache)
    load = Load(**{name: own[name] for name in LOAD if name in own})
    settings.validate(load, "plan: --")
    service = describe_service(model, machine(topology), **{name: own[name] for name in MODEL if name in own})
    say(f"compiling the generation loop for {service.chips} chip{'s' * (service.chips > 1)} of {topology}")
    plan = plan_generation(service, load)
    found, tried = None, 0
    if not plan.fits:
        found, tried = fewer(plan, own.get("tries", 4), say)
    as_json = own.get("json")
    print(json.dumps(generation_json(plan, found, tried), indent=2) if as_json else generation_text(plan, found, tried))
    return FITS if plan.fits else DOES_NOT_FIT


def split(words: list[str]) -> Words:
    """This verb's options from those of the configuration; UserError for a value that is missing or of a wrong kind."""
    own: dict[str, Any] = {}
    fields: list[str] = []
    rest = iter(words)
    for word in rest:
        name, _, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not word.startswith("--") or name not in (*OWN, *SWITCHES):
            fields.append(word)
            continue
        if name in SWITCHES:
            own[name] = True
            continue
        value = value or next(rest, "")
        if OWN[name] is int and not value.isdigit():
            raise UserError(f"plan: --{name.replace('_', '-')} needs a whole number, not {value!r}")
        if not value or value.startswith("--"):
            raise UserError(f"plan: --{name.replace('_', '-')} needs a value")
        own[name] = int(value) if OWN[name] is int else value
    return Words(own, fields)


def say(text: str) -> None:
    """A line of progress, beside the output."""
    print(text, file=sys.stderr, flush=True)
