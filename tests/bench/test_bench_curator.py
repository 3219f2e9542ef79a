"""The benchmark of the Curator's own work: its made-up traces are real ones, all of whose text is kept."""

import json

import pytest

from mvjax.bench.curator import SIDES, trace, work
from mvjax.cli.main import main


@pytest.mark.parametrize("characters", [1, 9_000])
def test_made_up_traces_are_accepted_whole(characters):
    made = trace(characters)
    seconds, calls, outcome = work(made)
    blocks = outcome.record.meta["blocks"]
    assert seconds > 0
    assert calls == 4 + blocks * (1 + len(SIDES))
    assert len(made.problem.reasoning) >= characters
    assert all(line in outcome.record.response for line in made.problem.reasoning.split("\n"))


def test_it_runs_and_reports(tmp_path, capsys):
    words = ["bench", "curator", "--characters", "500", "--repeat", "2", "--output", str(tmp_path)]
    assert main(words) == 0
    report = json.loads((tmp_path / "curator.json").read_text())
    assert report["rows"][0]["what"] == "a record"
    assert len(report["bars"]) == 3
    assert "processor time" in capsys.readouterr().out
