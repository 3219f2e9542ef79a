"""`mvjax curate status`: how the problems of a store ended and why, and what the calls took."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from rich.table import Table

    from mvjax.curator.store.counts import Counts, StageUse


@dataclass(frozen=True)
class Status:
    """Show how a store's problems ended and why, and what the calls took; a run may be working on it meanwhile."""

    store: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
    """The store."""
    json: bool = False
    """Print JSON."""


def run(command: Status) -> int:
    """Count, and print."""
    from mvjax.curator.store import Store
    from mvjax.curator.store.counts import count, use

    with Store.read(command.store) as store:
        counts, stages, settings = count(store), use(store), store.fact("settings", {})
    if command.json:
        whole = {**asdict(counts), "stages": [asdict(stage) for stage in stages], "settings": settings}
        print(json.dumps(whole | {"cost": sum(stage.cost for stage in stages)}, indent=2, ensure_ascii=False))
        return 0
    from rich.console import Console

    console = Console()
    console.print(records_table(counts))
    for title, reasons in (
        ("rejected, by reason", counts.reasons),
        ("accepted, but sequential or less parallel than proposed, by reason", counts.limited),
        ("found on the way, mended or not", counts.findings),
    ):
        if reasons:
            console.print(f"\n{title}", style="bold")
            console.print(reasons_table(reasons))
    if stages:
        console.print("\ncalls", style="bold")
        console.print(stages_table(stages))
        if estimated := sum(stage.estimated for stage in stages):
            console.print(f"tokens of {estimated:,} replies are estimates: the endpoint did not count them")
    return 0


def table(*columns: str, head: bool = True) -> Table:
    """An empty table, numbers to the right."""
    from rich.table import Table

    made = Table(box=None, padding=(0, 1, 0, 0), show_header=head)
    for place, name in enumerate(columns):
        made.add_column(name, justify="right" if place else "left", no_wrap=head and not place, overflow="fold")
    return made


def records_table(counts: Counts) -> Table:
    """Problems by how they ended."""
    made = table("state", "records", head=False)
    for state in ("total", "pending", "parallel", "sequential", "rejected"):
        made.add_row(state, f"{getattr(counts, state):,}")
    return made


def reasons_table(reasons: Mapping[str, int]) -> Table:
    """Classes of reason and how often each came up."""
    from rich.text import Text

    made = table("reason", "records", head=False)
    for reason, number in reasons.items():
        made.add_row(Text(reason or "unknown"), f"{number:,}")
    return made


def stages_table(stages: list[StageUse]) -> Table:
    """Calls of each stage, and their sum."""
    made = table("stage", "calls", "retries", "faulty", "dropped", "tokens in", "tokens out", "s a call", "cost")
    names = ("calls", "retries", "faulty", "dropped", "prompt_tokens", "completion_tokens", "seconds", "cost")
    sums = [sum(getattr(stage, name) for stage in stages) for name in names]
    rows = [(stage.stage, *(getattr(stage, name) for name in names)) for stage in stages]
    for stage, calls, *counted, seconds, cost in [*rows, ("all", *sums)]:
        made.add_row(stage, *(f"{number:,}" for number in (calls, *counted)), f"{seconds / calls:.1f}", f"{cost:,.2f}")
    return made
