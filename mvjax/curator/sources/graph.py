"""From a dependency graph of steps to a plan: what runs one after the other, what side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Parallel:
    """Branches with no dependency between them; each is a plan of its own."""

    branches: tuple[Plan, ...]


Plan = tuple[int | Parallel, ...]
"""Steps by number and groups of branches, in an order that respects every dependency."""


def plan(needs: Sequence[Iterable[int]]) -> Plan:
    """Arrange steps so that independent ones stand side by side.

    A graph that series and parallel composition can express is split exactly: into branches where steps fall apart
    into groups without a dependency between them, into stages where every step of one comes before every step of the
    next. Elsewhere the last step is set after all others (which only adds dependencies), and the rest is split.

    Args:
      needs: for each step the earlier steps that it needs.
    Raises:
      ValueError: a step that needs itself or a later one.
    """
    ancestors: list[set[int]] = []
    for step, direct in enumerate(needs):
        direct = set(direct)
        if any(not 0 <= other < step for other in direct):
            raise ValueError(f"step {step} needs a step that is not before it")
        ancestors.append(direct.union(*(ancestors[other] for other in direct)))
    return _arrange(list(range(len(ancestors))), ancestors)


def span(arranged: Plan) -> int:
    """Steps on the longest chain of a plan."""
    return sum(1 if isinstance(part, int) else max(map(span, part.branches)) for part in arranged)


def is_parallel(arranged: Plan) -> bool:
    """Whether a plan has anything side by side."""
    return any(isinstance(part, Parallel) for part in arranged)


def _arrange(steps: list[int], ancestors: list[set[int]]) -> Plan:
    if len(steps) <= 1:
        return tuple(steps)
    branches = _components(steps, lambda a, b: a in ancestors[b])
    if len(branches) > 1:
        return (Parallel(tuple(_arrange(branch, ancestors) for branch in branches)),)
    stages = _components(steps, lambda a, b: a not in ancestors[b])
    if len(stages) > 1:
        return tuple(part for stage in stages for part in _arrange(stage, ancestors))
    return (*_arrange(steps[:-1], ancestors), steps[-1])


def _components(steps: list[int], linked) -> list[list[int]]:
    """Connected components of the graph in which earlier and later step are linked, ordered by first step."""
    groups: list[list[int]] = []
    for step in steps:
        joined = [group for group in groups if any(linked(other, step) for other in group)]
        groups = [group for group in groups if group not in joined]
        groups.append(sorted([step, *(other for group in joined for other in group)]))
    return sorted(groups)
