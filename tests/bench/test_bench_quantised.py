"""The benchmark of quantised models: its arithmetic, and a run with a toy model."""

import numpy as np
import pytest

from mvjax.bench.config import QuantisedBench
from mvjax.bench.quantised import Read, compared, measure
from mvjax.bench.report import Report


def test_a_row_compares_counted_tokens():
    counted = np.array([[True, True, False], [True, True, True]])
    exact = Read(np.full((2, 3), -1.0), np.array([[1, 2, 9], [3, 4, 5]]))
    found = Read(np.array([[-1.0, -1.5, 7.0], [-1.0, -1.0, -2.0]]), np.array([[1, 7, 8], [3, 4, 5]]))
    row = compared("int8", "auto", exact, found, counted)
    assert (row["weights"], row["keys and values"]) == ("int8", "auto")
    assert row["perplexity"] == pytest.approx(np.exp(1.3))
    assert row["loss more"].startswith("+0.30000 (+0.")
    assert row["agreement"].startswith("0.8000 (")


@pytest.mark.slow
def test_a_toy_model(toy, tmp_path):
    chosen = QuantisedBench(model=toy, documents=3, tokens=40, together=2, output=tmp_path)
    chosen.check()
    report = Report("quantised", {})
    measure(chosen, report, lambda _: None)
    exact, *others = report.rows
    assert [(row["weights"], row["keys and values"]) for row in report.rows] == [
        ("auto", "auto"),
        ("auto", "int8"),
        ("int8", "auto"),
        ("int8", "int8"),
    ]
    assert exact["agreement"].startswith("1.0000")
    assert exact["loss more"].startswith("+0.00000 (+0.00000")
    # Random weights give logits that rounding moves far: how far says nothing about a trained model.
    assert all(np.isfinite(row["perplexity"]) for row in others)
    assert len({row["perplexity"] for row in report.rows}) == 4
    assert "3 documents, 117 tokens" in report.notes[0]
