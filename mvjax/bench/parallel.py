"""Wall clock of the parallel over the sequential schedule, beside what the bare forward allows (Amdahl)."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mvjax.bench.bare import BareLoop
from mvjax.bench.config import ParallelBench
from mvjax.bench.report import Report
from mvjax.bench.scripted import RowsRanShort, bucket, rows_of_steps, scripted_engine
from mvjax.bench.timing import Spread
from mvjax.engine.engine import Engine
from mvjax.engine.limits import EngineConfig, Limits, Mode
from mvjax.engine.result import Result
from mvjax.errors import UserError

SCHEDULES: tuple[Mode, ...] = ("parallel", "sequential")


class Item:
    """A prompt with its limits, and what was measured of it."""

    def __init__(self, name: str, degree: int, prompt: Sequence[int], limits: Limits):
        self.name, self.degree, self.prompt, self.limits = name, degree, prompt, limits
        self.rows: list[int] = []
        """Live rows of each step of the parallel schedule."""
        self.results: dict[str, list[Result]] = {mode: [] for mode in SCHEDULES}
        self.bounds: list[float] = []
        """By repetition."""

    def run(self, engine: Engine, mode: Mode) -> Result:
        """Answer the prompt once."""
        return engine.generate([self.prompt], limits=self.limits, mode=mode)[0]

    @property
    def result(self) -> Result:
        """One of the answers."""
        return self.results["parallel"][0]

    @property
    def same(self) -> bool:
        """Whether every run of either schedule gave the same tokens."""
        answers = [result.tokens.tolist() for results in self.results.values() for result in results]
        return all(tokens == answers[0] for tokens in answers)

    def walls(self, mode: Mode) -> list[float]:
        """Seconds in the loop by repetition: without the prefill, which is the same for both schedules."""
        return [result.timings.decode for result in self.results[mode]]

    @property
    def speed_up(self) -> list[float]:
        """Wall clock of the sequential over the parallel schedule, by repetition."""
        return [b / a for a, b in zip(self.walls("parallel"), self.walls("sequential"), strict=True)]


def measure(config: ParallelBench, report: Report, say: Callable[[str], None]) -> None:
    """Fill the report: a row per degree. The schedules and the bare forward take turns in every repetition."""
    from mvjax.models.load import load_for_generation

    adapter = find_adapter(config.adapter)
    say("loading the model")
    tokenizer, model = load_for_generation(config.model, adapter, tokenizer=config.tokenizer, **config.loading)
    if adapter is None:
        plans = [(degree, config.path_steps) for degree in config.degrees]
        engine, scripts = scripted_engine(
            model, model.params, tokenizer, plans, config.slots, config.max_branches, config.row_counts
        )
        items = [Item(f"script-{script.paths}", script.paths, script.prompt, script.limits) for script in scripts]
    else:
        engine_config = EngineConfig(
            requests=1,
            max_branches=config.max_branches,
            row_counts=config.row_counts,
            max_slots=config.slots,
            share_pages=False,
        )
        engine = Engine(model, model.params, tokenizer, engine_config)
        items = [item for degree in config.degrees for item in synthetic_items(config, tokenizer, degree)]

    bare: dict[int, BareLoop] = {}
    for item in list(items):
        say(f"warm-up: {item.name}")
        item.run(engine, "sequential")
        try:
            item.rows = rows_of_steps(item.run(engine, "parallel"))
        except RowsRanShort:
            items.remove(item)
            report.notes.append(f"{item.name} is left out: its paths had to wait for rows (--max-branches)")
            continue
        for rows in {bucket(live, engine.config) for live in item.rows} - set(bare):
            say(f"compiling the bare forward for {rows} rows")
            bare[rows] = BareLoop(model, model.params, rows, config.slots)
            bare[rows]()
    before = engine.compilations
    for turn in range(config.repeat):
        for item in items:
            say(f"{item.name}: {turn + 1} of {config.repeat}")
            for mode in SCHEDULES if turn % 2 == 0 else reversed(SCHEDULES):
                item.results[mode].append(item.run(engine, mode))
            steps = {rows: statistics.median([loop(), loop()]) for rows, loop in bare.items()}
            item.bounds.append(bound(item.rows, steps, engine.config))
    fill(report, config, items)
    if engine.compilations > before:
        report.notes.append(f"{engine.compilations - before} programs were compiled while time was taken")


def fill(report: Report, config: ParallelBench, items: Sequence[Item]) -> None:
    """A row per degree: medians over its items and the repetitions."""
    for degree in config.degrees:
        group = [item for item in items if item.degree == degree]
        if not group:
            continue
        rises = [value for item in group for value in item.speed_up]
        bounds = [value for item in group for value in item.bounds]
        efficiencies = [value / item.result.degree for item in group for value in item.speed_up]
        row: dict[str, Any] = {"degree": degree, "items": len(group)}
        row["tokens"] = Spread.of([item.result.new_tokens for item in group])
        row["critical path"] = Spread.of([item.result.critical_path for item in group])
        row["# parallel"] = Spread.of([item.result.degree for item in group])
        for mode in reversed(SCHEDULES):
            row[f"{mode} s"] = Spread.of([value for item in group for value in item.walls(mode)])
        row["speed-up"] = Spread.of(rises)
        row["bare bound"] = Spread.of(bounds)
        row["of the bound"] = Spread.of([a / b for a, b in zip(rises, bounds, strict=True)])
        row["efficiency"] = Spread.of(efficiencies)
        row["same tokens"] = all(item.same for item in group)
        report.rows.append(row)
    report.notes.append(
        "bare bound: time of all tokens at one row over time of the steps at their row counts, by the bare forward's "
        "own step times of the same repetition; efficiency: speed-up over # parallel; prefill is left out"
    )
    if config.adapter == "none":
        report.notes.append("scripted transcripts with paths of equal length")
    if short := sum(item.result.degree <= 1 for item in items):
        report.notes.append(f"{short} of {len(items)} items opened no block")


def bound(rows: Sequence[int], steps: dict[int, float], config: EngineConfig) -> float:
    """Speed-up that the bare forward allows.

    Args:
        rows: live rows of each step.
        steps: seconds of a bare step by row count.
    """
    return sum(rows) * steps[bucket(1, config)] / sum(steps[bucket(live, config)] for live in rows)


def find_adapter(name: str) -> Path | None:
    """The adapter's file or directory; None for scripted transcripts. UserError where it is not there."""
    from mvjax.hub import local_path

    if name == "none":
        return None
    if name == "demo":
        from mvjax.models.load import demo_adapter

        return demo_adapter()
    path = local_path(name, "adapter")
    if not path.exists():
        raise UserError(f"{name}: there is no such adapter; --adapter takes a file, a name on the hub, demo or none")
    return path


def synthetic_items(config: ParallelBench, tokenizer, degree: int) -> list[Item]:
    """Held-out items of the synthetic family with `degree` flat parts of equal length."""
    from mvjax.curator.sources.synthetic import SyntheticConfig, generate
    from mvjax.data.encode import with_suffix

    dials = SyntheticConfig(degree=(degree, degree), nesting=(0, 0), uneven=0.0, split="test")
    items = []
    for record in generate(dials, config.items):
        prompt = tokenizer.render_chat(with_suffix(record.messages, "multiverse"))
        room = config.slots - len(prompt) - config.max_branches
        if room < 128:
            raise UserError(
                f"{record.id}: a prompt of {len(prompt)} tokens leaves no room in a KV stream of {config.slots} slots; "
                "give more --slots"
            )
        items.append(Item(record.id, degree, prompt, Limits(max_new_tokens=room)))
    return items
