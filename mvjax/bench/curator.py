"""The Curator's own work on a record: cutting, reading replies, checks. The endpoint's time is not in it.

A trace is made up with its replies: blocks of three branches each, one after the other, every reply right at once.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from mvjax.bench.config import CuratorBench
from mvjax.bench.report import Bar, Report
from mvjax.bench.timing import Spread, alternate
from mvjax.curator import llm
from mvjax.curator.checks.content import distance
from mvjax.curator.production import Call, Outcome, Problem, Reply, advance

Result = TypeVar("Result")
RECORD_MS, DISTANCE_MS = 20.0, 50.0
SIDES = ("northern", "eastern", "southern")
"""One branch of a block each."""
LINES = 12
"""Sentences of a branch."""
DISTANCE_CHARACTERS = 30_000
PLACES = ("mill", "barn", "shed", "dock", "farm", "yard", "tower", "cellar", "market", "harbour", "quarry", "station")
LINE = "Counting on with the {place}, {n} crates of {m} jars each stand there, so we note that {n} * {m} = {product}."


@dataclass(frozen=True)
class Scripted:
    """A trace and the right reply to every call on it."""

    problem: Problem
    replies: Mapping[tuple[str, str], str]
    """By stage and what the call is about; a judge's is the same for all."""

    def reply(self, call: Call) -> Reply:
        """The reply to a call."""
        return Reply(self.replies[call.stage, "" if call.stage == "judge" else call.where])


def measure(config: CuratorBench, report: Report, say: Callable[[str], None]) -> None:
    """Fill the report: a row for each length of trace, and one for the edit distance."""
    numbers = count(1000, 1000)  # no trace comes twice: what is remembered of one is of no use for the next

    def side(characters: int) -> Callable[[], tuple[float, int, Outcome]]:
        return lambda: work(trace(characters, next(numbers)))

    sides = {f"{characters:,}": side(characters) for characters in config.characters}
    for runs in alternate(sides, config.repeat, say=say).values():
        _, calls, outcome = runs[0]
        spent = Spread.of([1e3 * seconds for seconds, _, _ in runs])
        row = {"what": "a record", "characters": len(outcome.record.autoregressive), "calls": calls, "ms": spent}
        report.rows.append(row)
        report.bars.append(Bar(f"ms a record of {row['characters']:,} characters", spent, RECORD_MS))
    text = trace(DISTANCE_CHARACTERS).problem.reasoning[:DISTANCE_CHARACTERS]
    limit = llm.Settings().distance
    others = {"near": text.replace("crates", "boxes"), "far": text[::-1]}
    sides = {name: lambda other=other: timed(lambda: distance(text, other, limit))[0] for name, other in others.items()}
    for name, runs in alternate(sides, config.repeat, say=say).items():
        spent = Spread.of([1e3 * seconds for seconds in runs])
        row = {"what": f"edit distance of a {name} text", "characters": len(text), "calls": 0, "ms": spent}
        report.rows.append(row)
        report.bars.append(Bar(f"ms for the {row['what']} of {len(text):,} characters", spent, DISTANCE_MS))
    report.notes.append(
        "processor time; the openai package, its sockets and the store are not in it: about 4 ms a call in a whole run"
    )


def work(scripted: Scripted) -> tuple[float, int, Outcome]:
    """Seconds that a record takes, its calls, its outcome."""
    production, replies, spent, calls = llm.curate(scripted.problem, llm.Settings()), None, 0.0, 0
    while True:
        seconds, step = timed(functools.partial(advance, production, replies))
        spent += seconds
        if isinstance(step, Outcome):
            if step.state != "parallel" or step.findings:
                raise RuntimeError(f"the made-up trace is not accepted: {step.findings or step.reason}")
            return spent, calls, step
        calls += len(step)
        replies = tuple(map(scripted.reply, step))


def timed(function: Callable[[], Result]) -> tuple[float, Result]:
    """Processor seconds of a call, and what it returns."""
    start = time.process_time()
    value = function()
    return time.process_time() - start, value


def trace(characters: int, number: int = 1000) -> Scripted:
    """A trace of `characters` or more characters, as many blocks as that takes; its numbers grow from `number` on."""
    lines, steps, needs, groups, structure, refill, replies = ["First, what is asked for."], [], {}, [], [], {}, {}
    steps.append({"label": "S1", "summary": "What is asked for.", "steps": []})
    needs["S1"], refill["S1"], structure = [], "1", [{"step": "S1", "inside": []}]
    totals: list[int] = []
    while not groups or sum(map(len, lines)) + len(lines) < characters:
        block, found, labels, paths = len(groups) + 1, [], [], []
        for branch in range(len(SIDES)):
            label, first, branch_lines, products = f"S{len(steps) + 1}", len(lines) + 1, [], []
            for line in range(LINES):
                n, m = number + len(lines), number + 4000 + len(lines)
                place = PLACES[(block + branch * 4 + line // 3) % len(PLACES)]
                products.append(n * m)
                branch_lines.append(LINE.format(place=place, n=n, m=m, product=n * m))
                lines.append(branch_lines[-1])
            found.append(products[-1])
            steps.append({"label": label, "summary": f"Jars of the {SIDES[branch]} side.", "steps": []})
            needs[label], refill[label] = ["S1"], f"{first}-{len(lines)}"
            labels.append(label)
            paths.append("\n".join(branch_lines))
        why = "No part needs another."
        groups.append({"branches": [[x] for x in labels], "kind": "collective", "case": "sub-task", "reason": why})
        structure.append({"parallel": [[{"step": x, "inside": []}] for x in labels], "reason": why})
        goals = [f"Count the jars of the {side} side." for side in SIDES]
        conclusion = f"The last counts are {', '.join(map(str, found))}."
        replies["paths", f"block {block}"] = {"goals": goals, "paths": paths, "conclusion": conclusion}
        totals.append(sum(found))
        lines.append(f"Together that is {' + '.join(map(str, found))} = {totals[-1]}.")
        label = f"S{len(steps) + 1}"
        steps.append({"label": label, "summary": "The sum.", "steps": []})
        needs[label], refill[label] = labels, f"{len(lines)}"
        structure.append({"step": label, "inside": []})
    lines.append(f"The answer is {totals[-1]}.")
    refill[steps[-1]["label"]] += f", {len(lines)}"
    replies |= {
        ("tree", ""): {"steps": steps},
        ("groups", ""): {"needs": needs, "groups": groups},
        ("structure", ""): {"structure": structure},
        ("refill", ""): {"refill": refill},
        ("judge", ""): {"followable": True, "missing": ""},
    }
    problem = Problem(f"made-up-{characters}", "How many jars are there?", "\n".join(lines), str(totals[-1]))
    return Scripted(problem, {key: json.dumps(value) for key, value in replies.items()})
