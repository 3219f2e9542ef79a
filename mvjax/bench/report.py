"""What a benchmark has found: rows of figures, bars that they must reach, the machine; as JSON and as a table."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from mvjax.bench.timing import Spread, number
from mvjax.files import atomic_path

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "transformers")


@dataclass(frozen=True)
class Bar:
    """A figure and what it has to reach."""

    what: str
    """The figure in words."""
    value: Spread | float
    limit: float
    at_most: bool = True
    """False: the figure must be at least the limit."""

    @property
    def met(self) -> bool:
        """Whether the median reaches the limit."""
        value = self.value.median if isinstance(self.value, Spread) else self.value
        return value <= self.limit if self.at_most else value >= self.limit


@dataclass
class Report:
    """The findings of one benchmark, filled in while it runs."""

    name: str
    config: dict[str, Any]
    """Settings of the benchmark."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Figures: spreads, numbers, texts."""
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Further tables of figures, by their titles."""
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Sentences on how to read the figures."""
    machine: dict[str, Any] = field(default_factory=lambda: machine_facts())
    began: float = field(default_factory=time.monotonic)

    def table(self):
        """A rich renderable."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        tables = []
        for title, rows in {self.name: self.rows, **self.tables}.items():
            columns = list(dict.fromkeys(name for row in rows for name in row))
            table = Table(title=f"{title}: median (smallest-largest)", title_justify="left")
            for name in columns:
                table.add_column(name, justify="right")
            for row in rows:
                table.add_row(*[shown(row.get(name, "")) for name in columns])
            tables.append(table)
        bars = Table(title="bars", title_justify="left")
        for name in ("figure", "value", "bar", ""):
            bars.add_column(name)
        for bar in self.bars:
            sign = "at most" if bar.at_most else "at least"
            verdict = Text("met", "green") if bar.met else Text("missed", "bold red")
            bars.add_row(bar.what, shown(bar.value), f"{sign} {number(bar.limit)}", verdict)
        return Group(*tables, *([bars] if self.bars else []), *[Text(f"- {note}") for note in self.notes])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "name": self.name,
            "config": {key: plain(value) for key, value in self.config.items()},
            "machine": self.machine | {"load_at_end": load()},
            "seconds": round(time.monotonic() - self.began, 1),
            "rows": plain_rows(self.rows),
            "tables": {title: plain_rows(rows) for title, rows in self.tables.items()},
            "bars": [plain(bar) | {"met": bar.met} for bar in self.bars],
            "notes": self.notes,
        }

    def save(self, directory: Path) -> Path:
        """Write DIRECTORY/NAME.json, whole or not at all; returns its path."""
        path = directory / f"{self.name}.json"
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        return path


def shown(value: Any) -> str:
    """A figure in the form of a table's cell."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, float) else str(value)


def plain_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A table's figures as JSON values."""
    return [{key: plain(value) for key, value in row.items()} for row in rows]


def plain(value: Any) -> Any:
    """A figure as a JSON value."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def machine_facts() -> dict[str, Any]:
    """Where the figures come from."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": model,
        "cores": cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": versions,
        "load_at_start": load(),
    }


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load() -> float | None:
    """Processes that wanted to run during the last minute; above the benchmark's own threads it was not alone."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
