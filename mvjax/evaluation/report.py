"""Totals of a benchmark run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mvjax.evaluation.run import Outcome


def totals(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Shares (0 to 1), totals and means over a run; None where nothing was to be counted."""
    count = len(outcomes)
    referenced = [o for o in outcomes if o.reference_blocks is not None]
    tokens = sum(o.new_tokens for o in outcomes)
    path = sum(o.critical_path for o in outcomes)
    sampled = sum(o.sampled for o in outcomes)
    return {
        "problems": count,
        "accuracy": share(sum(o.correct for o in outcomes), count),
        "opened a block": share(sum(bool(o.blocks) for o in outcomes), count),
        "reference has a block": share(sum(bool(o.reference_blocks) for o in referenced), len(referenced)),
        "right number of paths": share(sum(o.right_paths for o in referenced), len(referenced)),
        "right, none cut or abandoned": share(
            sum(o.right_paths and not o.cuts and not o.abandoned for o in referenced), len(referenced)
        ),
        "tokens": tokens,
        "critical path": path,
        "# parallel": share(sum(o.new_tokens / max(o.critical_path, 1) for o in outcomes), count),
        "cut": sum(bool(o.cuts) for o in outcomes),
        "abandoned": sum(bool(o.abandoned) for o in outcomes),
        "barred per 1000 tokens": share(1000 * sum(o.barred for o in outcomes), sampled),
        "stopped by itself": share(sum(o.finish == "stop" for o in outcomes), count),
    }


def share(part: float, whole: int) -> float | None:
    """part / whole, None for nothing."""
    return part / whole if whole else None


def table(columns: dict[str, dict[str, Any]]):
    """A rich table with a row per measure and a column per run."""
    from rich.table import Table

    out = Table()
    out.add_column("measure")
    for name in columns:
        out.add_column(name, justify="right")
    for measure in next(iter(columns.values())):
        out.add_row(measure, *(number(values.get(measure)) for values in columns.values()))
    return out


def number(value: Any) -> str:
    """A figure as text: shares and means with three decimals."""
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
