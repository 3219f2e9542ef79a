"""Engine step time over the bare forward's, what a fork with its reduce costs, and what is compiled on the way."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from mvjax.bench.bare import BareLoop
from mvjax.bench.config import SYNC, EngineBench, RowsBench
from mvjax.bench.many_requests import measure_many
from mvjax.bench.report import Bar, Report
from mvjax.bench.scripted import (
    GREEDY,
    SAMPLED,
    Run,
    Script,
    drive,
    fitting_steps,
    scripted_engine,
)
from mvjax.bench.timing import CompilationCounter, Spread, ratios
from mvjax.engine.engine import Engine
from mvjax.errors import UserError
from mvjax.models import DecoderStepModel
from mvjax.planning.loop_copies import loop_copies

KINDS = {"greedy": GREEDY, "sampled": SAMPLED}
STEP_BAR, FORK_BAR = 1.15, 2.0


def measure(config: EngineBench, report: Report, say: Callable[[str], None]) -> None:
    """Fill the report. Engine and bare forward take turns, stay by stay; greedy and sampled, row count by row count;
    then many requests at once."""
    model, engine, scripts = timed_engine(config, say)
    bare = {}
    for paths in config.rows:
        say(f"compiling the bare forward for {paths} rows")
        bare[paths] = BareLoop(model, model.params, paths, config.slots)
    for script in scripts:
        for kind, sampling in KINDS.items():
            say(f"warm-up: {script.paths} rows, {kind}")
            drive(engine, script.prompt, script.limits, script.mode, sampling, bare[script.paths])

    before = engine.compilations
    runs: dict[tuple[int, str], list[tuple[Run, float]]] = {(n, kind): [] for n in config.rows for kind in KINDS}
    with CompilationCounter().counting() as compiled:
        for turn in range(config.repeat):
            for script in scripts:
                for kind, sampling in KINDS.items():
                    say(f"{script.paths} rows, {kind}: {turn + 1} of {config.repeat}")
                    steps: list[float] = []
                    run = drive(
                        engine,
                        script.prompt,
                        script.limits,
                        script.mode,
                        sampling,
                        lambda steps=steps, loop=bare[script.paths]: steps.append(loop()),
                    )
                    runs[script.paths, kind].append((run, statistics.median(steps)))
    recompiled = engine.compilations - before

    for (paths, kind), pairs in runs.items():
        step = [statistics.median(run.steady(paths)) for run, _ in pairs]
        forward = [bare_step for _, bare_step in pairs]
        over = ratios(step, forward)
        row = {
            "rows": paths,
            "choice": kind,
            "engine ms": Spread.of([1e3 * value for value in step]),
            "bare ms": Spread.of([1e3 * value for value in forward]),
            "engine/bare": over,
        }
        report.bars.append(Bar(f"engine step over bare forward, {paths} rows, {kind}", over, STEP_BAR))
        if paths > 1:
            costs = [fork_cost(run, *single) for (run, _), single in zip(pairs, runs[1, kind], strict=True)]
            row["fork+reduce, steps"] = Spread.of(costs)
            row["idle steps"] = max(run.result.decode_steps - run.result.critical_path - 1 for run, _ in pairs)
            report.bars.append(
                Bar(f"fork and reduce in decode steps, {paths} rows, {kind}", Spread.of(costs), FORK_BAR)
            )
        report.rows.append(row)
    copies = find_copies(engine, bare, model)
    report.bars.append(Bar("programs compiled by the engine in the steady state", float(recompiled), 0))
    report.bars.append(Bar("programs compiled by anybody in the steady state", float(compiled.count), 0))
    report.bars.append(Bar("copies of a KV stream buffer in the loops", float(len(copies)), 0))
    report.notes += copies
    report.notes.append(
        f"KV stream of {config.slots} slots, {SYNC} steps a stay; the engine's time includes the steering of the "
        "script, the host's side of a stay, and the interpreter for "
        f"{engine.config.max_branches} rows, however many are live"
    )
    report.notes.append(
        "fork+reduce: time of the two stays beyond steady steps, in bare single-row steps, and idle steps"
    )
    measure_many(config, model, engine.tokenizer, report, say)


def fork_cost(run: Run, single: Run, bare_step: float) -> float:
    """Steps of one row that a fork and its reduce took beyond the tokens written: time of the stays in which they
    happen beyond what their steps take else, and steps in which no token was made.

    Args:
        run: of a script with one block.
        single: of one row, in the same repetition.
        bare_step: the bare forward's step at one row then.
    """
    live = run.live
    most = max(live)
    usual = {1: statistics.median(single.steady(1)), most: statistics.median(run.steady(most))}
    forked, reduced = live.index(most) - 1, len(live) - 1 - live[::-1].index(most)
    stays = [run.stays[place] for place in {run.stay_of(forked), run.stay_of(reduced)}]
    extra = sum(stay.seconds - sum(usual[rows] for rows in stay.live) for stay in stays)
    return extra / bare_step + run.result.decode_steps - run.result.critical_path - 1


def timed_engine(config: RowsBench, say: Callable[[str], None]) -> tuple[DecoderStepModel, Engine, list[Script]]:
    """The model, an engine of it, and a script for each of `config.rows` that keeps them live long enough to be timed.

    Raises:
        UserError: the KV stream is too short for that.
    """
    from mvjax.models.load import load_for_generation

    say("loading the model")
    tokenizer, model = load_for_generation(config.model, tokenizer=config.tokenizer, **config.loading)
    rows = max(config.max_branches, *config.rows)
    plans = [(paths, fitting_steps(paths, config.steps, config.slots, rows)) for paths in config.rows]
    for paths, steps in plans:
        if steps < 3 * SYNC:
            raise UserError(
                f"a KV stream of {config.slots} slots holds {max(steps, 0)} steps of {paths} rows, {3 * SYNC} are "
                "needed; give more --slots or fewer --rows"
            )
    engine, scripts = scripted_engine(model, model.params, tokenizer, plans, config.slots, rows, config.row_counts)
    return model, engine, scripts


def find_copies(engine: Engine, bare: dict[int, BareLoop], model: DecoderStepModel) -> list[str]:
    """Where the engine's loops and the bare ones make a buffer of a KV stream array's size; empty as it should be."""
    import jax

    slots = engine.config.max_slots
    kv = jax.eval_shape(lambda: model.local.init_kv(1, slots))
    shapes = {leaf.shape for leaf in jax.tree.leaves(kv)}
    programs = {f"engine, {name}": text for name, text in engine.loop_programs().items()}
    programs |= {f"bare, {rows} rows": loop.program for rows, loop in bare.items()}
    return [f"{name}: {copy}" for name, text in programs.items() for copy in loop_copies(text, *shapes)]
