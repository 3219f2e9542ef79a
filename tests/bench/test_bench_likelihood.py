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
from mvjax.curator.text.arithmetic import numbers_in


def judged(kind, *values, path=0):
    """A block whose paths have these gains, and no pull."""
    return Judged(kind, path, [SimpleNamespace(gain=value, pull=0.0) for value in values])


BLOCKS = [judged("number", 0.1, 0.9, path=2), judged("number", 0.8, 0.2, path=2), judged("mention", 0.3, 0.2, path=1)]
BLOCKS += [judged("", 0.2, 0.4), judged("", 0.0, 0.1)]


def test_a_threshold_lets_few_independent_blocks_through():
    blocks = [judged("", value / 100, 0.0) for value in range(101)] + [judged("number", 5.0)]
    limit = threshold(blocks, "gain")
    assert limit == pytest.approx(0.9)
    assert sum(one.measure("gain") > limit for one in blocks if not one.kind) == 10


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


def made_up_scores(model, blocks, say):
    """Scores that find a block out by its length."""
    say(f"{len(blocks)} documents read")
    return [
        [SimpleNamespace(gain=len(path.body[0]) / 100, pull=float(len(known))) for path in block.paths]
        for block, known in blocks
    ]


def test_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(likelihood, "score_blocks", made_up_scores)
    monkeypatch.setattr(likelihood.LocalModel, "load", lambda *_: None)
    chosen = LikelihoodBench(adapter="none", blocks=20, tuning=10, steps=12, output=tmp_path)
    chosen.check()
    report, said = Report("likelihood", {}), []
    likelihood.measure(chosen, report, said.append)
    assert said[1:] == ["tuning: 10 documents read", "held_out: 20 documents read", "real steps: 12 documents read"]
    assert {row["set"] for row in report.rows} == {"planted", "real steps"}
    whole = [row for row in report.rows if row["dependence"] == "all" and row["set"] == "planted"]
    assert [row["measure"] for row in whole] == ["gain", "pull", "either"]
    assert {(row["dependent"], row["independent"]) for row in whole} == {(10, 10)}
    for found in report.rows:
        assert 0 <= found.get("AUC", 0) <= 1
        assert np.isfinite(found.get("limit", 0))
    assert json.loads(json.dumps(report.to_dict()))["rows"]
    report.table()
    if importlib.util.find_spec("matplotlib"):
        assert (tmp_path / "likelihood.png").read_bytes().startswith(b"\x89PNG")
