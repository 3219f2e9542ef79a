"""`mvjax curate analyze` and `probe`, from the command line."""

import importlib.util
import json
from importlib.resources import files

import pytest
from model_replies import Model, problem
from scripted_endpoint import serve
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model

from mvjax.cli.main import main
from mvjax.curator.analysis import probe
from mvjax.curator.production import Outcome, Problem
from mvjax.curator.sources.synthetic import SyntheticConfig, generate
from mvjax.curator.store import Store
from mvjax.data.records import write_records
from mvjax.data.sources import read_records


@pytest.fixture
def records(tmp_path):
    path = tmp_path / "records.jsonl"
    write_records(path, generate(SyntheticConfig(degree=(2, 2), nesting=(0, 0)), 6))
    return path


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    config = tiny_config(hidden_size=32, intermediate_size=64, max_position_embeddings=2048)
    return write_gguf_model(tmp_path_factory.mktemp("toy") / "toy.gguf", config, tiny_tensors(config))


def test_records(records, toy, tmp_path, capsys):
    picture = tmp_path / "p.png"
    assert main(["curate", "analyze", str(records), "--plot", str(picture)]) == 0
    said = capsys.readouterr()
    assert "sub-task" in said.out
    assert "47.3%" in said.out
    assert "6: 6 with branches" in said.out
    if importlib.util.find_spec("matplotlib"):
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert f"picture: {picture}" in said.err
    else:
        assert "matplotlib is not installed" in said.err
    assert main(["curate", "analyze", str(records), "--json", "--limit", "4", "--tokenizer", str(toy)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["traces"], result["branches"], result["unit"]) == (4, 8, "tokens")
    assert 1.5 < result["attainable"]["mean"] <= 2


def test_a_store_of_a_source_without_stages_is_read_by_its_records(tmp_path, capsys):
    store, file = tmp_path / "s.sqlite", tmp_path / "out.jsonl"
    assert main(["curate", "gsm8k", str(files("mvjax") / "assets" / "gsm8k_sample.jsonl"), "--output", str(file)]) == 0
    records = list(read_records(file))
    capsys.readouterr()
    with Store.open(store, {}) as opened:
        opened.add(Problem(record.id, record.messages[0]["content"], record.autoregressive) for record in records)
        for number, record in enumerate(records, 1):
            opened.finish(number, Outcome(record))
    assert main(["curate", "analyze", str(store), "--json"]) == 0
    from_store = json.loads(capsys.readouterr().out)
    assert main(["curate", "analyze", str(file), "--json"]) == 0
    assert from_store == json.loads(capsys.readouterr().out)
    assert from_store["traces_with_branches"] > 10


def test_a_store_with_labels(tmp_path, capsys):
    path = tmp_path / "s.sqlite"
    found = [{"kind": "selective", "case": "other", "branches": [[1, 1], [2, 2]]}]
    with Store.open(path, {}) as store:
        store.add([Problem("p", "q", "One two three. Four five six.")])
        store.finish(1, Outcome(None, stages={"labels": {"blocks": found}}))
    assert main(["curate", "analyze", str(path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["kinds"][-1] == {"kind": "selective", "case": "other", "share": 1.0, "per_trace": 2.0}
    assert result["attainable"]["mean"] == 2.0


@pytest.fixture
def traces(tmp_path, monkeypatch):
    """Traces in which two farms, or three, are worked out one after the other; in the working directory."""
    monkeypatch.chdir(tmp_path)
    entries = [problem(number, farms=2 + number, nested=number) for number in range(2)]
    lines = [{"id": e.id, "question": e.question, "reasoning": e.reasoning, "answer": e.answer} for e in entries]
    (tmp_path / "traces.jsonl").write_text("\n".join(map(json.dumps, lines)))


def test_a_store_of_curated_traces(traces, capsys):
    """What the stages found, read without a call; the transcripts that came of them tell the same kinds."""
    with serve(lambda messages, body: Model().reply(messages)) as endpoint:
        arguments = ["--base-url", endpoint.url, "--model", "scripted", "--store", "s.sqlite", "--output", "out.jsonl"]
        assert main(["curate", "llm", "traces.jsonl", *arguments]) == 0
    capsys.readouterr()
    found = []
    for source in ("s.sqlite", "out.jsonl"):
        assert main(["curate", "analyze", source, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    for result in found:
        assert (result["traces"], result["traces_with_branches"]) == (2, 2)
        assert result["traces_with_recursion"] == 1
        assert result["attainable"]["mean"] > 1.2
    assert found[0]["kinds"] == found[1]["kinds"]
    assert found[0]["branches"] == found[1]["branches"] == 7


def test_raw_traces_are_labelled_once(traces, capsys):
    def reply(messages, body):
        if len(messages) == 2:  # the first try
            return "I see no JSON here."
        return json.dumps({"blocks": [{"kind": "selective", "case": "other", "branches": ["2", "3"], "reason": ""}]})

    with serve(reply) as endpoint:
        arguments = ["curate", "analyze", "traces.jsonl", "--base-url", endpoint.url, "--model", "scripted", "--json"]
        arguments += ["--max-tokens", "500"]
        for _ in range(2):
            assert main(arguments) == 0
            said = capsys.readouterr()
            result = json.loads(said.out)
            assert (result["traces"], result["branches"]) == (2, 4)
            assert "2 of 2 records are done" in said.err
        assert len(endpoint.requests) == 4
    assert "2. " in endpoint.requests[0]["messages"][1]["content"]
    assert {request["max_tokens"] for request in endpoint.requests} == {500}
    assert main(["curate", "analyze", "labels.sqlite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == result


def test_probe(records, toy, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(probe, "collect", lambda model, records, layers, **_: [made_up(layers)])
    picture = tmp_path / "p.png"
    arguments = ["curate", "probe", str(records), "--model", str(toy), "--shuffles", "2"]
    assert main([*arguments, "--plot", str(picture)]) == 0
    said = capsys.readouterr()
    assert "token, place" in said.out
    assert "layer 2" in said.err
    if importlib.util.find_spec("matplotlib"):
        assert picture.read_bytes().startswith(b"\x89PNG")
    assert main([*arguments, "--layers", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [one["layer"] for one in result["probes"]] == [None, 1]
    assert result["left_out"] == []


def made_up(layers):
    import numpy as np

    rng = np.random.default_rng(0)
    parallel = rng.random(100) < 0.5
    return probe.Points(
        "autoregressive",
        "start",
        rng.normal(size=(100, len(layers), 4)),
        parallel,
        np.arange(100) % 5,
        rng.normal(size=(100, 2)),
    )


def test_a_probe_of_too_few_records_says_so(records, toy, capsys):
    arguments = ["--points", "start", "--forms", "autoregressive", "--limit", "2"]
    assert main(["curate", "probe", str(records), "--model", str(toy), *arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "autoregressive, start: 0 of 2 points are parallel, too few" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["analyze", "missing.jsonl"], "missing.jsonl: No such file"),
        (["analyze", "{records}", "--limit", "-1"], "--limit -1"),
        (["analyze", "{records}", "--limit", "9" * 400], "--limit 99999999999999999999...: must be at most"),
        (["analyze", "{records}", "--plot", "{records}"], "--plot is the input"),
        (["analyze", "{records}", "--plot", "{folder}"], "is a directory"),
        (["analyze", "{records}", "--format", "sharegpt"], "a turn from None; known are"),
        (["probe", "{records}", "--format", "sharegpt"], "a turn from None; known are"),
        (["probe", "missing.jsonl"], "missing.jsonl: No such file"),
        (["probe", "{records}", "--model", "nowhere.gguf"], "nowhere.gguf does not exist"),
        (["probe", "{records}", "--model", "{toy}", "--layers", "9"], "--layers 9: the model has layers 0"),
    ],
)
def test_mistakes_are_one_line_and_status_2(records, toy, tmp_path, capsys, arguments, message):
    names = {"{records}": str(records), "{folder}": str(tmp_path), "{toy}": str(toy)}
    assert main(["curate", *(names.get(word, word) for word in arguments)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


def test_a_store_without_stages(tmp_path, capsys):
    with Store.open(tmp_path / "s.sqlite", {}) as store:
        store.add([Problem("p", "q", "One. Two.")])
        store.finish(1, Outcome(None, "endpoint", "down"))
    assert main(["curate", "analyze", str(tmp_path / "s.sqlite")]) == 2
    assert "nothing in it says what is parallel" in capsys.readouterr().err
