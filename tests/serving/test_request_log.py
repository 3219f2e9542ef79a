"""The request log: a line for each request that has ended, without texts unless they are asked for."""

import json
import os
from contextlib import closing

import pytest
from scripted_answer import Answer, result

from mvjax.errors import UserError
from mvjax.serving.request_log import RequestLog

ANSWER = Answer(["a secret"], cuts={0: "tokens"})


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def play(log, *, error=None, made=None):
    log.submitted(1, "id-1", 12)
    log.tokens(1, ["an update"])
    log.tokens(1, ["another"])
    log.ended(1, made, error)


def ticking():
    now = iter(range(1000))
    return lambda: float(next(now))


def test_a_line_has_the_measures_and_no_text(tmp_path):
    path = tmp_path / "logs" / "requests.jsonl"
    log = RequestLog(path, clock=ticking())
    play(log, made=result(ANSWER, text="a secret"))
    (line,) = lines(path)  # At once, not when the log is closed.
    assert "secret" not in json.dumps(line)
    assert (line["request_id"], line["prompt_tokens"], line["reason"]) == ("id-1", 12, "stop")
    assert (line["first_token"], line["seconds"]) == (1, 2)
    assert (line["new_tokens"], line["cut"], line["barred"], line["found"]) == (2, 1, 2, 3)
    assert line["time"].endswith("+00:00")
    log.close()
    with closing(RequestLog(path)) as log:
        play(log, made=result(ANSWER))
    assert len(lines(path)) == 2


def test_texts_where_they_are_asked_for(tmp_path):
    with closing(RequestLog(tmp_path / "log", texts=True)) as log:
        play(log, made=result(ANSWER, text="ein Wort: ü\n"))
    assert lines(tmp_path / "log")[0]["text"] == "ein Wort: ü\n"


def test_failures(tmp_path, capsys):
    log = RequestLog("-")
    play(log, error=RuntimeError("out of\nmemory"))
    play(log, made=result(ANSWER, reason="failed", error=ValueError("bad")))
    log.ended(5, None, RuntimeError("never submitted"))
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["reason"], first["error"]) == ("failed", "RuntimeError: out of memory")
    assert second["error"] == "ValueError: bad"


def test_a_log_that_cannot_be_written(tmp_path, capsys):
    with pytest.raises(UserError, match="request log cannot be written"):
        RequestLog(tmp_path)
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    log = RequestLog("/dev/full")
    for _ in range(3):
        play(log, made=result(ANSWER))
    assert capsys.readouterr().err.count("no more lines") == 1
