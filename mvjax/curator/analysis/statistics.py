"""What a set of records is like: # parallel, blocks, paths, and what was rejected."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mvjax.data.records import Record
from mvjax.language import Layout, lay_out, parse_text, split_text
from mvjax.language.text import piece_facts

if TYPE_CHECKING:
    from mvjax.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class Statistics:
    """Measures over the responses of a set of records; lengths are in `unit`s."""

    unit: str
    """`words` (words, tags and newlines) or `tokens` (of a tokenizer)."""
    records: int
    """Records in all."""
    parallel: int
    """Records with a block."""
    sequential: int
    """Records without."""
    length: dict[str, float]
    """Length of a response: mean, median, max."""
    degree: dict[str, float]
    """# parallel (length / critical path): mean over all records, mean over parallel ones, max."""
    ideal: dict[str, float]
    """Ideal # parallel (steps / steps on the longest chain), as far as the curator knows it: mean, max."""
    blocks: int
    """Blocks in all."""
    nested_blocks: int
    """Those inside a path of another."""
    nesting: dict[int, int]
    """Parallel records by levels of blocks inside the outer one."""
    paths_per_block: dict[int, int]
    """Blocks by number of paths."""
    path_length: dict[str, float]
    """Length of a path: mean, median, max."""
    rejected: int
    """Problems left out."""
    reasons: dict[str, int]
    """How many for each reason."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def collect(
    records: Iterable[Record], reasons: Mapping[str, int] | None = None, tokenizer: Tokenizer | None = None
) -> Statistics:
    """Measure records.

    Args:
      records: their responses are parsed and laid out, so a malformed one shows here at the latest.
      reasons: rejected problems by reason.
      tokenizer: with control tags; lengths are in its tokens then, otherwise in words.
    Raises:
      TranscriptError: a response breaks the grammar.
    """
    lengths, degrees, parallel_degrees, ideals, path_lengths = [], [], [], [], []
    nesting: Counter[int] = Counter()
    widths: Counter[int] = Counter()
    nested = 0
    tables = tokenizer.tables() if tokenizer is not None else None
    for record in records:
        parse_text(record.response, complete=True, record=record.id)
        layout = _layout(record, tokenizer, tables)
        lengths.append(layout.new_tokens)
        degrees.append(layout.degree)
        if "ideal_parallel" in record.meta:
            ideals.append(float(record.meta["ideal_parallel"]))
        blocks = layout.structure.blocks
        if blocks:
            parallel_degrees.append(layout.degree)
            nesting[max(block.level for block in blocks)] += 1
        for block in blocks:
            nested += block.level > 0
            widths[len(block.paths)] += 1
            path_lengths.extend(path.close - path.open + 1 for path in block.paths)
    return Statistics(
        unit="words" if tokenizer is None else "tokens",
        records=len(lengths),
        parallel=len(parallel_degrees),
        sequential=len(lengths) - len(parallel_degrees),
        length=_summary(lengths),
        degree={
            "mean": _mean(degrees),
            "mean_of_parallel": _mean(parallel_degrees),
            "max": round(max(degrees, default=0.0), 3),
        },
        ideal={"mean": _mean(ideals), "max": round(max(ideals, default=0.0), 3)},
        blocks=sum(widths.values()),
        nested_blocks=nested,
        nesting=dict(sorted(nesting.items())),
        paths_per_block=dict(sorted(widths.items())),
        path_length=_summary(path_lengths),
        rejected=sum((reasons or {}).values()),
        reasons=dict(sorted((reasons or {}).items(), key=lambda entry: -entry[1])),
    )


def table(result: Statistics, title: str):
    """The statistics as a rich table."""
    from rich.table import Table

    rows = Table(title=title, title_justify="left", show_header=False)
    rows.add_column(style="bold")
    rows.add_column()
    rows.add_row("records", f"{result.records}: {result.parallel} parallel, {result.sequential} sequential")
    rows.add_row("# parallel, all records", f"mean {result.degree['mean']}")
    rows.add_row(
        "# parallel, parallel records", f"mean {result.degree['mean_of_parallel']}, max {result.degree['max']}"
    )
    rows.add_row("ideal # parallel (steps)", f"mean {result.ideal['mean']}, max {result.ideal['max']}")
    rows.add_row(f"response length ({result.unit})", _spelt(result.length))
    rows.add_row("blocks", f"{result.blocks}, {result.nested_blocks} of them inside a path")
    rows.add_row("nesting levels: records", _listed(result.nesting))
    rows.add_row("paths per block: blocks", _listed(result.paths_per_block))
    rows.add_row(f"path length ({result.unit})", _spelt(result.path_length))
    rows.add_row("rejected", str(result.rejected))
    for reason, count in result.reasons.items():
        rows.add_row(f"  {reason}", str(count))
    return rows


def _layout(record: Record, tokenizer: Tokenizer | None, tables) -> Layout:
    if tokenizer is None:
        codes_T, colon_T, separator_T = piece_facts(split_text(record.response))
    else:
        ids_T = np.array(tokenizer.encode_response(record.response), np.int32)
        codes_T, colon_T = tables.codes[ids_T], tables.colon[ids_T]
        separator_T = ids_T == tables.separator_id
    return lay_out(codes_T, colon_T, separator_T=separator_T, complete=True, record=record.id)


def _mean(values: Sequence[float]) -> float:
    return round(statistics.fmean(values), 3) if values else 0.0


def _summary(values: list[int]) -> dict[str, float]:
    if not values:
        return {"mean": 0.0, "median": 0.0, "max": 0}
    return {"mean": _mean(values), "median": float(statistics.median(values)), "max": max(values)}


def _spelt(summary: dict[str, float]) -> str:
    return f"mean {summary['mean']:.1f}, median {summary['median']:.0f}, max {summary['max']:.0f}"


def _listed(counts: dict[int, int]) -> str:
    return ", ".join(f"{value}: {count}" for value, count in counts.items()) or "none"
