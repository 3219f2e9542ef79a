"""The planted set and what the lexical checks find in it."""

import json
import math

from mvjax.bench.independence import PRECISION, RECALL, check_all, row
from mvjax.bench.planted import SETS, cases, material
from mvjax.cli.main import main


def test_the_two_parts_share_no_wording():
    first, second = ({wording.text for wording in material(name).planted} for name in SETS)
    assert first
    assert second
    assert not first & second


def test_half_of_the_blocks_lean_and_equal_seeds_give_equal_blocks():
    made = cases("held_out", 40, 3)
    assert sum(bool(case.path) for case in made) == 20
    assert made == cases("held_out", 40, 3)
    assert made != cases("held_out", 40, 4)


def test_the_aims_are_reached_on_wordings_that_were_not_used_in_tuning():
    found = row("held_out", "all", check_all(cases("held_out", 80, 7)))
    assert found["recall"] >= RECALL
    assert found["precision"] >= PRECISION


def test_it_runs_and_reports(tmp_path, capsys):
    assert main(["bench", "independence", "--blocks", "12", "--output", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "independence.json").read_text())
    rows = [entry for entry in report["rows"] if entry["dependence"] == "all"]
    assert [entry["planted"] for entry in rows] == [6, 6]
    assert all(math.isfinite(entry["recall"]) for entry in rows)
    assert "missed:" in capsys.readouterr().out
