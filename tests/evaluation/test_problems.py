"""Benchmark files in their three forms, and what is said about bad ones."""

import json

import pytest

from mvjax.errors import UserError
from mvjax.evaluation.problems import outer_paths, read_problems

BLOCK = (
    "<Parallel>\n<Goal>\n<Outline>\n1: a\n</Outline>\n<Outline>\n2: b\n</Outline>\n</Goal>\n<Path>\n1: x\n</Path>\n"
    "<Path>\n2: y\n{inner}</Path>\n<Conclusion>\nz\n</Conclusion>\n</Parallel>\n"
)
INNER = (
    "<Parallel>\n<Goal>\n<Outline>\n2.1: a\n</Outline>\n</Goal>\n<Path>\n2.1: x\n</Path>\n<Conclusion>\nz\n"
    "</Conclusion>\n</Parallel>\n"
)


def test_outer_paths_counts_outermost_blocks_only():
    assert outer_paths(None) is None
    assert outer_paths("plain") == []
    assert outer_paths(BLOCK.format(inner=INNER) + "text\n" + BLOCK.format(inner="")) == [2, 2]


def test_three_forms(tmp_path):
    file = tmp_path / "b.jsonl"
    rows = [
        {"id": "r", "messages": [{"role": "user", "content": "q"}], "response": BLOCK.format(inner=""), "answer": "3"},
        {"question": "q", "answer": "so <<1+1=2>>2\n#### 2"},
        {"problem": "p", "answer": 7},
    ]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    record, gsm, other = read_problems(file)
    assert (record.id, record.paths, record.answer) == ("r", [2], "3")
    assert (gsm.id, gsm.paths, gsm.answer) == ("b-2", None, "2")
    assert (other.messages, other.answer) == ([{"role": "user", "content": "p"}], "7")
    assert len(read_problems(file, limit=2)) == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds no problem"),
        (b"{", "b.jsonl:1: not JSON"),
        (b"[1]", "b.jsonl:1: expected an object"),
        (b'{"question": "q"}', "b.jsonl:1: expected messages"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_bad_files_are_named(tmp_path, content, says):
    file = tmp_path / "b.jsonl"
    file.write_bytes(content)
    with pytest.raises(UserError, match=says):
        read_problems(file)


def test_a_line_may_state_the_kind_of_its_answer(tmp_path):
    path = tmp_path / "b.jsonl"
    row = {"question": "?", "answer": "1, 2"}
    path.write_text("\n".join(json.dumps({**row, **more}) for more in ({}, {"kind": "list"})))
    record = {"messages": [{"role": "user", "content": "?"}], "answer": "1, 2"}
    with open(path, "a") as file:
        file.write("\n" + json.dumps({**record, "meta": {"kind": "list"}}))
        file.write("\n" + json.dumps({**record, "meta": {"kind": "algebra"}}))
    assert [problem.kind for problem in read_problems(path)] == [None, "list", "list", None]
    path.write_text(json.dumps({**row, "kind": "lists"}))
    with pytest.raises(UserError, match=r"b\.jsonl:1: field 'kind': kind 'lists': the kinds"):
        read_problems(path)
