"""Stage 4: every original sentence under its step (arXiv 2506.09991, section 5.1).

A reply names sentences by number and never repeats them, so no wording can be lost or invented.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from mvjax.curator.checks import content
from mvjax.curator.production import Call, Finding, Problem
from mvjax.curator.stages import structure as structures
from mvjax.curator.stages import tree as trees
from mvjax.curator.stages.asking import Asking
from mvjax.curator.stages.replies import WRONG_TYPE, Faulty, get, read_object, shown, typed
from mvjax.curator.stages.schema import TEXT, table
from mvjax.curator.stages.structure import Fork, Node, Structure
from mvjax.curator.stages.tree import Tree

STAGE = "refill"
_SPAN = re.compile(r"\s*(\d{1,6})\s*(?:[-–]\s*(\d{1,6})\s*)?")


@dataclass(frozen=True)
class Refill:
    """Which sentences belong to which step."""

    numbers: Mapping[str, tuple[int, ...]]
    """For every step the numbers of its own sentences, from 1."""
    put_back: tuple[Finding, ...] = ()
    """Sentences that the reply left out and that were put back."""


def ask(asking: Asking, problem: Problem, tree: Tree, structure: Structure, sentences: Sequence[str]) -> Call:
    """The call, a conversation of its own."""
    text = asking.prompts.fill(
        STAGE,
        question=problem.question.strip(),
        structure="\n".join(_outline(structure, {step.label: step.summary for step in trees.walk(tree)}, "")),
        sentences="\n".join(f"[{number}] {sentence.strip()}" for number, sentence in enumerate(sentences, 1)),
    )
    return asking.first(STAGE, "", text, table({"refill": table(dict.fromkeys(trees.labels(tree), TEXT))}))


def read(text: str, structure: Structure, sentences: Sequence[str], limit: float) -> Refill:
    """The sentences of each step.

    Single sentences that were left out are put back behind the one before them, as long as all of them together are at
    most the share `limit` of the text.

    Raises:
      Faulty: it is not of the form, a step has no entry, a sentence is missing, invented or named twice, a step without
        sub-steps has none, a step begins before the one before it, or the text in the order of the structure, or that
        of a step, is further than `limit` from the original.
    """
    nodes = {node.label: node for node in structures.walk(structure)}
    numbers = _numbers(get(read_object(text), "refill", dict), nodes, len(sentences))
    missing = _check_once(numbers, sentences, limit)
    refill = Refill(numbers)
    if missing:
        refill = _with(numbers, missing)
    empty = [label for label, node in nodes.items() if not node.inside and not refill.numbers[label]]
    if empty:
        raise Faulty([Finding("empty step", f"step {label}", "it must have one sentence or more") for label in empty])
    findings = [*_order(refill, nodes), *_distances(refill, nodes, sentences, limit)]
    if findings:
        raise Faulty(findings)
    return refill


def to_json(refill: Refill) -> dict[str, Any]:
    """In the form of the reply."""
    return {"refill": {label: spans(numbers) for label, numbers in refill.numbers.items()}}


def spans(numbers: Sequence[int]) -> str:
    """Numbers as text, such as "1-3, 5"."""
    parts = []
    for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        first, *rest = (number for _, number in run)
        parts.append(f"{first}-{rest[-1]}" if rest else f"{first}")
    return ", ".join(parts)


def joined(numbers: Sequence[int], sentences: Sequence[str]) -> str:
    """Sentences by number as one text; those that were not neighbours are set apart by a space."""
    pieces: list[str] = []
    for place, number in enumerate(numbers):
        if place and number != numbers[place - 1] + 1 and not pieces[-1][-1:].isspace():
            pieces.append(" ")
        pieces.append(sentences[number - 1])
    return "".join(pieces)


def _outline(entries: Sequence[Node | Fork], summaries: Mapping[str, str], indent: str) -> Iterator[str]:
    for entry in entries:
        if isinstance(entry, Node):
            yield f"{indent}{entry.label}: {summaries[entry.label]}"
            yield from _outline(entry.inside, summaries, f"{indent}  ")
        else:
            for number, branch in enumerate(entry.branches, 1):
                yield f"{indent}(branch {number} of {len(entry.branches)}, independent of the others)"
                yield from _outline(branch, summaries, f"{indent}  ")


def _numbers(value: dict[str, Any], nodes: Mapping[str, Node], count: int) -> dict[str, tuple[int, ...]]:
    findings = [
        Finding("unknown step", "", f"{shown(label)} is no step of the outline")
        for label in value
        if label not in nodes
    ]
    missing = [label for label in nodes if label not in value]
    if missing:
        findings.append(Finding("missing step", "", f"no entry for {', '.join(missing)}"))
    numbers: dict[str, tuple[int, ...]] = {}
    for label in nodes:
        found: list[int] = []
        parts = typed(value.get(label, ""), str, "its sentences", f"step {label}").split(",")
        for part in parts if any(map(str.strip, parts)) else ():
            match = _SPAN.fullmatch(part)
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
            if first > last:
                reason = f'{shown(part)} is no number or range of sentences such as "4" or "4-9"'
                findings.append(Finding(WRONG_TYPE, f"step {label}", reason))
            elif first < 1 or last > count:
                reason = f"{part.strip()} goes beyond the sentences, which are 1 to {count}"
                findings.append(Finding("invented sentence", f"step {label}", reason))
            else:
                found.extend(range(first, last + 1))
        numbers[label] = tuple(found)
    if findings:
        raise Faulty(findings)
    return numbers


def _check_once(numbers: Mapping[str, Sequence[int]], sentences: Sequence[str], limit: float) -> list[int]:
    """The sentences that are missing, where they may be put back; raises Faulty where they may not, or one is twice."""
    times = Counter(number for own in numbers.values() for number in own)
    findings = []
    twice = sorted(number for number, n in times.items() if n > 1)
    if twice:
        findings.append(Finding("sentence twice", "", f"named more than once: {spans(twice)}"))
    missing = [number for number in range(1, len(sentences) + 1) if number not in times]
    neighbours = any(b == a + 1 for a, b in pairwise(missing))
    share = sum(len(sentences[number - 1]) for number in missing) / max(1, sum(map(len, sentences)))
    if missing and (neighbours or share > limit or not times):
        findings.append(Finding("missing sentence", "", f"in no step: {spans(missing)}"))
    if findings:
        raise Faulty(findings)
    return missing


def _with(numbers: Mapping[str, tuple[int, ...]], missing: Sequence[int]) -> Refill:
    """The refill with single missing sentences behind the one before them, the first before the second."""
    step_of = {number: label for label, own in numbers.items() for number in own}
    full = {label: list(own) for label, own in numbers.items()}
    findings = []
    for number in missing:
        beside = number - 1 or 2
        label = step_of[beside]
        place = full[label].index(beside) + (beside < number)
        full[label].insert(place, number)
        findings.append(Finding("missing sentence", f"step {label}", f"sentence {number} was put back", STAGE))
    return Refill({label: tuple(own) for label, own in full.items()}, tuple(findings))


def _distances(refill: Refill, nodes: Mapping[str, Node], sentences: Sequence[str], limit: float) -> Iterator[Finding]:
    for label in nodes:
        own = refill.numbers[label]
        original = tuple(range(min(own), max(own) + 1)) if own else ()
        if own != original and _far(original, own, sentences, limit):
            between = spans([number for number in original if number not in own])
            reason = f"{between} stand in between" if between else "they are not in order"
            reason = f"the sentences {spans(own)} are no connected piece of the text: {reason}"
            yield Finding("edit distance", f"step {label}", reason)
    order = [number for label in nodes for number in refill.numbers[label]]
    if order != sorted(order) and _far(range(1, len(sentences) + 1), order, sentences, limit):
        back = next(b for a, b in pairwise(order) if b < a)
        label = next(label for label in nodes if back in refill.numbers[label])
        reason = f"sentence {back} is put behind later ones; the steps must follow the order of the text"
        yield Finding("edit distance", f"step {label}", reason)


def _order(refill: Refill, nodes: Mapping[str, Node]) -> Iterator[Finding]:
    """Steps that begin before the one before them: a conclusion must not come before what it follows from."""
    filled = [label for label in nodes if refill.numbers[label]]
    for before, label in pairwise(filled):
        first, earlier = min(refill.numbers[label]), min(refill.numbers[before])
        if first < earlier:
            reason = f"it begins with sentence {first}, before step {before}, which begins with {earlier}"
            yield Finding("wrong order", f"step {label}", reason)


def _far(original: Sequence[int], own: Sequence[int], sentences: Sequence[str], limit: float) -> bool:
    return content.distance(joined(original, sentences), joined(own, sentences), limit) > limit
