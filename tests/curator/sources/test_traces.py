"""Reading traces."""

import itertools
import json

import pytest

from mvjax.curator.production import Problem
from mvjax.curator.sources import traces
from mvjax.curator.sources.traces import Fields, read_problems
from mvjax.data.records import Fault
from mvjax.errors import UserError


def lines(path, *entries):
    text = "\n".join(entry if isinstance(entry, str) else json.dumps(entry) for entry in entries)
    path.write_text(text, encoding="utf-8")
    return path


def test_the_layout_of_s1k_needs_no_option(tmp_path):
    entry = {
        "solution": "128", "question": "How many?", "cot_type": "math", "source_type": "aime", "metadata": "{}",
        "gemini_thinking_trajectory": "g", "gemini_attempt": "ga", "deepseek_thinking_trajectory": "It is 128.",
        "deepseek_attempt": "\\boxed{128}", "gemini_grade": "Yes", "deepseek_grade": "Yes",
    }  # fmt: skip
    (problem,) = read_problems(lines(tmp_path / "s1K.jsonl", entry))
    assert problem == Problem("s1K-1", "How many?", "It is 128.", "128", "\\boxed{128}")


def test_fields_by_name(tmp_path):
    entry = {"q": "Q", "cot": "R", "gold": 7, "uid": 12, "level": [3], "question": "other"}
    path = lines(tmp_path / "a.jsonl", "", entry)
    (problem,) = read_problems(path, Fields(question="q", reasoning="cot", answer="gold", meta=("level",)))
    assert problem == Problem("12", "Q", "R", "7", meta={"level": [3]})
    (fault,) = read_problems(path, Fields(question="ask"))
    assert fault == Fault("a.jsonl:2", "field 'ask' is missing; there are q, cot, gold, uid, level, question")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "nested too deep"),
        ({"question": "Q"}, "no field with the reasoning"),
        ({"question": ["Q"], "reasoning": "R"}, "field 'question' (the question) is no text"),
        ({"question": "Q", "reasoning": None}, "no field with the reasoning"),
        ({"question": "Q", "reasoning": "R", "answer": True}, "field 'answer' (the answer) is no text"),
    ],
)
def test_a_line_that_is_no_problem_is_named(tmp_path, line, reason):
    good = {"question": "Q", "reasoning": "R", "answer": None}
    problem, fault, other = read_problems(lines(tmp_path / "a.jsonl", good, line, good))
    assert isinstance(problem, Problem)
    assert problem.answer == ""
    assert other.id == "a-3"
    assert fault.name == "a.jsonl:2"
    assert reason in fault.reason


def test_bytes_that_are_no_text_and_lines_without_end(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"question": "\xff"}\n' + b"x" * 300 + b'\n{"question": "Q", "reasoning": "R"}\n' + b"y" * 300)
    monkeypatch.setattr(traces, "MAX_LINE", 64)
    first, long, good, last = read_problems(path)
    assert "not UTF-8" in first.reason
    assert "longer than" in long.reason
    assert good.id == "a-3"
    assert last.name == "a.jsonl:4"


def test_lines_are_read_as_they_are_wanted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "Q", "reasoning": "R"}\n' * 3 + "{")
    problems = read_problems(path)
    assert [problem.id for problem in itertools.islice(problems, 2)] == ["a-1", "a-2"]
    assert len(list(read_problems(path, limit=2))) == 2
    with pytest.raises(UserError, match="No such file"):
        next(read_problems(tmp_path / "none.jsonl"))
