"""`mvjax bench`: the benchmarks, each a ratio within one run."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import time
from typing import Annotated, Any

import tyro

from mvjax.bench import config as settings
from mvjax.bench.config import Bench
from mvjax.cli.options import parse
from mvjax.errors import UserError

BENCHES: dict[str, type[Bench]] = {
    "layout": settings.LayoutBench,
    "attention": settings.AttentionBench,
    "kernels": settings.KernelsBench,
    "engine": settings.EngineBench,
    "decode": settings.DecodeBench,
    "parallel": settings.ParallelBench,
    "serving": settings.ServingBench,
    "training": settings.TrainingBench,
    "memory": settings.MemoryBench,
    "curator": settings.CuratorBench,
    "independence": settings.IndependenceBench,
    "likelihood": settings.LikelihoodBench,
    "quantised": settings.QuantisedBench,
}
"""In the order in which `all` runs them."""
SERVING = ("fastapi", "uvicorn")


def main(argv: list[str]) -> int:
    """Run the verb; returns the exit status."""
    commands: list[Any] = [Annotated[kind, tyro.conf.subcommand(name)] for name, kind in BENCHES.items()]
    commands.append(Annotated[settings.AllBench, tyro.conf.subcommand("all")])
    union = commands[0]
    for command in commands[1:]:
        union = union | command
    chosen = parse(union, argv, "bench", description="Time mvjax against its bounds.")
    chosen.check()
    if isinstance(chosen, settings.AllBench):
        run_all(chosen)
    else:
        run(chosen)
    return 0


def run(chosen: Bench) -> None:
    """Run one benchmark, print its table, write its report. Interrupted, it prints what it has and writes nothing."""
    from rich.console import Console

    from mvjax.bench.report import Report

    name = next(name for name, kind in BENCHES.items() if kind is type(chosen))
    fields = {field.name: getattr(chosen, field.name) for field in dataclasses.fields(chosen)}
    console, report = Console(), Report(name, fields)
    if not console.is_terminal:
        console = Console(width=180)
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"{name} {time.monotonic() - began:6.1f} s  {what}", file=sys.stderr, flush=True)

    try:
        here = chosen.here() if isinstance(chosen, settings.ModelBench) else chosen
        importlib.import_module(f"mvjax.bench.{name}").measure(here, report, say)
    except KeyboardInterrupt:
        if report.rows:
            console.print(report.table())
        raise
    path = report.save(chosen.output)
    console.print(report.table())
    print(f"{path}\n")


def run_all(chosen: settings.AllBench) -> None:
    """Run all benchmarks; what cannot run here is named with its reason."""
    skipped = []
    for name, kind in BENCHES.items():
        own: dict[str, Any] = {"output": chosen.output}
        if chosen.repeat is not None:
            own["repeat"] = chosen.repeat
        if issubclass(kind, settings.ModelBench):
            own |= {"model": chosen.model, "tokenizer": chosen.tokenizer, "cache": chosen.cache}
        if kind in (settings.ParallelBench, settings.LikelihoodBench, settings.ServingBench):
            own["adapter"] = chosen.adapter
        if reason := lacking(name, chosen):
            skipped.append(f"{name}: {reason}")
            print(f"skipped {skipped[-1]}", file=sys.stderr)
            continue
        run(kind(**own))
    if skipped:
        print("skipped:\n" + "\n".join(f"  {line}" for line in skipped))


def lacking(name: str, chosen: settings.AllBench) -> str | None:
    """Why a benchmark cannot run here; None where it can."""
    if name == "kernels" and importlib.util.find_spec("libtpu") is None:
        return "libtpu is not installed (make bench-kernels sets it up)"
    if name in ("training", "memory"):
        from mvjax.bench.torch_model import missing

        return missing()
    if name == "serving" and any(importlib.util.find_spec(library) is None for library in SERVING):
        return "fastapi and uvicorn are not installed (pip install 'mvjax[serve]')"
    if name in ("parallel", "likelihood", "serving"):
        from mvjax.bench.parallel import find_adapter

        try:
            find_adapter(chosen.adapter)
        except UserError as error:
            return f"{error} (--adapter none runs scripted transcripts)"
    return None
