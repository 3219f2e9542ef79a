"""Producers that need no LLM: what they make of a file with faults in it."""

import json

import pytest

from mvjax.curator import ready
from mvjax.data.records import Fault
from mvjax.errors import UserError

QUESTION = "Pens cost $2 and books cost $5. Ann buys 4 pens and 3 books. What does she pay?"
ANSWER = "The pens cost 2*4 = $<<2*4=8>>8.\nThe books cost 5*3 = $<<5*3=15>>15\nShe pays 8+15 = $<<8+15=23>>23\n#### 23"
GOOD = json.dumps({"question": QUESTION, "answer": ANSWER})
WRONG = json.dumps({"question": QUESTION, "answer": ANSWER.replace("=15>>15", "=16>>16")})


def outcome(problem):
    """What comes of a GSM8K problem."""
    with pytest.raises(StopIteration) as end:
        next(ready.gsm8k_production(problem))
    return end.value.value


def test_a_file_with_faulty_lines(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join([GOOD, WRONG, "{", "", GOOD]))
    came = ready.gsm8k_problems(path)
    first, second, third, fourth = (next(came) for _ in range(4))
    assert [first.id, second.id, fourth.id] == ["problems-1", "problems-2", "problems-5"]
    assert isinstance(third, Fault)
    assert third.name == "problems.jsonl:3"
    assert outcome(first).record.meta["parallel"]
    assert outcome(second).check == "wrong arithmetic"
    with pytest.raises(UserError, match=r"1 of 4 records cannot be used.*problems.jsonl:3"):
        next(came)
    assert len(list(ready.gsm8k_problems(path, limit=2))) == 2


def test_what_is_no_text_is_told_by_its_line(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_bytes(GOOD.encode() + b"\n\xff\n")
    with pytest.raises(UserError, match="line 2 is not UTF-8"):
        list(ready.gsm8k_problems(path))
