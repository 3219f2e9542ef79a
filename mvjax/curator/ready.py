"""Producers that need no LLM: GSM8K's human solutions and the synthetic family, through the checks of all records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from mvjax.curator.checks import independence, record
from mvjax.curator.production import Finding, Outcome, Problem, Production, no_calls
from mvjax.curator.sources import gsm8k, synthetic
from mvjax.curator.sources.solution import Rejected
from mvjax.curator.text import reading
from mvjax.data.records import Fault, Record, check_share, open_input
from mvjax.errors import UserError

MAX_BAD_SHARE = 0.02
"""Largest share of an input's lines that may be no problems."""


def gsm8k_problems(path: Path, *, limit: int | None = None) -> Iterator[Problem | Fault]:
    """Problems of a JSON Lines file of {"question", "answer"}, as in openai/grade-school-math; lines that are none.

    Args:
      limit: how many lines to read at most.
    Raises:
      UserError: no such file, not UTF-8, or, at the end, too many lines that are no such problem.
    """
    faults, total = [], 0
    with open_input(path) as file:
        for number, line in enumerate(file, 1):
            if limit is not None and total >= limit:
                break
            try:
                text = line.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise UserError(f"{path}: line {number} is not UTF-8 text; save the file as UTF-8") from error
            if not text.strip():
                continue
            total += 1
            entry = _gsm8k_problem(text, path, number)
            if isinstance(entry, Fault):
                faults.append(entry)
            yield entry
    check_share(faults, total, MAX_BAD_SHARE, str(path))


def gsm8k_production(problem: Problem) -> Production:
    """A GSM8K problem's solution as a record, or the reason why it cannot be one."""
    yield from no_calls()
    try:
        made = gsm8k.curate(problem.id, problem.question, problem.reasoning)
    except Rejected as error:
        return Outcome(None, error.reason, str(error))
    return checked(made)


def synthetic_problems(config: synthetic.SyntheticConfig, count: int) -> Iterator[Problem]:
    """The first `count` items of the family with these dials, as problems."""
    for index, item in enumerate(synthetic.generate(config, count)):
        question = item.messages[-1]["content"]
        yield Problem(item.id, question, item.autoregressive, item.answer, source="synthetic", meta={"index": index})


def synthetic_producer(config: synthetic.SyntheticConfig) -> Callable[[Problem], Production]:
    """The producer of `synthetic_problems` with the same dials."""

    def production(problem: Problem) -> Production:
        yield from no_calls()
        return checked(synthetic.item(config, problem.meta["index"]))

    return production


def checked(made: Record) -> Outcome:
    """A finished record's outcome: accepted where no check finds anything."""
    findings = record.check(made)
    if not findings:
        question = made.messages[-1]["content"]
        for number, (block, before) in enumerate(reading.blocks(made.response), 1):
            known = f"{question}\n{before}"
            findings += [_in_block(finding, number) for finding in independence.check_block(block, known=known)]
    if findings:
        return Outcome(None, findings[0].check, str(findings[0]), tuple(findings))
    return Outcome(made)


def _in_block(finding: Finding, number: int) -> Finding:
    return replace(finding, where=f"block {number}, {finding.where}")


def _gsm8k_problem(line: str, path: Path, number: int) -> Problem | Fault:
    try:
        fields = json.loads(line)
        question, answer = fields["question"], fields["answer"]
        if not (isinstance(question, str) and isinstance(answer, str)):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        return Fault(f"{path.name}:{number}", 'not a JSON object with "question" and "answer"')
    final = answer.rpartition("####")[2].strip()
    return Problem(f"{path.stem}-{number}", question, answer, final, source="gsm8k")
