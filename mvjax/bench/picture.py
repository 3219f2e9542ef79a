"""Curves against the length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mvjax.files import atomic_path


def draw(path: Path, lengths: Sequence[int], curves: Mapping[str, Sequence[float]], what: str) -> str:
    """Write a PNG with logarithmic axes, `what` along the vertical one; a note for the report, which says so where
    matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return "no picture: matplotlib is not installed"
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log", xlabel="tokens", ylabel=what)
    for name, values in curves.items():
        axes.plot(lengths, values, marker="o", label=name)
    axes.set_xscale("log", base=2)
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_path(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))
    return f"picture: {path}"
