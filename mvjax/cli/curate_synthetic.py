"""`mvjax curate synthetic`: items of the synthetic family."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from mvjax.cli.curate_output import EXIT_INTERRUPTED, check_files, report_stopped, write
from mvjax.errors import UserError
from mvjax.hub.cache import Cached


@dataclass(frozen=True)
class Synthetic(Cached):
    """Make items of the synthetic family: lists of short calculations. Ranges are LOW-HIGH or one number."""

    output: Path
    """Where the records go (JSON lines)."""
    count: int = 1000
    """How many items; equal ones are written once."""
    degree: str = "2-8"
    """Parts of an item, 1 to 16."""
    length: str = "2-4"
    """Steps of a part, 1 to 32."""
    nesting: str = "0-1"
    """Levels of blocks inside the outer one, 0 to 2."""
    uneven: float = 0.5
    """Share of items whose parts differ in length."""
    seed: int = 0
    """Equal seeds give equal items."""
    split: Literal["train", "test"] = "train"
    """Train and test items have no calculation in common."""
    tokenizer: Path | None = None
    """Measure lengths in this tokenizer's tokens instead of words."""
    store: Path | None = None
    """Keep items and outcomes in this store, for `mvjax curate status`, `show` and `export`."""
    json: bool = False
    """Print the statistics as JSON."""


def run(command: Synthetic) -> int:
    """Make the records, write them, print what they are like."""
    from mvjax.curator import ready
    from mvjax.curator.progress import progress
    from mvjax.curator.run import run
    from mvjax.curator.sources.synthetic import SyntheticConfig
    from mvjax.curator.store import Store
    from mvjax.curator.store.export import Selection

    if command.count < 1:
        raise UserError(f"--count {command.count}: must be 1 or more")
    config = SyntheticConfig(
        degree=span("degree", command.degree),
        length=span("length", command.length),
        nesting=span("nesting", command.nesting),
        uneven=command.uneven,
        seed=command.seed,
        split=command.split,
    )
    check_files(command.output, store=command.store)
    with Store.open(command.store or ":memory:", {"producer": "synthetic", **asdict(config)}) as store:
        store.add(ready.synthetic_problems(config, command.count))
        totals = run(store, ready.synthetic_producer(config), progress=progress())
        if totals.stopped:
            report_stopped(totals, command.store is not None)
            return EXIT_INTERRUPTED
        write(store, command.output, Selection(), command.tokenizer, command.json)
    return 0


def span(name: str, text: str) -> tuple[int, int]:
    """The bounds of a range such as 2-8 or 4."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    if not match:
        raise UserError(f"--{name} {text}: must be a number or a range such as 2-8")
    return int(match[1]), int(match[2] or match[1])
