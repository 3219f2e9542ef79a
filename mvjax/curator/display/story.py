"""One problem's way through the curator, brought together for a look at it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mvjax.curator.production import Outcome, Problem
from mvjax.curator.store import Store
from mvjax.curator.store.stored import StoredCall
from mvjax.curator.text import sentences
from mvjax.curator.text.transcript import ANNOUNCEMENT
from mvjax.language import TranscriptError, parse_text, tree


@dataclass(frozen=True)
class Step:
    """A step of the outline."""

    label: str
    summary: str
    needs: tuple[str, ...]
    """Steps that it needs directly."""
    sentences: tuple[int, ...]
    """Numbers of its original sentences, from 1."""


@dataclass(frozen=True)
class Run:
    """Steps one after the other."""

    labels: tuple[str, ...]


@dataclass(frozen=True)
class Fork:
    """Branches side by side."""

    branches: tuple[Flow, ...]
    reason: str
    """Why they are independent."""
    kind: str
    """Such as `collective, sub-task`."""


Flow = tuple[Run | Fork, ...]


@dataclass(frozen=True)
class Passage:
    """Text of the transcript without a block in it."""

    text: str
    labels: tuple[str, ...]
    """The steps that it came from, as far as that is known."""


@dataclass(frozen=True)
class Split:
    """A block of the transcript."""

    goals: tuple[str, ...]
    paths: tuple[tuple[Passage | Split, ...], ...]
    conclusion: str
    reason: str
    """Why its paths are independent."""


@dataclass(frozen=True)
class Story:
    """All there is to tell of one problem."""

    problem: Problem
    outcome: Outcome | None
    """None: it has not ended."""
    calls: tuple[StoredCall, ...]
    sentences: tuple[str, ...]
    """The original reasoning."""
    steps: Mapping[str, Step]
    """By label, in order; none where the outline failed, or there was none to make."""
    flow: Flow
    """The structure; a fork whose block fell back to sequential text is steps one after the other."""
    transcript: tuple[Passage | Split, ...]
    """The accepted response."""

    def sentences_of(self, labels: Sequence[str]) -> list[int]:
        """Numbers of the sentences of some steps."""
        return sorted({number for label in labels if label in self.steps for number in self.steps[label].sentences})


def tell(store: Store, id: str) -> Story | None:
    """The story of a problem; None where the store has none of that id."""
    problem = store.problem(id)
    if problem is None:
        return None
    outcome = store.outcome(id)
    stages = outcome.stages if outcome is not None else {}
    flow = _flow(stages)
    return Story(
        problem,
        outcome,
        tuple(store.calls(id)),
        tuple(sentences.split(problem.reasoning)),
        {step.label: step for step in _steps(stages)},
        flow,
        _transcript(outcome, flow),
    )


def _inner(stages: Mapping[str, Any], stage: str, key: str) -> Any:
    return stages.get(stage, {}).get(key, {})


def _steps(stages: Mapping[str, Any]) -> Iterator[Step]:
    needs, refill = _inner(stages, "groups", "needs"), _inner(stages, "refill", "refill")

    def walk(steps: Sequence[Mapping[str, Any]]) -> Iterator[Step]:
        for step in steps:
            label = step["label"]
            yield Step(
                label, step.get("summary", ""), tuple(needs.get(label, ())), sentences.numbers(refill.get(label, ()))
            )
            yield from walk(step.get("steps", ()))

    return walk(_inner(stages, "tree", "steps"))


def _flow(stages: Mapping[str, Any]) -> Flow:
    """The structure with runs of steps joined, and each fork with what its group says of it."""
    groups, written = _inner(stages, "groups", "groups"), stages.get("paths", {})
    count: Counter[str] = Counter()

    def flow(structure: Sequence[Any], above: str) -> Flow:
        """Entries that are in the block `above`."""
        entries: list[Run | Fork] = []
        for entry in structure:
            if isinstance(entry, str):
                entries.append(Run((entry,)))
            elif "parallel" not in entry:
                entries += [Run((entry["step"],)), *flow(entry.get("inside", ()), above)]
            else:
                count[above] += 1
                number = f"{above}.{count[above]}" if above else f"{count[above]}"
                branches = tuple(flow(branch, number) for branch in entry["parallel"])
                if "sequential" in written.get(number, {}):
                    entries += [part for branch in branches for part in branch]
                else:
                    entries.append(Fork(branches, entry.get("reason", ""), _kind(entry["parallel"], groups)))
        return _joined(entries)

    return flow(_inner(stages, "structure", "structure"), "")


def _joined(entries: Sequence[Run | Fork]) -> Flow:
    """Neighbouring runs as one."""
    joined: list[Run | Fork] = []
    for entry in entries:
        if joined and isinstance(entry, Run) and isinstance(joined[-1], Run):
            joined[-1] = Run(joined[-1].labels + entry.labels)
        else:
            joined.append(entry)
    return tuple(joined)


def _kind(branches: Sequence[Sequence[Any]], groups: Sequence[Mapping[str, Any]]) -> str:
    labels = [[entry if isinstance(entry, str) else entry.get("step") for entry in branch] for branch in branches]
    group = next((group for group in groups if [list(branch) for branch in group["branches"]] == labels), {})
    return ", ".join(str(group[key]) for key in ("kind", "case") if group.get(key))


def _transcript(outcome: Outcome | None, flow: Flow) -> tuple[Passage | Split, ...]:
    if outcome is None or outcome.record is None:
        return ()
    try:
        children = parse_text(outcome.record.response, complete=True).children
    except TranscriptError:  # a store that was written by hand, or by a version with other checks
        return (Passage(outcome.record.response, ()),)
    thoughts = [child for child in children if isinstance(child, tree.Think)]
    if not thoughts:
        return tuple(_passages(children, flow))
    rest = tuple(_passages([child for child in children if child not in thoughts], ()))
    return (*_passages(thoughts[0].children, flow), *rest)


def _passages(children: Sequence[Any], flow: Flow, labelled: bool = False) -> Iterator[Passage | Split]:
    """Passages and blocks; where there are as many blocks as forks, each gets the steps that it came from."""
    forks = [entry for entry in flow if isinstance(entry, Fork)]
    blocks = [child for child in children if isinstance(child, tree.Block)]
    if len(forks) != len(blocks):
        forks, flow = [None] * len(blocks), ()
    runs: list[tuple[str, ...]] = [()]
    for entry in flow:
        runs[-1:] = [runs[-1] + entry.labels] if isinstance(entry, Run) else [runs[-1], ()]
    runs += [()] * (len(blocks) + 1 - len(runs))
    passed = 0
    for place, child in enumerate(children):
        if isinstance(child, tree.Block):
            yield _split(child, forks[passed])
            passed += 1
            continue
        text = child.content.partition(":")[2] if labelled and place == 0 else child.content
        text = text.strip().removesuffix(ANNOUNCEMENT).strip()
        if text:
            yield Passage(text, runs[passed])


def _split(block: tree.Block, fork: Fork | None) -> Split:
    branches = (
        fork.branches if fork is not None and len(fork.branches) == len(block.paths) else ((),) * len(block.paths)
    )
    goal, conclusion = block.goal, block.conclusion
    assert goal is not None  # a record's response is complete
    assert conclusion is not None
    return Split(
        tuple(_text(outline).partition(":")[2].strip() for outline in goal.outlines),
        tuple(tuple(_passages(path.children, flow, labelled=True)) for path, flow in zip(block.paths, branches)),
        _text(conclusion).strip(),
        fork.reason if fork is not None else "",
    )


def _text(element: tree.Element) -> str:
    return "".join(child.content for child in element.of(tree.Text))
