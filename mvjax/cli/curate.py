"""`mvjax curate`: make parallel training data from GSM8K, or a synthetic family."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mvjax.errors import UserError


@dataclass(frozen=True)
class Gsm8k:
    """Turn GSM8K solutions into parallel transcripts: independent steps become paths, the rest stays sequential."""

    input: tyro.conf.Positional[Path]
    """JSON Lines file of {"question", "answer"}, as in openai/grade-school-math."""
    output: Path
    """Where the records go (JSON lines)."""
    limit: int = 0
    """Read only this many problems; 0: all."""
    sequential: bool = True
    """Keep problems without independent steps, as sequential records."""
    tokenizer: Path | None = None
    """Measure lengths in this tokenizer's tokens instead of words."""
    rejected: Path | None = None
    """Write the rejected problems here, one line each: name and reason."""
    json: bool = False
    """Print the statistics as JSON."""


@dataclass(frozen=True)
class Synthetic:
    """Make items of the synthetic family: lists of short calculations. Ranges are LOW-HIGH or one number."""

    output: Path
    """Where the records go (JSON lines)."""
    count: int = 1000
    """How many items."""
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
    json: bool = False
    """Print the statistics as JSON."""


def main(argv: list[str]) -> int:
    """Run the verb; returns the exit status."""
    command = tyro.cli(
        Annotated[Gsm8k, tyro.conf.subcommand("gsm8k")] | Annotated[Synthetic, tyro.conf.subcommand("synthetic")],
        prog="mvjax curate",
        description="Make parallel training data.",
        args=argv,
    )
    return run(command)


def run(command: Gsm8k | Synthetic) -> int:
    """Make the records, write them, print what they are like."""
    from mvjax.curator import statistics
    from mvjax.data.records import write_records

    if command.output.is_dir():
        raise UserError(f"{command.output}: is a directory; --output must name a file")
    records, reasons = gsm8k_records(command) if isinstance(command, Gsm8k) else synthetic_records(command)
    tokenizer = None
    if command.tokenizer is not None:
        from mvjax.tokenizers.load import load_tokenizer

        tokenizer = load_tokenizer(command.tokenizer).with_control_tags()
    result = statistics.collect(records, reasons, tokenizer)
    write_records(command.output, records)
    if command.json:
        print(json.dumps(result.to_dict(), indent=2))
    else:
        from rich.console import Console

        Console().print(statistics.table(result, str(command.output)))
    return 0


def gsm8k_records(command: Gsm8k):
    """Records of a GSM8K file, and how many problems were rejected for each reason."""
    from mvjax.curator.sources import gsm8k
    from mvjax.files import atomic_path

    if command.limit < 0:
        raise UserError(f"--limit {command.limit}: must be 0 (all) or more")
    if command.output.resolve() == command.input.resolve():
        raise UserError(f"{command.output}: --output is the input file; name another one")
    curated = gsm8k.curate_file(command.input, limit=command.limit or None)
    if command.rejected is not None:
        with atomic_path(command.rejected) as temporary:
            lines = (f"{fault.name}\t{' '.join(fault.reason.split())}\n" for fault in curated.rejected)
            Path(temporary).write_text("".join(lines), encoding="utf-8")
    records = [record for record in curated.records if command.sequential or record.meta["parallel"]]
    if not records:
        raise UserError(f"{command.input}: no problem of it can be used ({dict(curated.reasons)})")
    return records, curated.reasons


def synthetic_records(command: Synthetic):
    """Items of the synthetic family; none is rejected."""
    from mvjax.curator.sources.synthetic import SyntheticConfig, generate

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
    return list(generate(config, command.count)), Counter()


def span(name: str, text: str) -> tuple[int, int]:
    """The bounds of a range such as 2-8 or 4."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    if not match:
        raise UserError(f"--{name} {text}: must be a number or a range such as 2-8")
    return int(match[1]), int(match[2] or match[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
