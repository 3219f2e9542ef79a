"""A benchmark run: outcomes, totals, and going on after an interruption."""

import types

import numpy as np
import pytest

from mvjax.evaluation.problems import Problem
from mvjax.evaluation.report import totals
from mvjax.evaluation.run import run_benchmark

TEXT = {7: "The answer is 1.", 8: "The answer is 5.", 9: "The answer is 3."}
PROMPT = {"a": [7], "b": [8], "c": [9]}


class Engine:
    """Answers from a table, the last submitted first; counts what it was asked."""

    def __init__(self):
        self.asked, self.waiting, self.most = [], [], 0

    def submit(self, prompt, **_):
        self.asked.append(prompt)
        self.waiting.append((len(self.asked), prompt))
        self.most = max(self.most, len(self.waiting))
        return len(self.asked)

    def step(self):
        request, prompt = self.waiting.pop()
        return [
            types.SimpleNamespace(
                request=request,
                tokens=np.array(prompt),
                new_tokens=6,
                critical_path=3,
                reason="stop",
                cuts={},
                abandoned=0,
                barred=1,
                sampled=5,
                error=None,
            )
        ]

    def cancel(self, request):
        self.waiting = [waiting for waiting in self.waiting if waiting[0] != request]


class Tokenizer:
    def decode(self, tokens):
        return TEXT[tokens[0]]


PROBLEMS = [Problem(name, [], answer, paths=[]) for name, answer in (("a", "1"), ("b", "2"), ("c", "3"))]


def outcomes(engine, log=None, problems=PROBLEMS, together=1, check=None):
    return run_benchmark(
        engine,
        Tokenizer(),
        problems,
        [PROMPT[problem.id] for problem in problems],
        limits=None,
        sampling=None,
        mode="parallel",
        together=together,
        log=log,
        check=check,
    )


def test_totals():
    summary = totals(list(outcomes(Engine())))
    assert summary["problems"] == 3
    assert summary["accuracy"] == pytest.approx(2 / 3)
    assert summary["# parallel"] == 2.0
    assert summary["barred per 1000 tokens"] == pytest.approx(200)
    assert summary["right number of paths"] == 1.0
    assert summary["opened a block"] == 0.0


def test_totals_of_nothing_are_none():
    assert totals([])["accuracy"] is None


def test_as_many_at_a_time_as_asked_for():
    engine = Engine()
    done = list(outcomes(engine, together=2))
    assert engine.most == 2
    assert [o.id for o in done] == ["b", "c", "a"]
    assert [o.correct for o in done] == [False, True, True]


def test_an_interrupted_run_cancels_what_is_in_the_engine():
    engine = Engine()
    run = outcomes(engine, together=3)
    next(run)
    run.close()
    assert engine.waiting == []


def test_what_has_not_been_checked_is_run_again_to_be_checked(tmp_path):
    log = tmp_path / "outcomes.jsonl"
    list(outcomes(Engine(), log, PROBLEMS[:2]))
    checked = list(outcomes(Engine(), log, check=lambda problem, result: {"letter": ord(problem.id)}))
    assert [o.check["letter"] for o in checked] == [97, 98, 99]
    engine = Engine()
    assert list(outcomes(engine, log, check=lambda problem, result: {})) == checked
    assert engine.asked == []


def test_an_interrupted_run_goes_on(tmp_path):
    log = tmp_path / "outcomes.jsonl"
    first = outcomes(Engine(), log)
    done = [next(first), next(first)]
    first.close()
    log.write_text(log.read_text() + '{"id": "c", "corr')  # the line that was being written
    engine = Engine()
    again = list(outcomes(engine, log))
    assert engine.asked == [PROMPT["c"]]
    assert again[:2] == done
    assert [o.id for o in again] == ["a", "b", "c"]
    third = Engine()
    assert [o.id for o in outcomes(third, log)] == ["a", "b", "c"]
    assert third.asked == []
