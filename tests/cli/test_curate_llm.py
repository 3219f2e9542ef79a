"""`mvjax curate llm` against a scripted endpoint: from traces to records, stopped, gone on with, and refused."""

import json
import os
import signal
import threading

import pytest
from model_replies import Model, problem
from scripted_endpoint import serve
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model

from mvjax.cli.main import main
from mvjax.curator.store import Store
from mvjax.curator.store.counts import count
from mvjax.data.sources import read_records

MODEL = Model()


def play(messages, body):
    return MODEL.reply(messages)


@pytest.fixture
def traces(tmp_path, monkeypatch):
    """Four traces in the layout of s1K-1.1, in the working directory."""
    monkeypatch.chdir(tmp_path)
    entries = [problem(number, farms=2, nested=int(number == 1), attempt=number == 0) for number in range(4)]
    lines = [
        {"id": e.id, "question": e.question, "deepseek_thinking_trajectory": e.reasoning, "solution": e.answer}
        | ({"deepseek_attempt": e.attempt} if e.attempt else {})
        for e in entries
    ]
    (tmp_path / "traces.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path / "traces.jsonl"


def arguments(endpoint, *more):
    words = ["curate", "llm", "traces.jsonl", "--base-url", endpoint.url, "--model", "scripted", "--store", "s.sqlite"]
    return [*words, *more]


def test_from_traces_to_records(traces, capsys):
    with serve(play) as endpoint:
        assert main(arguments(endpoint, "--output", "out.jsonl", "--price-in", "1", "--price-out", "4")) == 0
        asked = len(endpoint.requests)
        said = capsys.readouterr()
        assert "4 new problems" in said.err
        assert "4 of 4 records are done: 4 parallel, 0 sequential, 0 rejected" in said.err
        assert "4: 4 parallel" in said.out
        assert main(arguments(endpoint, "--output", "again.jsonl")) == 0
        assert len(endpoint.requests) == asked
    assert set(endpoint.answered.values()) == {1}
    records = read_records(traces.parent / "out.jsonl")
    assert [record.id for record in records] == [f"farms-{number}" for number in range(4)]
    assert records[0].response.startswith("<Think>\n")
    assert (traces.parent / "again.jsonl").read_bytes() == (traces.parent / "out.jsonl").read_bytes()
    assert main(["curate", "show", "s.sqlite", "farms-1", "--html", "page.html"]) == 0
    page = (traces.parent / "page.html").read_text()
    assert page.count('class="block"') == 2
    assert 'data-sentences="1 2"' in page


@pytest.mark.parametrize(("option", "limit", "larger"), [("--budget", "0.9", "99"), ("--token-budget", "9000", "0")])
def test_budget_then_on(traces, capsys, option, limit, larger):
    """At 100 a million tokens, 0.9 is 9,000 tokens."""
    with serve(play) as endpoint:
        prices = ("--price-in", "100", "--price-out", "100", "--concurrency", "2", "--max-tokens", "500")
        assert main(arguments(endpoint, *prices, option, limit)) == 0
        said = capsys.readouterr().err
        assert "the budget is reached, 0." in said
        assert "a larger budget goes on" in said
        with Store.read("s.sqlite") as store:
            assert 0 < store.spent()[2] <= 0.9
            assert count(store).pending > 0
        assert main(arguments(endpoint, *prices, option, limit)) == 0
        assert main(arguments(endpoint, *prices, option, larger)) == 0
    assert set(endpoint.answered.values()) == {1}
    assert "4 of 4 records are done" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_signals_then_on(traces, capsys, kind):
    hold = threading.Event()

    def slow(messages, body):
        if len(endpoint.requests) == 9:
            os.kill(os.getpid(), kind)
            os.kill(os.getpid(), kind)
            hold.wait(5)
        return play(messages, body)

    with serve(slow) as endpoint:
        assert main(arguments(endpoint, "--concurrency", "1", "--output", "out.jsonl")) == 130
        said = capsys.readouterr().err
        assert "stopped: 1 of 4 records are done, every reply is kept; the same command goes on from here" in said
        assert "Traceback" not in said
        assert not (traces.parent / "out.jsonl").exists()
        hold.set()
        assert main(arguments(endpoint, "--concurrency", "1", "--output", "out.jsonl")) == 0
    repeated = [number for number in endpoint.answered.values() if number > 1]
    assert repeated in ([], [2])  # the call in flight
    assert len(read_records(traces.parent / "out.jsonl")) == 4


def test_other_settings(traces, capsys):
    with serve(play) as endpoint:
        assert main(arguments(endpoint, "--limit", "1")) == 0
        assert main(arguments(endpoint, "--retries", "1")) == 2
        assert "was made with retries = 2, now retries = 1" in capsys.readouterr().err
        assert main(arguments(endpoint, "--retries", "1", "--no-judge", "--accept-new-settings")) == 0
    with Store.read("s.sqlite") as store:
        stages = [{call.stage for call in store.calls(f"farms-{number}")} for number in (0, 1)]
    assert ["judge" in stage for stage in stages] == [True, False]


def test_a_local_model_scores_the_paths(traces, capsys):
    config = tiny_config(hidden_size=32, intermediate_size=64, max_position_embeddings=4096)
    wild = tiny_tensors(config)
    write_gguf_model(traces.parent / "wild.gguf", config, wild)
    write_gguf_model(traces.parent / "even.gguf", config, {name: 0 * tensor for name, tensor in wild.items()})
    with serve(play) as endpoint:
        even = ("--limit", "1", "--likelihood-model", "even.gguf")
        assert main(arguments(endpoint, *even)) == 0
        assert "1 of 1 records are done: 1 parallel" in capsys.readouterr().err
        assert main(arguments(endpoint, "--limit", "2")) == 2
        assert "was made with likelihood" in capsys.readouterr().err
        assert main(arguments(endpoint, "--likelihood-model", "wild.gguf")) == 2
        assert "likelihood_model" in capsys.readouterr().err
        words = arguments(endpoint, "--limit", "1", "--likelihood-model", "wild.gguf")
        assert main(["w.sqlite" if word == "s.sqlite" else word for word in words]) == 0
    with Store.read("w.sqlite") as store:
        assert store.outcome("farms-0").check == "likelihood"


def test_tokens_that_nobody_counted_are_told(traces, capsys):
    with serve(play, script=["no usage"]) as endpoint:
        assert main(arguments(endpoint, "--limit", "1")) == 0
    capsys.readouterr()
    assert main(["curate", "status", "s.sqlite"]) == 0
    assert "tokens of 1 replies are estimates" in " ".join(capsys.readouterr().out.split())
    assert main(["curate", "status", "s.sqlite", "--json"]) == 0
    assert sum(stage["estimated"] for stage in json.loads(capsys.readouterr().out)["stages"]) == 1


def test_rejected_problems_can_be_taken_up_again(traces, capsys):
    with serve(play, script=["ok"] * 3 + ["503"] * 2) as endpoint:
        words = ("--concurrency", "1", "--tries", "2", "--limit", "2", "--requests-per-minute", "0")
        assert main(arguments(endpoint, *words)) == 0
        assert "1 rejected" in capsys.readouterr().err
        assert main(arguments(endpoint, *words, "--again", "endpoint")) == 0
        said = capsys.readouterr().err
        assert "taken up again: 1 that were rejected (endpoint)" in said
        assert "2 parallel, 0 sequential, 0 rejected" in said
    assert set(endpoint.answered.values()) == {1}


def test_dry_run_asks_nothing(traces, capsys):
    dry = ["curate", "llm", "traces.jsonl", "--dry-run", "--price-in", "1", "--price-out", "2", "--budget", "0.001"]
    assert main(dry) == 0
    said = capsys.readouterr().out
    assert "4 problems, 0 of them done" in said
    assert "more than the budget of 0.00" in said
    assert not (traces.parent / "curate.sqlite").exists()
    with serve(play) as endpoint:
        assert main(arguments(endpoint, "--limit", "2")) == 0
        asked = len(endpoint.requests)
        assert main(arguments(endpoint, "--dry-run")) == 0
    assert len(endpoint.requests) == asked
    assert "4 problems, 2 of them done" in capsys.readouterr().out


def test_bad_lines_are_told_and_kept(traces, capsys):
    lines = traces.read_text().splitlines()[:2]
    traces.write_text("\n".join([lines[0], "{", '{"question": "?"}', lines[1], lines[0].replace("farms-0", "copy")]))
    with serve(play) as endpoint:
        assert main(arguments(endpoint)) == 0
    said = capsys.readouterr().err
    assert "2 lines cannot be used; traces.jsonl:2: not JSON" in said
    assert "1 of the new ones are duplicates" in said
    assert "5 of 5 records are done: 2 parallel, 0 sequential, 3 rejected" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.jsonl"], "none.jsonl: No such file"),
        (["empty.jsonl"], "empty.jsonl: there is no record in it"),
        (["bad.jsonl"], "bad.jsonl: none of 2 lines can be used; bad.jsonl:1: no field with the reasoning"),
        (["traces.jsonl", "--reasoning", "thoughts"], "field 'thoughts' is missing"),
        (["traces.jsonl", "--model", ""], "--model: name the model"),
        (["traces.jsonl", "--base-url", ""], "--base-url ''"),
        (["traces.jsonl", "--base-url", "http://127.0.0.1:9/v1"], "nobody answers there"),
        (["traces.jsonl", "--model", "other"], "has no such model; there are scripted"),
        (["traces.jsonl", "--key-name", "WRONG_KEY"], "the key in WRONG_KEY is not accepted"),
        (["traces.jsonl", "--store", "traces.jsonl"], "--store is the input file"),
        (["traces.jsonl", "--store", "bad.jsonl"], "is no store of the curator"),
        (["traces.jsonl", "--output", "."], "is a directory"),
        (["traces.jsonl", "--output", "traces.jsonl"], "--output is the input file"),
        (["traces.jsonl", "--retries", "-1"], "--retries -1: must be 0 or more"),
        (["traces.jsonl", "--price-in", "-1"], "--price-in -1"),
        (["traces.jsonl", "--budget", "-1"], "--budget -1"),
        (["traces.jsonl", "--budget", "1"], "give --price-in and --price-out"),
        (["traces.jsonl", "--concurrency", "0"], "--concurrency 0: must be 1 or more"),
        (["traces.jsonl", "--max-tokens", "0"], "max_tokens 0: must be 1 or more"),
        (["traces.jsonl", "--extra", "{"], "--extra: not JSON"),
        (["traces.jsonl", "--extra", "[]"], "--extra: must be a JSON object"),
        (["traces.jsonl", "--prompts", "nowhere"], "nowhere: no such directory"),
    ],
)
def test_mistakes_are_one_line_and_cost_nothing(traces, capsys, monkeypatch, words, message):
    monkeypatch.setenv("KEY", "right")
    monkeypatch.setenv("WRONG_KEY", "wrong")
    (traces.parent / "empty.jsonl").write_text("\n")
    (traces.parent / "bad.jsonl").write_text('{"question": "?"}\n[]\n' + " " * 5000)
    with serve(play, key="right") as endpoint:
        known = ["--base-url", endpoint.url, "--model", "scripted", "--key-name", "KEY", "--store", "s.sqlite"]
        assert main(["curate", "llm", *known, *words]) == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1]
    assert error.count("error: ") == 1
    assert endpoint.requests == []
