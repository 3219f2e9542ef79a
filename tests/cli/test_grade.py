"""`mvjax grade`."""

import json

import pytest

from mvjax.cli.main import main

ITEMS = [
    {"id": "a", "answer": "1/2", "response": "The answer is 50%."},
    {"id": 2, "answer": 3, "response": "The answer is [4]."},
    {"id": "c", "answer": "1, 2", "response": "The answer is 2, 1.", "kind": "list"},
    {"id": "d", "answer": "1, 2", "response": "The answer is 2,\u2028 1."},
]


def written(tmp_path, *items, start=""):
    path = tmp_path / "answers.jsonl"
    lines = [item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for item in items]
    path.write_text(start + "\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_json(tmp_path, capsys):
    assert main(["grade", written(tmp_path, *ITEMS, start="\ufeff"), "--json"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert printed == [
        {"id": "a", "correct": True, "extracted": "50%"},
        {"id": "2", "correct": False, "extracted": "[4]"},
        {"id": "c", "correct": False, "extracted": "2, 1"},
        {"id": "d", "correct": True, "extracted": "2,\u2028 1"},
    ]


def test_table(tmp_path, capsys):
    assert main(["grade", written(tmp_path, *ITEMS)]) == 0
    out = capsys.readouterr().out
    assert "2 of 4 right (50.0%)" in out
    assert "[4]" in out
    assert "wrong" in out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "x", "answer": "1"}', "answers.jsonl:2: field 'response' is missing or no text"),
        ('{"id": "x", "response": "1"}', "answers.jsonl:2: field 'answer' is missing"),
        ('{"answer": "1", "response": "1"}', "answers.jsonl:2: field 'id' is missing"),
        ('{"id": "x", "answer": "1", "response": 1}', "answers.jsonl:2: field 'response' is missing or no text"),
        ('{"id": "a", "answer": "1", "response": "1"}', "answers.jsonl:2: field 'id': 'a' is the id of line 1 too"),
        (
            '{"id": "x", "answer": "1", "response": "1", "kind": "x"}',
            "answers.jsonl:2: field 'kind': kind 'x': the kinds",
        ),
        ('{"id": "x"', "answers.jsonl:2: not JSON"),
        ("[1]", "answers.jsonl:2: not a JSON object"),
    ],
)
def test_what_is_wrong_with_a_line(tmp_path, capsys, line, said):
    assert main(["grade", written(tmp_path, ITEMS[0], line)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_no_file_and_an_empty_one(tmp_path, capsys):
    assert main(["grade", str(tmp_path / "none.jsonl")]) == 2
    assert main(["grade", written(tmp_path)]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "No such file" in first
    assert "holds no response" in second
