"""`mvjax curate` end to end."""

import json
from importlib.resources import files

import pytest

from mvjax.cli.main import main
from mvjax.data.sources import read_records


def test_gsm8k(tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    sample = str(files("mvjax") / "assets" / "gsm8k_sample.jsonl")
    assert main(["curate", "gsm8k", sample, "--output", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    records = read_records(out)
    assert (result["records"], result["parallel"], result["sequential"]) == (60, 40, 20)
    assert len(records) == 60
    assert result["blocks"] == sum(record.response.count("<Parallel>") for record in records)
    assert main(["curate", "gsm8k", sample, "--output", str(out), "--no-sequential", "--limit", "50"]) == 0
    assert "paths per block" in capsys.readouterr().out
    assert len(read_records(out)) == 40


def test_rejected_problems_are_listed(tmp_path, capsys):
    source, out, why = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "why.txt"
    good = {"question": "Two and 3?", "answer": "It is 2+3=<<2+3=5>>5\n#### 5"}
    bad = {"question": "Two and 3?", "answer": "It is 2+3=<<2+3=6>>6\n#### 6"}
    source.write_text(json.dumps(good) + "\n" + json.dumps(bad) + "\n")
    assert main(["curate", "gsm8k", str(source), "--output", str(out), "--rejected", str(why)]) == 0
    assert "wrong arithmetic" in capsys.readouterr().out
    assert why.read_text() == "in-2\twrong arithmetic: <<2+3=6>>\n"


def test_synthetic_is_reproducible(tmp_path, capsys):
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    dials = ["--count", "12", "--degree", "3", "--length", "1-2", "--nesting", "0", "--seed", "9", "--split", "test"]
    for path in (first, second):
        assert main(["curate", "synthetic", "--output", str(path), *dials]) == 0
    assert first.read_bytes() == second.read_bytes()
    assert {record.meta["degree"] for record in read_records(first)} == {3}


def test_one_pipeline(tmp_path, capsys):
    """Producers without an LLM keep a store as well, and what it exports is what they write."""
    sample = files("mvjax") / "assets" / "gsm8k_sample.jsonl"
    source, out, store = tmp_path / "in.jsonl", tmp_path / "out.jsonl", str(tmp_path / "s.sqlite")
    lines = sample.read_text().splitlines()[:9]
    wrong = {"question": "Two and 3?", "answer": "It is 2+3=<<2+3=6>>6\n#### 6"}
    source.write_text("\n".join([*lines, lines[0], json.dumps(wrong)]))
    arguments = ["curate", "gsm8k", str(source), "--output", str(out), "--store", store]
    for _ in range(2):
        assert main([*arguments, "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["records"] == 9
        assert result["reasons"] == {"duplicate": 1, "wrong arithmetic": 1}
    exported = tmp_path / "exported.jsonl"
    assert main(["curate", "export", store, "--output", str(exported)]) == 0
    assert exported.read_bytes() == out.read_bytes()
    assert main(["curate", "show", store, "in-11"]) == 0
    assert "wrong arithmetic" in capsys.readouterr().out
    assert main(["curate", "synthetic", "--output", str(tmp_path / "x"), "--store", store]) == 2
    assert "was made with producer = gsm8k, now producer = synthetic" in capsys.readouterr().err


def test_equal_items_are_written_once(tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    dials = ["--count", "300", "--degree", "1", "--length", "1", "--nesting", "0", "--json"]
    assert main(["curate", "synthetic", "--output", str(out), *dials]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["reasons"] == {"duplicate": 300 - len(read_records(out))}
    assert len({(record.messages[0]["content"], record.response) for record in read_records(out)}) == result["records"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["synthetic", "--degree", "2-x"], "--degree 2-x"),
        (["synthetic", "--degree", "2-99"], "--degree 2-99"),
        (["synthetic", "--count", "0"], "--count 0"),
        (["gsm8k", "missing.jsonl"], "missing.jsonl: No such file"),
        (["gsm8k", "missing.jsonl", "--limit", "-1"], "--limit -1: must be 0 or more"),
        (["gsm8k", "missing.jsonl", "--store", "missing.jsonl"], "--store is the input file"),
    ],
)
def test_mistakes_are_one_line_and_status_2(tmp_path, capsys, arguments, message):
    assert main(["curate", *arguments, "--output", str(tmp_path / "out.jsonl")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()


def test_input_that_is_no_gsm8k(tmp_path, capsys):
    for name, data, message in (
        ("latin.jsonl", b'{"question": "\xe9"}', "line 1 is not UTF-8"),
        ("other.jsonl", b'{"text": "x"}\n', "1 of 1 records cannot be used"),
        ("empty.jsonl", b"", "no record"),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        assert main(["curate", "gsm8k", str(path), "--output", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
    path.write_bytes(b'{"question": "q", "answer": "no numbers #### 3"}\n')
    assert main(["curate", "gsm8k", str(path), "--output", str(path)]) == 2
    assert "--output is the input file" in capsys.readouterr().err
