"""Stage 1: an outline of the reasoning, of steps and sub-steps (arXiv 2506.09991, section 5.1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mvjax.curator.production import Call, Finding, Problem
from mvjax.curator.stages.asking import Asking
from mvjax.curator.stages.replies import Faulty, faulty, get, read_object, shown, typed
from mvjax.curator.stages.schema import TEXT, array, table

STAGE = "tree"


@dataclass(frozen=True)
class Step:
    """A step of the outline."""

    label: str
    """S1, S2, ...; S2.1, ... within S2."""
    summary: str
    """What it does, in one line."""
    steps: tuple[Step, ...] = ()
    """Its sub-steps."""


Tree = tuple[Step, ...]


def ask(asking: Asking, problem: Problem) -> Call:
    """The call that opens the conversation of the first three stages."""
    text = asking.prompts.fill(STAGE, question=problem.question.strip(), reasoning=problem.reasoning.strip())
    return asking.first(STAGE, "", text, SCHEMA)


def read(text: str) -> Tree:
    """The outline of a reply.

    Raises:
      Faulty: it is not of the form, or a label is not the next one.
    """
    findings: list[Finding] = []
    steps = _steps(get(read_object(text), "steps", list), "S", findings)
    if not steps:
        raise faulty("no steps", '"steps" holds no step')
    if findings:
        raise Faulty(findings)
    return steps


def to_json(tree: Tree) -> dict[str, Any]:
    """In the form of the reply."""
    return {"steps": [_json(step) for step in tree]}


def walk(steps: Sequence[Step]) -> Iterator[Step]:
    """All steps in the order of the text: each before its sub-steps."""
    for step in steps:
        yield step
        yield from step.steps


def labels(tree: Tree) -> list[str]:
    """The labels of all steps, in order."""
    return [step.label for step in walk(tree)]


def parent(label: str) -> str:
    """The label of the step that a sub-step belongs to; "" for a main step."""
    return label.rpartition(".")[0]


def _steps(entries: list[Any], prefix: str, findings: list[Finding]) -> Tree:
    steps = []
    for number, entry in enumerate(entries, 1):
        wanted = f"{prefix}{number}"
        where = f"step {wanted}"
        entry = typed(entry, dict, f"step {wanted}")
        label, summary = get(entry, "label", str, where), get(entry, "summary", str, where)
        if label != wanted:
            findings.append(Finding("label", where, f"its label is {shown(label)} and must be {wanted}"))
        if not summary.strip():
            findings.append(Finding("no summary", where, "its summary is empty"))
        inner = typed([] if entry.get("steps") is None else entry["steps"], list, '"steps"', where)
        if inner and prefix != "S":
            findings.append(Finding("depth", where, "it has sub-steps, but is a sub-step itself"))
            inner = []
        steps.append(Step(wanted, " ".join(summary.split()), _steps(inner, f"{wanted}.", findings)))
    return tuple(steps)


def _json(step: Step) -> dict[str, Any]:
    own = {"label": step.label, "summary": step.summary}
    return {**own, "steps": [_json(inner) for inner in step.steps]} if step.steps else own


SCHEMA = table(
    {
        "steps": array(
            table({"label": TEXT, "summary": TEXT, "steps": array(table({"label": TEXT, "summary": TEXT}))}),
        )
    }
)
"""JSON schema of the reply."""
