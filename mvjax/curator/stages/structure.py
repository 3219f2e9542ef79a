"""Stage 3: the outline with its parallel parts marked (arXiv 2506.09991, section 5.1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mvjax.curator.production import Call, Finding
from mvjax.curator.stages import groups as grouping
from mvjax.curator.stages import tree as trees
from mvjax.curator.stages.asking import Asking
from mvjax.curator.stages.groups import Group, Groups
from mvjax.curator.stages.replies import WRONG_TYPE, Faulty, faulty, get, read_object, shown, typed
from mvjax.curator.stages.schema import TEXT, array, either, one_of, table
from mvjax.curator.stages.tree import Tree

STAGE = "structure"


@dataclass(frozen=True)
class Node:
    """A step at its place."""

    label: str
    inside: Structure = ()
    """Its sub-steps."""


@dataclass(frozen=True)
class Fork:
    """A group at its place."""

    group: Group
    branches: tuple[tuple[Node, ...], ...]
    reason: str
    """Why the branches do not need each other."""


Structure = tuple[Node | Fork, ...]


def ask(asking: Asking, before: Call, tree: Tree, groups: Groups) -> Call:
    """The call, in the conversation of the groups' call."""
    listed = "\n".join(
        f"- {' | '.join(', '.join(branch) for branch in group.branches)} ({group.kind}, {group.case}: {group.reason})"
        for group in groups.groups
    )
    text = asking.prompts.fill(STAGE, groups=listed)
    return asking.next(before, grouping.to_json(groups), STAGE, text, _schema(trees.labels(tree)))


def read(text: str, tree: Tree, groups: Groups) -> Structure:
    """The structure of a reply.

    Raises:
      Faulty: it is not of the form, does not hold every step once and in order, or has a parallel part that is no
        group.
    """
    entries = get(read_object(text), "structure", list)
    findings: list[Finding] = []
    structure = _Reader(tree, groups, findings).entries(entries, "")
    wanted, found = trees.labels(tree), [node.label for node in walk(structure)]
    known, times = set(wanted), Counter(found)
    findings += [
        Finding("unknown step", "", f"{shown(label)} is no step of the outline")
        for label in times
        if label not in known
    ]
    findings += [
        Finding("step twice", "", f"{label} stands in it {n} times")
        for label, n in times.items()
        if n > 1 and label in known
    ]
    missing = [label for label in wanted if label not in times]
    if missing:
        findings.append(Finding("missing step", "", f"{', '.join(missing)} cannot be found in it"))
    if not findings and found != wanted:
        label, other = next((a, b) for a, b in zip(found, wanted) if a != b)
        findings.append(Finding("wrong order", "", f"{label} stands where {other} must stand"))
    if findings:
        raise Faulty(findings)
    return structure


def to_json(structure: Structure) -> dict[str, Any]:
    """In the form of the reply."""
    return {"structure": [_json(entry) for entry in structure]}


def walk(entries: Sequence[Node | Fork]) -> Iterator[Node]:
    """All steps in order."""
    for entry in entries:
        if isinstance(entry, Node):
            yield entry
            yield from walk(entry.inside)
        else:
            for branch in entry.branches:
                yield from walk(branch)


def forks(entries: Sequence[Node | Fork]) -> Iterator[Fork]:
    """All parallel parts, outer ones before inner ones."""
    for entry in entries:
        if isinstance(entry, Node):
            yield from forks(entry.inside)
        else:
            yield entry
            for branch in entry.branches:
                yield from forks(branch)


class _Reader:
    """Reads entries; a step that says nothing of its sub-steps has them one after the other."""

    def __init__(self, tree: Tree, groups: Groups, findings: list[Finding]):
        self.steps = {step.label: step for step in trees.walk(tree)}
        self.groups = {group.branches: group for group in groups.groups}
        self.findings = findings

    def entries(self, values: Sequence[Any], above: str) -> Structure:
        """Entries of a list that is in the step `above` ("": at the top)."""
        return tuple(
            self.fork(value, above) if isinstance(value, dict) and "parallel" in value else self.node(value, above)
            for value in values
        )

    def node(self, value: Any, above: str) -> Node:
        """A step: a label, or an object."""
        if not isinstance(value, str):
            value = typed(value, dict, "an entry", f"step {above}" if above else "")
            label = get(value, "step", str)
        else:
            label, value = value, {}
        inside = typed([] if value.get("inside") is None else value["inside"], list, '"inside"', f"step {label}")
        if trees.parent(label) != above and label in self.steps:
            place = f"inside of {above}" if above else "at the top"
            self.findings.append(
                Finding("wrong order", f"step {label}", f"it stands {place}, where it does not belong")
            )
        if inside and not above and not trees.parent(label):
            return Node(label, self.entries(inside, label))
        if inside:
            self.findings.append(Finding("unknown step", f"step {label}", "it has no sub-steps to stand inside of it"))
        return Node(label, self.plain(label))

    def plain(self, label: str) -> Structure:
        """The sub-steps of a step, one after the other."""
        return tuple(Node(step.label) for step in self.steps[label].steps) if label in self.steps else ()

    def fork(self, value: dict[str, Any], above: str) -> Fork:
        """A parallel part."""
        if "step" in value or "inside" in value:
            raise faulty(WRONG_TYPE, 'an entry has either "step" or "parallel"')
        branches = []
        for number, branch in enumerate(typed(value["parallel"], list, '"parallel"'), 1):
            nodes = [self.node(entry, above) for entry in typed(branch, list, f'branch {number} of "parallel"')]
            branches.append(tuple(nodes))
        reason = " ".join(get(value, "reason", str).split())
        labels = tuple(tuple(node.label for node in branch) for branch in branches)
        group = self.groups.get(labels)
        if group is None:
            listed = " | ".join(", ".join(branch) for branch in labels)
            self.findings.append(Finding("unknown group", "", f"{shown(listed)} is none of the groups"))
            group = Group(labels, "collective", "other", "")
        return Fork(group, tuple(branches), reason)


def _json(entry: Node | Fork) -> dict[str, Any]:
    if isinstance(entry, Node):
        return {"step": entry.label, "inside": [_json(inner) for inner in entry.inside]}
    branches = [[_json(node) for node in branch] for branch in entry.branches]
    return {"parallel": branches, "reason": entry.reason}


def _schema(labels: list[str]) -> dict[str, Any]:
    step = one_of(labels)
    leaf = table({"step": step, "inside": array(TEXT)})
    inner = either(leaf, table({"parallel": array(array(leaf)), "reason": TEXT}))
    node = table({"step": step, "inside": array(inner)})
    entry = either(node, table({"parallel": array(array(node)), "reason": TEXT}))
    return table({"structure": array(entry)})
