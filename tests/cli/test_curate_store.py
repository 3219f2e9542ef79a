"""`mvjax curate status`, `export` and `show`: what a store holds, from the command line."""

import json

import pytest
from made_up_productions import call, problem, record

from mvjax.cli.main import main
from mvjax.curator.production import Finding, Outcome, Reply
from mvjax.curator.store import Store
from mvjax.data.records import Fault
from mvjax.data.sources import read_records


@pytest.fixture
def store(tmp_path):
    """A store of a run that was stopped."""
    path = tmp_path / "s.sqlite"
    with Store.open(path, {"model": "tiny"}) as store:
        store.add([*(problem(number) for number in range(1, 8)), problem(1, id="copy"), Fault("in:9", "is\nbad")])
        for number in range(1, 6):
            entry = problem(number)
            store.commit(number, 0, call(entry, "tree"), Reply("{}", prompt_tokens=1000, completion_tokens=50), 0.25)
            found = (Finding("judge", "path 1", "uses 42"),) if number == 2 else ()
            store.finish(number, Outcome(record(entry, parallel=number < 4), "judge" if found else "", "", found))
        store.finish(6, Outcome(None, "answer", "the answer\nis lost"))
    return path


def test_status(store, capsys):
    assert main(["curate", "status", str(store)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for piece in ("total 9", "pending 1", "parallel 3", "sequential 2", "rejected 3", "answer 1", "unusable input 1"):
        assert piece in shown
    assert "tree 5 0 0 0 5,000 250 0.0 1.25" in shown
    assert main(["curate", "status", str(store), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["reasons"] == {"answer": 1, "duplicate": 1, "unusable input": 1}
    assert result["limited"] == {"judge": 1}
    assert result["cost"] == 1.25
    assert result["settings"] == {"model": "tiny"}
    assert result["stages"][0]["stage"] == "tree"


def test_export(store, tmp_path, capsys):
    out, why, bench = tmp_path / "out.jsonl", tmp_path / "why.txt", tmp_path / "bench.jsonl"
    bench.write_text(json.dumps({"problem": "What is 2+1?", "answer": "3"}))
    arguments = ["curate", "export", str(store), "--output", str(out)]
    assert main([*arguments, "--rejected", str(why), "--exclude", str(bench)]) == 0
    said = capsys.readouterr()
    assert "4: 2 parallel, 2 sequential" in said.out
    assert "1 left out: benchmark problem" in said.err
    assert [entry.id for entry in read_records(out)] == ["p1", "p3", "p4", "p5"]
    assert sorted(why.read_text().splitlines()) == [
        "copy\tthe same question and reasoning as p1",
        "in:9\tis bad",
        "p6\tthe answer is lost",
    ]
    assert main([*arguments, "--no-sequential", "--shuffle", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["records"] == len(read_records(out)) == 3
    assert main([*arguments, "--test-share", "0.5"]) == 0
    assert "out.test.jsonl" in capsys.readouterr().err
    test = read_records(tmp_path / "out.test.jsonl")
    assert len(test) + len(read_records(out)) == 5


def test_show(store, tmp_path, capsys):
    assert main(["curate", "show", str(store), "p2"]) == 0
    shown = capsys.readouterr().out
    assert "p2  parallel" in shown
    assert "uses 42" in shown
    page = tmp_path / "page.html"
    assert main(["curate", "show", str(store), "p2", "--html", str(page)]) == 0
    assert page.read_text().startswith("<!doctype html>")
    assert main(["curate", "show", str(store), "p7"]) == 0
    assert "p7  pending" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "there is no 'nonsense'"),
        (["status", "none.sqlite"], "there is no such store"),
        (["status", "text"], "is no store of the curator"),
        (["show", "STORE", "p22"], "has no problem 'p22'; there are p2"),
        (["show", "STORE", "copi"], "there are copy, ..."),
        (["show", "STORE", "p2", "--html", "."], "is a directory"),
        (["show", "STORE", "p2", "--html", "STORE"], "--html is the store"),
        (["export", "STORE", "--output", "."], "is a directory"),
        (["export", "STORE", "--output", "STORE"], "--output is the store"),
        (["export", "STORE", "--output", "o", "--test-share", "1"], "--test-share 1.0"),
        (["export", "STORE", "--output", "o", "--exclude", "none.jsonl"], "none.jsonl: No such file"),
        (["export", "STORE", "--output", "o", "--exclude", "text"], "text:1: not JSON"),
        (["export", "EMPTY", "--output", "o"], "there is no record to write"),
    ],
)
def test_mistakes_are_one_line_and_status_2(store, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("some text\n" * 100)
    Store.open(tmp_path / "empty.sqlite").close()
    names = {"STORE": str(store), "EMPTY": "empty.sqlite"}
    before = store.read_bytes()
    assert main(["curate", *(names.get(word, word) for word in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "o").exists()
    assert store.read_bytes() == before


def test_help_lists_what_there_is(capsys):
    assert main(["curate", "--help"]) == 0
    shown = capsys.readouterr().out
    for verb in ("llm", "gsm8k", "synthetic", "status", "show", "export", "analyze", "probe"):
        assert f"  {verb}" in shown
    with pytest.raises(SystemExit) as ended:
        main(["curate", "export", "--help"])
    assert ended.value.code == 0
    assert "--test-share" in capsys.readouterr().out
