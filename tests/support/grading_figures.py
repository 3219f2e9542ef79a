"""How often the grader is right about a benchmark's answers, other ways of writing them, and wrong ones near them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

from answer_variants import perturbations, rewritings

from mvjax.grading import grade

FORMS = (r"\boxed{{{}}}", r"So the result is $\boxed{{{}}}$.", "The answer is ${}$.", "The answer is {}.", "#### {}")


class Share(NamedTuple):
    """k of n, with what was not as it should be."""

    k: int
    n: int
    others: list[tuple[str, str, str]]

    def __str__(self) -> str:
        low, high = interval(self.k, self.n)
        return (
            f"{self.k} of {self.n} ({100 * self.k / max(1, self.n):.2f} %; 95 %: {100 * low:.2f} to {100 * high:.2f})"
        )


def interval(k: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share."""
    middle, width = (k + z * z / 2) / (n + z * z), z * math.sqrt(k * (n - k) / n + z * z / 4) / (n + z * z)
    return middle - width, middle + width


def answers_of(path: Path) -> list[str]:
    """The reference answers of a file of JSON lines."""
    return [json.loads(line)["answer"] for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def as_they_are(answers: list[str], form: str) -> Share:
    """Reference answers in a form of response: how many are right."""
    wrong = [("", answer, grade(form.format(answer), answer).extracted) for answer in answers]
    return _share(wrong, [grade(form.format(answer), answer).correct for answer in answers], True)


def rewritten(answers: list[str]) -> Share:
    """Other ways of writing the answers: how many are accepted."""
    made = [(rule, answer, text) for answer in answers for rule, text in rewritings(answer)]
    return _share(made, [grade(rf"So it is $\boxed{{{text}}}$.", answer).correct for _, answer, text in made], True)


def perturbed(answers: list[str]) -> Share:
    """Wrong answers near the right ones: how many are accepted."""
    made = [(rule, answer, text) for answer in answers for rule, text in perturbations(answer)]
    return _share(made, [grade(rf"So it is $\boxed{{{text}}}$.", answer).correct for _, answer, text in made], False)


def _share(made: list[tuple[str, str, str]], verdicts: list[bool], wanted: bool) -> Share:
    others = [item for item, correct in zip(made, verdicts, strict=True) if correct != wanted]
    return Share(sum(verdicts), len(made), others)
