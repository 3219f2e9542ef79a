"""Plots of what the curator's measures find. Each writes a PNG and returns a note on it for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mvjax.curator.analysis.parallelism import CASES, PAPER, Analysis
from mvjax.files import atomic_path

if TYPE_CHECKING:
    from mvjax.curator.analysis.probe import Probe

MISSING = "no picture: matplotlib is not installed"
BINS = 30


def histograms(
    path: Path, panels: Mapping[str, Mapping[str, Sequence[float]]], limits: Mapping[str, float], what: str
) -> str:
    """Histograms over one another, a panel for each measure.

    Args:
        panels: title -> name -> values.
        limits: title -> where a line is drawn.
        what: what is counted.
    """
    made = _figure(len(panels))
    if made is None:
        return MISSING
    figure, all_axes = made
    for axes, (title, groups) in zip(all_axes, panels.items(), strict=True):
        together = np.concatenate([np.asarray(values, float) for values in groups.values()])
        edges = np.histogram_bin_edges(together, BINS)
        for name, values in groups.items():
            axes.hist(values, edges, alpha=0.6, label=f"{name} ({len(values)})")
        if title in limits:
            axes.axvline(limits[title], color="black", linestyle="--", label=f"limit {limits[title]:.2f}")
        axes.set(xlabel=title, ylabel=what)
        axes.legend()
    return _save(figure, path)


def branches(path: Path, result: Analysis) -> str:
    """Share of each kind of branch beside the paper's, and the traces by their attainable # parallel."""
    made = _figure(2)
    if made is None:
        return MISSING
    figure, (left, right) = made
    shares = {(kind, case): share for kind, case, share, _ in result.rows()}
    bars = {
        f"these {result.traces} traces": [shares[case] for case in CASES],
        "DeepSeek-R1 (paper)": [PAPER[case][0][0] for case in CASES],
        "Gemini 2.0 Flash (paper)": [PAPER[case][1][0] for case in CASES],
    }
    for number, (name, values) in enumerate(bars.items()):
        left.barh(np.arange(len(CASES)) + 0.27 * (number - 1), values, 0.25, label=name)
    left.set_yticks(np.arange(len(CASES)), [f"{kind}:\n{case}" for kind, case in CASES])
    left.invert_yaxis()
    left.set(xlabel="share of the branches")
    left.legend()
    values, counts = np.array(sorted(result.attainable.items()) or [(1.0, 0)]).T
    right.hist(values, BINS, weights=counts)
    right.set(xlabel="attainable # parallel", ylabel="traces", yscale="log")
    return _save(figure, path)


def by_layer(path: Path, probes: Sequence[Probe]) -> str:
    """AUC of each layer on unseen problems, beside the baseline and shuffled labels."""
    made = _figure(1)
    if made is None:
        return MISSING
    figure, (axes,) = made
    for number, where in enumerate(dict.fromkeys((one.form, one.kind) for one in probes)):
        mine = [one for one in probes if (one.form, one.kind) == where and one.layer is not None]
        layers, color = [one.layer for one in mine], f"C{number}"
        axes.plot(layers, [one.verdict.auc for one in mine], marker="o", color=color, label=", ".join(where))
        axes.plot(layers, [one.shuffled[0] for one in mine], marker=".", linestyle=":", color=color)
        for one in probes:
            if (one.form, one.kind) == where and one.layer is None:
                axes.axhline(one.verdict.auc, color=color, linestyle="--", alpha=0.7)
    axes.plot([], [], color="gray", linestyle="--", label="token and place only")
    axes.plot([], [], color="gray", linestyle=":", marker=".", label="shuffled labels")
    axes.axhline(0.5, color="black", linewidth=0.8)
    axes.set(xlabel="layer (0: embedding)", ylabel="AUC on unseen problems")
    axes.grid(alpha=0.3)
    axes.legend()
    return _save(figure, path)


def _figure(panels: int):
    """A figure with panels, two in a row; None where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    columns, rows = min(panels, 2), -(-panels // 2)
    figure = Figure(figsize=(6.5 * columns, 4.5 * rows), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, number + 1) for number in range(panels)]


def _save(figure, path: Path) -> str:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with atomic_path(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))
    return f"picture: {path}"
