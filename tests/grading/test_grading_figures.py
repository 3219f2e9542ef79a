"""How often the grader is right.

MVJAX_MATH500 (id, answer) and MVJAX_GRADING_CASES (id, answer, response, correct) name files of JSON lines.
"""

import json
import os
from pathlib import Path

import pytest
from grading_figures import FORMS, answers_of, as_they_are, interval, perturbed, rewritten

from mvjax.grading import grade

MATH500, CASES = os.environ.get("MVJAX_MATH500"), os.environ.get("MVJAX_GRADING_CASES")
FEW = [r"\frac{3}{8}", "x^2-9", "(3,4)", r"2\sqrt{5}", "[2,7)"]


@pytest.mark.slow  # it imports sympy, and the processes beside it another
def test_a_few_answers_in_all_forms_rewritten_and_perturbed():
    for form in FORMS:
        assert as_they_are(FEW, form).others == []
    same, other = rewritten(FEW), perturbed(FEW)
    assert same.n > 12
    assert same.others == []
    assert other.n > 20
    assert other.others == []


def test_intervals():
    low, high = interval(0, 100)
    assert low == pytest.approx(0, abs=1e-9)
    assert high == pytest.approx(0.037, abs=5e-4)


@pytest.mark.slow
@pytest.mark.skipif(not CASES, reason="MVJAX_GRADING_CASES names no file")
def test_cases():
    lines = [json.loads(line) for line in Path(CASES).read_text(encoding="utf-8").split("\n") if line]
    assert [
        row["id"] for row in lines if grade(row["response"], row["answer"], row.get("kind")).correct != row["correct"]
    ] == []


@pytest.mark.slow
@pytest.mark.skipif(not MATH500, reason="MVJAX_MATH500 names no file")
@pytest.mark.parametrize("half", [0, 1])
def test_math500(half, capsys):
    """The rules were made looking at every second answer from the first on (half 0)."""
    answers = answers_of(Path(MATH500))[half::2]
    shares = {form.format("a"): as_they_are(answers, form) for form in FORMS}
    same, other = rewritten(answers), perturbed(answers)
    with capsys.disabled():
        for name, share in {**shares, "rewritten": same, "perturbed": other}.items():
            print(f"half {half}, {name}: {share}", *share.others, sep="\n    ")
    assert all(share.k == share.n for share in shares.values())
    assert same.k >= 0.98 * same.n
    assert same.n >= 400
    assert other.k * 200 <= other.n
