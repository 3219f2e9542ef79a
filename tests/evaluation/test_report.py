"""Totals over problems that differ in every measure: a mean of ratios is not a ratio of sums."""

import pytest

from mvjax.evaluation.report import number, totals
from mvjax.evaluation.run import Outcome


def outcome(id, **fields):
    usual = {
        "correct": False,
        "blocks": [],
        "reference_blocks": None,
        "new_tokens": 10,
        "critical_path": 10,
        "finish": "tokens",
        "cuts": 0,
        "abandoned": 0,
        "barred": 0,
        "sampled": 10,
        "response": "",
    }
    return Outcome(id, **{**usual, **fields})


UNEQUAL = [
    outcome("long", correct=True, blocks=[2], reference_blocks=[2], new_tokens=900, critical_path=300, sampled=800,
            barred=4, finish="stop"),
    outcome("short", blocks=[3], reference_blocks=[2], new_tokens=30, critical_path=30, sampled=10, barred=1, cuts=2),
    outcome("cut", correct=True, blocks=[2, 2], reference_blocks=[2, 2], new_tokens=80, critical_path=40, sampled=40,
            abandoned=1, finish="stop"),
    outcome("no reference", new_tokens=0, critical_path=0, sampled=0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("measure", "value"),
    [
        ("problems", 4),
        ("accuracy", 2 / 4),
        ("opened a block", 3 / 4),
        ("reference has a block", 3 / 3),
        ("right number of paths", 2 / 3),
        ("right, none cut or abandoned", 1 / 3),
        ("tokens", 1010),
        ("critical path", 370),
        ("# parallel", (3 + 1 + 2 + 0) / 4),
        ("cut", 1),
        ("abandoned", 1),
        ("barred per 1000 tokens", 1000 * 5 / 850),
        ("stopped by itself", 2 / 4),
    ],
)
def test_each_measure_of_unequal_problems(measure, value):
    assert totals(UNEQUAL)[measure] == pytest.approx(value)


def test_figures_as_text():
    assert [number(value) for value in (None, 2 / 3, 1010)] == ["-", "0.667", "1010"]
