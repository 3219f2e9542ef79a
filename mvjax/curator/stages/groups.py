"""Stage 2: what each step needs, and which neighbouring steps are independent (arXiv 2506.09991, section 5.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mvjax.curator.production import Call, Finding
from mvjax.curator.stages import tree as trees
from mvjax.curator.stages.asking import Asking
from mvjax.curator.stages.replies import WRONG_TYPE, Faulty, faulty, get, read_object, shown, texts, typed
from mvjax.curator.stages.schema import TEXT, array, one_of, table
from mvjax.curator.stages.tree import Tree

STAGE = "groups"
CASES: Mapping[str, tuple[str, ...]] = {
    "collective": ("case study", "sub-task", "other"),
    "selective": ("path exploration", "other"),
}
"""Kinds of groups, and the cases of each (arXiv 2506.09991, section 3.1)."""


@dataclass(frozen=True)
class Group:
    """Branches that do not need each other."""

    branches: tuple[tuple[str, ...], ...]
    """At least two, each the labels of steps that follow one another."""
    kind: str
    """collective: all are needed; selective: one decides."""
    case: str
    """case study, sub-task, path exploration or other."""
    reason: str
    """Why they are independent."""


@dataclass(frozen=True)
class Groups:
    """The dependency graph and what is independent by it."""

    needs: Mapping[str, tuple[str, ...]]
    """For every step the steps that it needs directly."""
    groups: tuple[Group, ...]


def ask(asking: Asking, before: Call, tree: Tree) -> Call:
    """The call, in the conversation of the outline's call."""
    text = asking.prompts.fill(STAGE, labels=", ".join(trees.labels(tree)))
    return asking.next(before, trees.to_json(tree), STAGE, text, _schema(tree))


def read(text: str, tree: Tree) -> Groups:
    """The graph and groups of a reply.

    Raises:
      Faulty: it is not of the form, a step is unknown or has no entry, the graph has a cycle or a step that needs a
        later one, or a group is none by it. Where only groups are at fault, `rest` holds the graph and the other ones.
    """
    value = read_object(text)
    needs = _needs(get(value, "needs", dict), trees.labels(tree))
    good: list[Group] = []
    findings: list[Finding] = []
    for number, entry in enumerate(get(value, "groups", list), 1):
        where = f"group {number}"
        try:
            group = _group(typed(entry, dict, where), where)
            _check(group, where, tree, needs, good)
        except Faulty as error:
            findings += error.findings
        else:
            good.append(group)
    result = Groups(needs, tuple(good))
    if findings:
        raise Faulty(findings, result)
    return result


def to_json(groups: Groups) -> dict[str, Any]:
    """In the form of the reply."""
    return {
        "needs": {label: list(needed) for label, needed in groups.needs.items()},
        "groups": [
            {
                "branches": [list(branch) for branch in group.branches],
                "kind": group.kind,
                "case": group.case,
                "reason": group.reason,
            }
            for group in groups.groups
        ],
    }


def _needs(value: dict[str, Any], labels: list[str]) -> dict[str, tuple[str, ...]]:
    place = {label: number for number, label in enumerate(labels)}
    findings = [
        Finding("unknown step", "needs", f"{shown(label)} is no step of the outline")
        for label in value
        if label not in place
    ]
    missing = [label for label in labels if label not in value]
    if missing:
        findings.append(Finding("missing step", "needs", f"no entry for {', '.join(missing)}"))
    if findings:
        raise Faulty(findings)
    needs = {
        label: tuple(texts(typed(value[label], list, f"needs of {label}"), f"needs of {label}")) for label in labels
    }
    for label, needed in needs.items():
        findings += [
            Finding("unknown step", f"step {label}", f"it needs {shown(other)}, which is no step of the outline")
            for other in needed
            if other not in place
        ]
    if findings:
        raise Faulty(findings)
    cycles = _cycles(needs)
    for cycle in cycles:
        findings.append(Finding("cyclic graph", f"step {cycle[0]}", f"it needs itself: {' needs '.join(cycle)}"))
    circular = {label for cycle in cycles for label in cycle}
    for label, needed in needs.items():
        for other in needed:
            if place[other] > place[label] and not {label, other} <= circular:
                findings.append(Finding("later step", f"step {label}", f"it needs {other}, which comes after it"))
    if findings:
        raise Faulty(findings)
    # That a sub-step needs the step it belongs to goes without saying.
    return {
        label: tuple(dict.fromkeys(o for o in needed if o != trees.parent(label))) for label, needed in needs.items()
    }


def _cycles(needs: Mapping[str, tuple[str, ...]]) -> list[list[str]]:
    """Cycles of the graph, each as a walk back to its first step; at least one where there are any."""
    done: set[str] = set()
    cycles = []
    for start in needs:
        walk: list[str] = []
        left = [[start]]
        while left:
            if not left[-1]:
                left.pop()
                if walk:
                    done.add(walk.pop())
                continue
            label = left[-1].pop()
            if label in walk:
                cycles.append([*walk[walk.index(label) :], label])
            elif label not in done:
                walk.append(label)
                left.append(list(needs[label]))
    return cycles


def _group(entry: dict[str, Any], where: str) -> Group:
    branches = tuple(
        tuple(texts(typed(branch, list, f"branch {number}", where), f"branch {number} of {where}"))
        for number, branch in enumerate(get(entry, "branches", list, where), 1)
    )
    kind, case = get(entry, "kind", str, where), get(entry, "case", str, where)
    if kind not in CASES:
        raise faulty(WRONG_TYPE, f'"kind" is {shown(kind)} and must be one of {", ".join(CASES)}', where)
    if case not in CASES[kind]:
        raise faulty(
            WRONG_TYPE, f'"case" is {shown(case)}; of a {kind} group it must be one of {", ".join(CASES[kind])}', where
        )
    return Group(branches, kind, case, " ".join(get(entry, "reason", str, where).split()))


def _check(group: Group, where: str, tree: Tree, needs: Mapping[str, tuple[str, ...]], others: list[Group]) -> None:
    """Raise Faulty where a group is none."""
    if len(group.branches) < 2 or not all(group.branches):
        raise faulty("single branch", "it must have two branches or more, none of them empty", where)
    labels = [label for branch in group.branches for label in branch]
    taken = {label for other in others for branch in other.branches for label in branch}
    for label in labels:
        if label not in needs:
            raise faulty("unknown step", f"{shown(label)} is no step of the outline", where)
        if labels.count(label) > 1:
            raise faulty("step twice", f"{label} stands in it twice", where)
        if label in taken:
            raise faulty("step twice", f"{label} stands in another group already", where)
    above = trees.parent(labels[0])
    stray = next((label for label in labels if trees.parent(label) != above), None)
    if stray is not None:
        raise faulty("not contiguous", f"{labels[0]} and {stray} do not belong to the same step", where)
    siblings = [label for label in needs if trees.parent(label) == above]
    first = min(map(siblings.index, labels))
    if labels != siblings[first : first + len(labels)]:
        wanted = ", ".join(siblings[first : max(map(siblings.index, labels)) + 1])
        raise faulty(
            "not contiguous", f"its branches must follow one another without a gap, in this order: {wanted}", where
        )
    branch_of = {label: number for number, branch in enumerate(group.branches) for label in branch}
    inside = _inside(siblings, needs)
    for label in labels:
        for other in sorted(_lifted(label, inside, needs)):
            if branch_of.get(other, branch_of[label]) != branch_of[label]:
                raise faulty(
                    "dependent group", f"{label} needs {other}, so they cannot be in different branches", where
                )


def _inside(siblings: list[str], needs: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """Each sibling with its sub-steps, itself first."""
    inside = {label: [label] for label in siblings}
    for step in needs:
        if (above := trees.parent(step)) in inside:
            inside[above].append(step)
    return inside


def _lifted(label: str, inside: Mapping[str, list[str]], needs: Mapping[str, tuple[str, ...]]) -> set[str]:
    """The siblings that a step needs directly, itself or by its sub-steps.

    Steps need only earlier ones and a group has no gaps, so whatever lies between two steps of a group is in one of its
    branches: a need by way of others crosses from branch to branch as a direct need somewhere.
    """
    needed = {other for step in inside[label] for other in needs[step]}
    lifted = {other if other in inside else trees.parent(other) for other in needed}
    return {other for other in lifted if other in inside and other != label}


def _schema(tree: Tree) -> dict[str, Any]:
    labels = trees.labels(tree)
    group = {
        "branches": array(array(one_of(labels))),
        "kind": one_of(tuple(CASES)),
        "case": one_of(tuple(dict.fromkeys(case for cases in CASES.values() for case in cases))),
        "reason": TEXT,
    }
    needs = {label: array(one_of(labels)) for label in labels}
    return table({"needs": table(needs), "groups": array(table(group))})
