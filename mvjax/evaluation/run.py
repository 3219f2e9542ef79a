"""Runs a benchmark through the engine: one result line per problem, resumable, and the totals."""

from __future__ import annotations

import collections
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mvjax.engine.result import NOT_FINITE, Result
from mvjax.evaluation.problems import Problem, outer_paths
from mvjax.grading import grade


@dataclass(frozen=True)
class Outcome:
    """What the engine made of one problem."""

    id: str
    correct: bool
    """The final answer equals the reference."""
    blocks: list[int]
    """Paths of each outermost block that was opened."""
    reference_blocks: list[int] | None
    """The same of the reference transcript; None without one."""
    new_tokens: int
    critical_path: int
    finish: str
    cuts: int
    """Segments that a limit ended."""
    abandoned: int
    """Blocks given up before any path began."""
    barred: int
    """Decisions in which the token that the model wanted was against the grammar."""
    sampled: int
    """Decisions in all."""
    response: str
    check: dict[str, Any] | None = None
    """What `check` found; None if there was none."""
    error: str | None = None
    """Why there is no answer: the request failed, or its logits were not finite. Such an outcome is not kept."""

    @property
    def right_paths(self) -> bool:
        """As many blocks with as many paths as the reference."""
        return self.blocks == self.reference_blocks


def outcome_of(problem: Problem, result: Result, text: str) -> Outcome:
    """Grade one engine result against its problem."""
    return Outcome(
        id=problem.id,
        correct=grade(text, problem.answer, problem.kind).correct,
        blocks=[n for n in outer_paths(text) or [] if n],
        reference_blocks=None if problem.paths is None else list(problem.paths),
        new_tokens=result.new_tokens,
        critical_path=result.critical_path,
        finish=result.reason,
        cuts=len(result.cuts),
        abandoned=result.abandoned,
        barred=result.barred,
        sampled=result.sampled,
        response=text,
        error=error_of(result),
    )


def error_of(result: Result) -> str | None:
    """In one line, why a result holds no answer; None where it does."""
    if result.error is not None:
        return " ".join(f"{type(result.error).__name__}: {result.error}".split())[:300]
    return NOT_FINITE if result.reason == "not finite" else None


def run_benchmark(
    engine,
    tokenizer,
    problems: Sequence[Problem],
    prompts: Sequence[list[int]],
    *,
    limits,
    sampling,
    mode: str,
    together: int,
    log: Path | None = None,
    check: Callable[[Problem, object], dict[str, float]] | None = None,
) -> Iterator[Outcome]:
    """Yield an `Outcome` per problem as it is done; those already in `log` come first and are not run again.

    Args:
        engine: an idle `Engine`.
        prompts: token ids of each problem's prompt.
        together: problems in the engine at the same time.
        log: JSONL file of outcomes, appended one by one, so that an interrupted run goes on where it was.
        check: looks at every new result, for what needs its tokens; its findings go into the outcome. With `together`
            1 the engine is idle then. Outcomes in `log` that have not been checked are run again.
    """
    done = {id: outcome for id, outcome in read_log(log).items() if check is None or outcome.check is not None}
    if log is not None and log.exists() and not log.read_bytes().endswith(b"\n"):
        with open(log, "a", encoding="utf-8") as file:  # A line that an interruption cut must not spoil the next one.
            file.write("\n")
    todo = []
    for problem, prompt in zip(problems, prompts, strict=True):
        if problem.id in done:
            yield done[problem.id]
        else:
            todo.append((problem, prompt))
    waiting, running = collections.deque(todo), {}
    try:
        while waiting or running:
            while waiting and len(running) < together:
                problem, prompt = waiting.popleft()
                running[engine.submit(prompt, limits=limits, sampling=sampling, mode=mode)] = problem
            for result in engine.step():
                problem = running.pop(result.request)
                outcome = outcome_of(problem, result, tokenizer.decode(result.tokens.tolist()))
                if check is not None and outcome.error is None:
                    outcome = replace(outcome, check=check(problem, result))
                if log is not None and outcome.error is None:
                    with open(log, "a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(outcome), ensure_ascii=False) + "\n")
                yield outcome
    finally:
        for request in running:
            engine.cancel(request)


def read_log(log: Path | None) -> dict[str, Outcome]:
    """Outcomes of an earlier run by problem; a last line that was cut by an interruption is ignored."""
    done: dict[str, Outcome] = {}
    if log is None or not log.exists():
        return done
    for line in log.read_text(encoding="utf-8").split("\n"):
        try:
            outcome = Outcome(**json.loads(line))
        except (json.JSONDecodeError, TypeError):
            continue
        done[outcome.id] = outcome
    return done
