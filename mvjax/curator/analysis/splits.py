"""Traces with splits: how long the text is that could have been written at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mvjax.curator.production import Outcome, Problem
from mvjax.curator.text import sentences
from mvjax.curator.text.reading import content
from mvjax.curator.text.transcript import ANNOUNCEMENT
from mvjax.data.records import Record
from mvjax.language import parse_text, tree

CONSTRUCTED = ("collective", "sub-task")
"""Kind and case of blocks that a source without an LLM made."""

Measure = Callable[[str], int]
"""Length of a text."""


@dataclass(frozen=True)
class Split:
    """A place where a trace goes through branches that do not need each other."""

    kind: str
    """collective (all branches are needed) or selective (one decides)."""
    case: str
    """case study, sub-task, path exploration or other."""
    branches: tuple[Trace, ...]


Trace = tuple[int | Split, ...]
"""Lengths of text one behind the other, and splits."""


def words(text: str) -> int:
    """How many words a text has; for languages that put no space between them, measure in tokens."""
    return len(text.split())


def work(trace: Trace) -> int:
    """Length of all of a trace."""
    return sum(part if isinstance(part, int) else sum(map(work, part.branches)) for part in trace)


def span(trace: Trace) -> int:
    """Length that is left if of each split only the longest branch counts."""
    return sum(part if isinstance(part, int) else max(map(span, part.branches)) for part in trace)


def splits(trace: Trace, level: int = 0) -> Iterator[tuple[int, Split]]:
    """All splits, each with the number of branches that it is in."""
    for part in trace:
        if isinstance(part, Split):
            yield level, part
            for branch in part.branches:
                yield from splits(branch, level + 1)


def of_record(record: Record, measure: Measure = words) -> Trace:
    """The trace of a transcript: its text as it was before Map and Reduce were added.

    Where `meta["kinds"]` does not say of what kind its blocks are, they count as collective sub-tasks: what is in a
    transcript without more is all needed.

    Raises:
        TranscriptError: the response breaks the grammar.
    """
    transcript = parse_text(record.response, complete=True, record=record.id)
    kinds = record.meta.get("kinds")
    if not isinstance(kinds, list) or len(kinds) != len(transcript.blocks):
        kinds = [", ".join(CONSTRUCTED)] * len(transcript.blocks)
    return _body(transcript.children, measure, iter(kinds), labelled=False)


def _body(
    children: Sequence[tree.Text | tree.Element], measure: Measure, kinds: Iterator[str], labelled: bool
) -> Trace:
    """The trace of a body; `kinds` of its blocks, outer ones before those within."""
    parts: list[int | Split] = []
    for place, child in enumerate(children):
        if isinstance(child, tree.Text):
            text = content(child).partition(":")[2] if labelled and place == 0 else content(child)
            parts.append(measure(text.strip().removesuffix(ANNOUNCEMENT).strip()))
        elif isinstance(child, tree.Think):
            parts.extend(_body(child.children, measure, kinds, labelled=False))
        elif isinstance(child, tree.Block):
            kind, _, case = next(kinds).partition(", ")
            branches = tuple(_body(path.children, measure, kinds, labelled=True) for path in child.paths)
            parts.append(Split(kind, case, branches))
    return _joined(parts)


def of_outcome(problem: Problem, outcome: Outcome, measure: Measure = words) -> Trace | None:
    """The trace that the stages of a curated problem, or its labels, describe; None where it has neither.

    The structure counts as it was proposed: a block that fell back to sequential text later is counted too.
    """
    stages = outcome.stages
    pieces = sentences.split(problem.reasoning)
    if "labels" in stages:
        return of_labels(pieces, stages["labels"]["blocks"], measure)
    if not {"groups", "structure", "refill"} <= set(stages):
        return None
    reader = _Structure(stages, pieces, measure)
    return reader.trace(stages["structure"]["structure"])


class _Structure:
    """Reads the structure of a record's stages."""

    def __init__(self, stages: Mapping[str, Any], pieces: Sequence[str], measure: Measure):
        self.groups = stages["groups"]["groups"]
        refill = stages["refill"]["refill"]
        texts = {label: "".join(pieces[n - 1] for n in sentences.numbers(where)) for label, where in refill.items()}
        self.lengths = {label: measure(text) for label, text in texts.items()}

    def trace(self, entries: Sequence[Any]) -> Trace:
        parts: list[int | Split] = []
        for entry in entries:
            if isinstance(entry, str):
                entry = {"step": entry}
            if "parallel" in entry:
                kind, case = self.kind(entry["parallel"])
                parts.append(Split(kind, case, tuple(map(self.trace, entry["parallel"]))))
                continue
            inside = entry.get("inside") or ()
            label, named = entry["step"], set(_labels(inside))
            # Sub-steps that are not named follow one another, as the step's own text.
            mine = [name for name in self.lengths if name == label or name.startswith(f"{label}.")]
            parts.append(sum(self.lengths[name] for name in mine if name not in named))
            parts.extend(self.trace(inside))
        return _joined(parts)

    def kind(self, branches: Sequence[Sequence[Any]]) -> tuple[str, str]:
        """What its group says of a split."""
        steps = [[entry if isinstance(entry, str) else entry.get("step") for entry in branch] for branch in branches]
        group = next((group for group in self.groups if [list(b) for b in group["branches"]] == steps), None)
        return (group["kind"], group["case"]) if group else CONSTRUCTED


def _labels(entries: Sequence[Any]) -> Iterator[str]:
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        elif "parallel" in entry:
            for branch in entry["parallel"]:
                yield from _labels(branch)
        else:
            yield entry["step"]
            yield from _labels(entry.get("inside") or ())


def of_labels(pieces: Sequence[str], blocks: Sequence[Mapping[str, Any]], measure: Measure = words) -> Trace:
    """The trace of sentences with blocks marked: {"kind", "case", "branches": [[first, last], ...]} each, numbered from
    1, blocks either apart from each other or one within a branch of the other."""
    ordered = sorted(blocks, key=lambda block: (block["branches"][0][0], -block["branches"][-1][1]))
    return _between(pieces, 1, len(pieces), ordered, measure)


def _between(pieces: Sequence[str], first: int, last: int, blocks: Sequence[Mapping[str, Any]], measure) -> Trace:
    """The trace of the sentences from `first` to `last`; `blocks`: those within, outer ones before inner ones."""
    parts: list[int | Split] = []
    at = first
    while blocks:
        block, *rest = blocks
        start, end = block["branches"][0][0], block["branches"][-1][1]
        parts.append(measure("".join(pieces[at - 1 : start - 1])))
        within = [other for other in rest if other["branches"][-1][1] <= end]
        branches = tuple(
            _between(pieces, low, high, [b for b in within if low <= b["branches"][0][0] <= high], measure)
            for low, high in block["branches"]
        )
        parts.append(Split(block["kind"], block["case"], branches))
        blocks, at = rest[len(within) :], end + 1
    parts.append(measure("".join(pieces[at - 1 : last])))
    return _joined(parts)


def _joined(parts: Iterable[int | Split]) -> Trace:
    """Neighbouring lengths as one; no length is 0."""
    joined: list[int | Split] = []
    for part in parts:
        if isinstance(part, int) and joined and isinstance(joined[-1], int):
            joined[-1] += part
        elif part:
            joined.append(part)
    return tuple(joined)
