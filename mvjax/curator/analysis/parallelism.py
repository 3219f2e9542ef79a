"""Hidden parallelism of autoregressive traces (arXiv 2506.09991, section 3.1, Table 1).

A trace is sequential text with splits in it: places where it goes through branches, one after the other, that do not
need each other. Branches are collective (all are needed) or selective (one decides). What could be gained follows from
their lengths (Amdahl): all of the text over what is left if of each split only its longest branch takes time. That is a
bound: it leaves out what Map and Reduce would add.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mvjax.curator.analysis.splits import Split, Trace, span, splits, work

PAPER: Mapping[tuple[str, str], tuple[tuple[float, float], tuple[float, float]]] = {
    ("collective", "case study"): ((0.280, 2.00), (0.394, 2.82)),
    ("collective", "sub-task"): ((0.473, 3.38), (0.450, 3.22)),
    ("collective", "other"): ((0.032, 0.23), (0.029, 0.21)),
    ("selective", "path exploration"): ((0.194, 1.39), (0.083, 0.60)),
    ("selective", "other"): ((0.011, 0.07), (0.014, 0.09)),
}
"""The paper's Table 1: share of the branches and number per trace, of DeepSeek-R1 and of Gemini 2.0 Flash."""
PAPER_TOTAL = (7.07, 6.94)
"""Branches per trace."""
CASES = tuple(PAPER)


@dataclass
class Analysis:
    """What is found in a set of traces; `add` them one by one."""

    unit: str = "words"
    """What lengths are measured in."""
    traces: int = 0
    split_traces: int = 0
    """Traces with a split."""
    recursive_traces: int = 0
    """Traces in which a branch itself splits."""
    branches: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Branches by kind and case."""
    splits: int = 0
    consecutive: int = 0
    """Branches of splits that are in the trace itself, one after the other."""
    recursive: int = 0
    """Branches of splits that are in a branch."""
    splitting: int = 0
    """Branches that themselves split."""
    length: int = 0
    """Of all traces together."""
    in_branches: int = 0
    """Of that, what is in branches."""
    left: int = 0
    """Length of all traces if of each split only the longest branch counts."""
    attainable: Counter[float] = field(default_factory=Counter)
    """Traces by attainable # parallel, rounded to hundredths."""

    def add(self, trace: Trace) -> None:
        """Count a trace."""
        found = list(splits(trace))
        self.traces += 1
        self.split_traces += bool(found)
        self.recursive_traces += any(level for level, _ in found)
        for level, split in found:
            self.splits += 1
            self.branches[split.kind, split.case] += len(split.branches)
            self.splitting += sum(any(isinstance(part, Split) for part in branch) for branch in split.branches)
            if level:
                self.recursive += len(split.branches)
            else:
                self.consecutive += len(split.branches)
                self.in_branches += sum(map(work, split.branches))
        whole, least = work(trace), span(trace)
        self.length, self.left = self.length + whole, self.left + least
        self.attainable[round(whole / least, 2) if least else 1.0] += 1

    def rows(self) -> Iterator[tuple[str, str, float, float]]:
        """Kind, case, share of the branches, branches per trace: the rows of the paper, then whatever else there is."""
        total = sum(self.branches.values())
        for kind, case in (*CASES, *sorted(set(self.branches) - set(CASES))):
            count = self.branches[kind, case]
            yield kind, case, _ratio(count, total), _ratio(count, self.traces)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        total = sum(self.branches.values())
        own = Counter({value: count for value, count in self.attainable.items() if value > 1})
        return {
            "unit": self.unit,
            "traces": self.traces,
            "traces_with_branches": self.split_traces,
            "traces_with_recursion": self.recursive_traces,
            "splits": self.splits,
            "branches": total,
            "branches_per_trace": round(_ratio(total, self.traces), 3),
            "branches_per_split": round(_ratio(total, self.splits), 3),
            "kinds": [
                {"kind": kind, "case": case, "share": round(share, 4), "per_trace": round(number, 3)}
                for kind, case, share, number in self.rows()
            ],
            "consecutive_share": round(_ratio(self.consecutive, total), 4),
            "recursive_share": round(_ratio(self.recursive, total), 4),
            "splitting_share": round(_ratio(self.splitting, total), 4),
            "length_per_trace": round(_ratio(self.length, self.traces), 1),
            "share_in_branches": round(_ratio(self.in_branches, self.length), 4),
            "attainable": {
                "mean": _mean(self.attainable),
                "mean_of_those_with_branches": _mean(own),
                "of_all_text": round(_ratio(self.length, self.left), 3),
                "max": round(max(self.attainable, default=1.0), 3),
            },
            "paper": [
                {"kind": kind, "case": case, "deepseek_r1": list(first), "gemini_2_0_flash": list(second)}
                for (kind, case), (first, second) in PAPER.items()
            ],
        }


def analyze(traces: Iterable[Trace], unit: str = "words") -> Analysis:
    """Count traces."""
    result = Analysis(unit)
    for trace in traces:
        result.add(trace)
    return result


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _mean(values: Counter[float]) -> float:
    count = values.total()
    return round(sum(value * times for value, times in values.items()) / count, 3) if count else 1.0


def table(result: Analysis, title: str):
    """The analysis as rich tables: kinds of branches beside the paper's, then the other measures."""
    from rich.console import Group
    from rich.table import Table

    kinds = Table(title=title, title_justify="left")
    for name in ("kind", "case"):
        kinds.add_column(name)
    for name in ("share", "per trace", "DeepSeek-R1", "per trace", "Gemini 2.0 Flash", "per trace"):
        kinds.add_column(name, justify="right")
    for kind, case, share, number in result.rows():
        known = PAPER.get((kind, case))
        theirs = [text for s, n in known for text in (f"{s:.1%}", f"{n:.2f}")] if known else ["-"] * 4
        kinds.add_row(kind, case, f"{share:.1%}", f"{number:.2f}", *theirs)
    kinds.add_section()
    facts = result.to_dict()
    totals = [text for number in PAPER_TOTAL for text in ("", f"{number:.2f}")]
    kinds.add_row("all", "", "", f"{facts['branches_per_trace']:.2f}", *totals)
    rows = Table(show_header=False, box=None)
    attainable = facts["attainable"]
    for name, value in (
        ("traces", f"{facts['traces']}: {facts['traces_with_branches']} with branches"),
        ("branches per split", f"{facts['branches_per_split']:.2f}"),
        ("consecutive", f"{facts['consecutive_share']:.1%} of the branches"),
        ("recursive", f"{facts['recursive_share']:.1%} stand in a branch; {facts['splitting_share']:.1%} split again"),
        (
            "length",
            f"{facts['length_per_trace']:.0f} {result.unit} a trace, {facts['share_in_branches']:.1%} in branches",
        ),
        ("attainable # parallel", f"mean {attainable['mean']}, of all text together {attainable['of_all_text']}"),
        ("  of traces with branches", f"mean {attainable['mean_of_those_with_branches']}, max {attainable['max']}"),
    ):
        rows.add_row(name, value)
    return Group(kinds, rows)
