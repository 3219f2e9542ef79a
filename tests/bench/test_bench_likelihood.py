"""The benchmark of likelihoods: its arithmetic, and a run with a toy model."""

import importlib.util
import json
from types import SimpleNamespace

import numpy as np
import pytest

from mvjax.bench import likelihood
from mvjax.bench.config import LikelihoodBench
from mvjax.bench.likelihood import Judged, real_steps, row, threshold
from mvjax.bench.report import Report
from mvjax.curator import local_model
from mvjax.curator.arithmetic import numbers_in


def judged(kind, *values, path=0):
    """A block whose paths have these gains, and no pull."""
    return Judged(kind, path, [SimpleNamespace(gain=value, pull=0.0) for value in values])


BLOCKS = [judged("number", 0.1, 0.9, path=2), judged("number", 0.8, 0.2, path=2), judged("mention", 0.3, 0.2, path=1)]
BLOCKS += [judged("", 0.2, 0.4), judged("", 0.0, 0.1)]


def test_a_threshold_reaches_its_precision():
    assert threshold(BLOCKS, "gain") == 0.8
    # All pulls are alike: there is but one limit.
    assert threshold(BLOCKS, "pull") == 0.0
    assert threshold([judged("", 0.7), judged("number", 0.4), judged("", 0.2)], "gain") == 0.4


def test_a_row_counts_blocks():
    limits = {"gain": 0.4, "pull": 1.0}
    found = row("planted", None, "gain", BLOCKS, limits)
    assert (found["dependent"], found["independent"]) == (3, 2)
    assert found["AUC"] == pytest.approx(5 / 6)
    assert (found["precision"], found["recall"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert found["right path"] == pytest.approx(2 / 3)
    found = row("planted", "mention", "gain", BLOCKS, limits)
    assert (found["dependent"], found["recall"], found["precision"]) == (1, 0, 0)
    assert row("planted", None, "pull", BLOCKS, limits)["precision"] == "-"
    found = row("planted", None, "either", BLOCKS, limits)
    assert "AUC" not in found
    assert found["recall"] == pytest.approx(2 / 3)


def test_real_steps_are_what_they_are_called():
    made = real_steps(40)
    assert len(made.blocks) == 40
    assert sum(map(bool, made.kinds)) == sum(made.paths) / 2 == 20
    for (block, known), kind in zip(made.blocks, made.kinds, strict=True):
        first, second = (numbers_in(path.body[0]) for path in block.paths)
        if kind:
            assert bool((first & second) - numbers_in(known)) == (kind == "sibling number")


def test_a_run_with_a_toy(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(local_model, "SHORTEST", 2048)  # one shape to compile
    chosen = LikelihoodBench(model=toy, adapter="none", blocks=4, tuning=4, steps=4, output=tmp_path)
    chosen.check()
    report, said = Report("likelihood", {}), []
    likelihood.measure(chosen, report, said.append)
    assert any("planted: 4 of 4 documents" in line for line in said)
    assert {row["set"] for row in report.rows} == {"planted", "real steps"}
    for found in report.rows:
        assert 0 <= found.get("AUC", 0) <= 1
        assert np.isfinite(found.get("limit", 0))
    assert json.loads(json.dumps(report.to_dict()))["rows"]
    if importlib.util.find_spec("matplotlib"):
        assert (tmp_path / "likelihood.png").read_bytes().startswith(b"\x89PNG")
