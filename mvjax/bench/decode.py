"""Tokens per second by number of live rows, beside greedy generation with transformers and PyTorch."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mvjax.bench import torch_model
from mvjax.bench.config import DecodeBench
from mvjax.bench.engine import find_copies, timed_engine
from mvjax.bench.report import Bar, Report
from mvjax.bench.scripted import PROMPT, drive
from mvjax.bench.timing import Spread, alternate, ratios

TORCH_BAR, ROWS_BAR = 2.0, 3.7
TORCH = 0
"""Marks transformers among the row counts."""
LLAMA_CPP = 104.0
"""Tokens/s of llama.cpp's single stream on the 4-bit file of SmolLM2-135M, on two cores; not measured here."""
PAUSE = 0.2
"""Seconds between two sides: PyTorch's threads spin for a while after their work."""


def measure(config: DecodeBench, report: Report, say: Callable[[str], None]) -> None:
    """Fill the report. All row counts, and transformers, take turns in every repetition."""
    model, engine, scripts = timed_engine(config, say)

    def side(script):
        return lambda: drive(engine, script.prompt, script.limits, script.mode)

    sides: dict[int, Callable[[], Any]] = {script.paths: side(script) for script in scripts}
    reason = torch_model.missing() if config.torch else "switched off"
    with tempfile.TemporaryDirectory(prefix="mvjax-bench-") as directory:
        if reason is None:
            say("the same weights for transformers")
            sides[TORCH] = torch_side(config.model, Path(directory) / "model", scripts[0])
        results = alternate(
            sides, config.repeat, pause=PAUSE if reason is None else 0.0, say=lambda text: say(f"rows {text}")
        )
    theirs = results.pop(TORCH, None)

    per_second = {}
    for paths, runs in results.items():
        steps = [statistics.median(run.steady(paths)) for run in runs]
        per_second[paths] = [paths / step for step in steps]
        row = {
            "side": "mvjax",
            "rows": paths,
            "step ms": Spread.of([1e3 * step for step in steps]),
            "tokens/s": Spread.of(per_second[paths]),
            "times one row": ratios(per_second[paths], per_second[1]),
        }
        report.rows.append(row)
    if theirs is not None:
        compare(report, per_second[1], theirs, results[1])
    else:
        report.notes.append(f"no comparison with transformers: {reason}")
    if 8 in per_second:
        report.bars.append(
            Bar("8 rows over one row, tokens/s", ratios(per_second[8], per_second[1]), ROWS_BAR, at_most=False)
        )
        report.bars.append(Bar("8 rows, tokens/s", Spread.of(per_second[8]), LLAMA_CPP, at_most=False))
    copies = find_copies(engine, {}, model)
    report.bars.append(Bar("copies of a KV stream buffer in the loop", float(len(copies)), 0))
    report.notes += copies
    report.notes.append(
        f"float32, KV stream of {config.slots} slots, greedy, prompt of {PROMPT} tokens; decoding without prefill"
    )


def torch_side(source: Path, directory: Path, script) -> Callable[[], tuple[list[int], float]]:
    """Generation of the one-row script's prompt with transformers: (tokens, seconds per token without the prefill)."""
    from mvjax.models import load_checkpoint, save_checkpoint

    save_checkpoint(directory, load_checkpoint(source).astype("float32"))
    model = torch_model.TorchDecode(directory)

    def run() -> tuple[list[int], float]:
        _, prefill = model.generate(script.prompt, 1)
        tokens, whole = model.generate(script.prompt, script.steps)
        return tokens, (whole - prefill) / (script.steps - 1)

    return run


def compare(report: Report, ours: list[float], theirs: list[tuple[list[int], float]], runs: list) -> None:
    """Add transformers' row and the bar."""
    per_second = [1 / step for _, step in theirs]
    made, wanted = runs[0].result.tokens.tolist(), theirs[0][0]
    same = next((place for place, (a, b) in enumerate(zip(made, wanted)) if a != b), min(len(made), len(wanted)))
    report.rows.append(
        {
            "side": "transformers",
            "rows": 1,
            "step ms": Spread.of([1e3 * step for _, step in theirs]),
            "tokens/s": Spread.of(per_second),
            "times one row": Spread.of([b / a for a, b in zip(ours, per_second, strict=True)]),
        }
    )
    report.bars.append(Bar("one row over transformers, tokens/s", ratios(ours, per_second), TORCH_BAR, at_most=False))
    report.notes.append(
        f"transformers on the same prompt: the first {same} of {len(wanted)} tokens are the same (there nothing keeps "
        "end-of-text from being chosen)"
    )
