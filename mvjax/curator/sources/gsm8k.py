"""GSM8K: human solutions become Map / Process / Reduce transcripts in their own words.

The calculations of a solution say which step uses which result (`solution`), the graph of them says what is
independent (`graph`), and what cannot be decided is left out with a reason.
"""

from __future__ import annotations

import re
from collections.abc import Set
from fractions import Fraction

from mvjax.curator.sources import graph
from mvjax.curator.sources.goals import goals, result_phrase, standing_alone
from mvjax.curator.sources.solution import Rejected, Sentence, Step, dependencies, read_steps
from mvjax.curator.text.arithmetic import NUMBER, numbers_in, parse_number
from mvjax.curator.text.transcript import Block, Body, Path, multiverse
from mvjax.data.records import Record


def curate(name: str, question: str, answer: str) -> Record:
    """One problem as a record, parallel where its solution has independent steps, else sequential.

    Raises:
      Rejected: ambiguous, wrong, or not expressible; the reason is in the exception.
    """
    solution, _, final = answer.rpartition("####")
    final = final.strip().replace(",", "")
    if not solution.strip() or not NUMBER.fullmatch(final.lstrip("-$")):
        raise Rejected("no final answer", answer[-40:])
    if "<" in _bare(solution) or "<" in question:
        raise Rejected("a tag or '<' in the text", question[:40])
    steps = read_steps(solution, question)
    _check_answer(steps, final)
    possible, certain = dependencies(steps, question)
    plan = graph.plan(possible)
    if not graph.is_parallel(plan) and graph.is_parallel(graph.plan(certain)):
        raise Rejected("ambiguous: a value has two possible sources", _ambiguity(steps, possible, certain))
    last_line = f"The answer is {final}."
    body = (*Writer(steps, numbers_in(question)).body(plan), last_line)
    sentences = [sentence.text for step in steps for sentence in step.sentences]
    return Record(
        id=name,
        messages=({"role": "user", "content": question.strip()},),
        response=multiverse(body),
        autoregressive="\n".join([*sentences, last_line]),
        answer=final,
        source="gsm8k",
        meta={
            "parallel": graph.is_parallel(plan),
            "steps": len(steps),
            "ideal_parallel": round(len(steps) / graph.span(plan), 4),
        },
    )


class Writer:
    """Puts a plan into words."""

    def __init__(self, steps: list[Step], given: Set[Fraction]):
        self.steps = steps
        self.given = given

    def body(self, plan: graph.Plan, alone: bool = False) -> Body:
        """The lines and blocks of a plan; `alone`: it opens a path, so its first sentence must stand alone.

        Raises:
          Rejected: a path that would read a sibling's result, or has no goal.
        """
        entries: list[str | Block] = []
        for part in plan:
            if isinstance(part, int):
                entries.extend(sentence.text for sentence in self.steps[part].sentences)
            else:
                entries.append(self.block(part))
        if alone and isinstance(entries[0], str):
            entries[0] = standing_alone(entries[0])
        return tuple(entries)

    def block(self, part: graph.Parallel) -> Block:
        """Map, paths and conclusion of independent branches."""
        members = [_steps_of(branch) for branch in part.branches]
        self._check_independent(members)
        found = {value for numbers in members for number in numbers for value in self.steps[number].results}
        earlier = {value for number in range(min(map(min, members))) for value in self.steps[number].results}
        barred = found - self.given - earlier
        inside = {number for numbers in members for number in numbers}
        wanted = {value for number, step in enumerate(self.steps) if number not in inside for value in step.uses}
        paths: list[Path] = []
        phrases: list[str] = []
        for branch in part.branches:
            findings = self.findings(branch, wanted)
            text = self.goal(findings, barred, {path.goal for path in paths})
            paths.append(Path(text, self.body(branch, alone=True)))
            phrases.extend(result_phrase(sentence) for sentence in findings)
        listed = " and ".join([", ".join(phrases[:-1]), phrases[-1]])
        return Block(tuple(paths), f"The results are {listed}.")

    def findings(self, branch: graph.Plan, wanted: set[Fraction]) -> list[Sentence]:
        """The sentences whose results a branch is there for: the last ones, and those that are used outside."""
        numbers = {number for number in _steps_of(branch) if self.steps[number].results & wanted}
        return [_computing(self.steps[number]) for number in sorted(numbers | set(_ends(branch)))]

    def goal(self, findings: list[Sentence], barred: set[Fraction], taken: set[str]) -> str:
        """The goal of a branch: what its findings find, each in a sentence of its own.

        Raises:
          Rejected: no finding can be put as a goal without a result.
        """
        chosen: list[str] = []
        for sentence in findings:
            fit = [text for text in goals(sentence, barred) if text not in chosen and text not in taken]
            if fit:
                chosen.append(fit[0])
            elif sentence is findings[-1]:
                raise Rejected("no goal without a result", sentence.text)
        return " ".join(chosen)

    def _check_independent(self, members: list[list[int]]) -> None:
        """No path may mention what only a sibling finds."""
        for index, numbers in enumerate(members):
            own = {value for number in numbers for value in self.steps[number].results}
            mentioned = {value for number in numbers for value in self.steps[number].uses}
            for other, siblings in enumerate(members):
                foreign = {value for number in siblings for value in self.steps[number].results}
                shared = (mentioned & foreign) - own - self.given
                if other != index and shared:
                    raise Rejected("a path mentions a sibling's result", f"{min(shared)}")


def _steps_of(plan: graph.Plan) -> list[int]:
    return [
        number
        for part in plan
        for number in ([part] if isinstance(part, int) else [n for branch in part.branches for n in _steps_of(branch)])
    ]


def _ends(branch: graph.Plan) -> list[int]:
    """The steps that a branch ends with: one, or those of the block at its end."""
    last = branch[-1]
    return [last] if isinstance(last, int) else [number for inner in last.branches for number in _ends(inner)]


def _computing(step: Step) -> Sentence:
    return [sentence for sentence in step.sentences if sentence.calculations][-1]


def _bare(solution: str) -> str:
    return re.sub(r"<<[^<>]*>>", "", solution)


def _check_answer(steps: list[Step], final: str) -> None:
    value = _signed(final)
    last = steps[-1]
    if value not in last.results and abs(value) not in last.results | numbers_in(last.sentences[-1].text):
        raise Rejected("the last step does not give the answer", f"{last.sentences[-1].text} #### {final}")


def _signed(text: str) -> Fraction:
    number = parse_number(text.lstrip("-$"))
    return -number if text.startswith("-") else number


def _ambiguity(steps: list[Step], possible: list[set[int]], certain: list[set[int]]) -> str:
    for number, step in enumerate(steps):
        for other in sorted(possible[number] - certain[number]):
            shared = step.uses & steps[other].results
            if shared:
                return f"{min(shared)} in step {number + 1} may come from step {other + 1}"
    return "unknown"
