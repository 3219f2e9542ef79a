"""`mvjax bench` from the command line's side."""

import json

import pytest

from mvjax.bench import torch_model
from mvjax.cli import bench
from mvjax.cli.main import main


def test_one_benchmark(tmp_path, capsys):
    assert main(["bench", "layout", "--tokens", "400", "--repeat", "2", "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "short paths" in printed.out
    assert "2 of 2" in printed.err
    data = json.loads((tmp_path / "out" / "layout.json").read_text())
    assert data["config"]["tokens"] == 400
    assert [row["ms"]["count"] for row in data["rows"]] == [2, 2, 2]
    assert len(data["bars"]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["layout", "--repeat", "0"], "--repeat 0"),
        (["layout", "--tokens", "3"], "--tokens 3"),
        (["layout", "--tokens", "9" * 400], "--tokens: give at most 2147483647"),
        (["attention", "--lengths", "256", "9" * 400], "--lengths: give at most"),
        (["attention", "--lengths", "512", "256"], "--lengths"),
        (["attention", "--heads", "4"], "--heads 4 is no multiple"),
        (["engine", "--rows", "2", "4"], "1 must be among them"),
        (["engine", "--rows", "1", "40"], "--rows 1 40"),
        (["decode", "--steps", "5"], "--steps 5"),
        (["engine", "--model", "nowhere.gguf"], "nowhere.gguf does not exist"),
        (["parallel", "--degrees", "1"], "--degrees"),
        (["parallel", "--adapter", "nowhere"], "nowhere: there is no such adapter"),
        (["training", "--rank", "0"], "--rank 0"),
        (["likelihood", "--tuning", "2"], "--tuning 2"),
        (["likelihood", "--adapter", "nowhere"], "nowhere: there is no such adapter"),
        (["quantised", "--documents", "1"], "--documents 1"),
        (["quantised", "--data", "nowhere.jsonl"], "nowhere.jsonl: there is no such file"),
        (["all", "--repeat", "0"], "--repeat 0"),
    ],
)
def test_mistakes_are_one_line_and_status_2(tmp_path, capsys, arguments, message):
    assert main(["bench", *arguments, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "out").exists()


def test_what_is_in_the_way(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert main(["bench", "layout", "--output", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert torch_model.missing() is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "torch and transformers not installed" in torch_model.missing()
    monkeypatch.setattr(torch_model, "missing", lambda: "torch not installed")
    assert main(["bench", "training", "--output", str(tmp_path)]) == 2
    assert "torch not installed" in capsys.readouterr().err


def test_all_hands_its_settings_on_and_says_what_is_skipped(monkeypatch, capsys, tmp_path):
    ran = []
    monkeypatch.setattr(bench, "run", ran.append)
    monkeypatch.setattr(torch_model, "missing", lambda: "torch not installed")
    arguments = ["--model", "m.gguf", "--output", str(tmp_path), "--repeat", "3", "--adapter", str(tmp_path / "none")]
    assert main(["bench", "all", *arguments]) == 0
    kinds = [type(chosen).__name__.removesuffix("Bench") for chosen in ran]
    assert kinds == ["Layout", "Attention", "Engine", "Decode", "Curator", "Independence", "Quantised"]
    assert {chosen.repeat for chosen in ran} == {3}
    assert {str(chosen.model) for chosen in ran[2:4]} == {"m.gguf"}
    printed = capsys.readouterr()
    assert "parallel: " in printed.out
    assert "training: torch not installed" in printed.out
    ran.clear()
    assert main(["bench", "all", "--adapter", "none", "--output", str(tmp_path)]) == 0
    assert ran[0].repeat == 20
    assert ran[-2].adapter == "none"


def test_an_interrupted_benchmark_shows_what_it_has_and_writes_nothing(monkeypatch, capsys, tmp_path):
    def stopped(chosen, report, say):
        report.rows.append({"figure": 41})
        raise KeyboardInterrupt

    monkeypatch.setattr("mvjax.bench.layout.measure", stopped)
    assert main(["bench", "layout", "--output", str(tmp_path)]) == 130
    assert "41" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
