"""Checks of problems and finished records."""

from dataclasses import replace

import pytest
from model_replies import problem

from mvjax.curator.checks.record import check, check_problem
from mvjax.curator.production import Problem
from mvjax.curator.text.transcript import Block, Path, multiverse
from mvjax.data.records import Record

BLOCK = Block((Path("Find a.", ("a is 4.",)), Path("Find b.", ("b is 5.",))), "4 and 5.")


def record(body=("Both are needed.", BLOCK, "The answer is 9."), **fields):
    text = multiverse(body)
    given = {"response": text, "autoregressive": "a is 4. b is 5. The answer is 9.", "answer": "9", "meta": {}}
    return Record(**{"id": "r", "messages": ({"role": "user", "content": "q"},), "source": "s", **given, **fields})


def test_a_good_record_passes():
    assert check(record()) == []
    assert check(record(("The answer is 9.",), meta={"parallel": False})) == []


@pytest.mark.parametrize(
    ("made", "name", "reason"),
    [
        (record(answer="8"), "answer", "the sequential form does not reach the answer 8"),
        (record(("a is 4.", "The answer is 8.")), "answer", "the response does not reach the answer 9"),
        (record(response="<Parallel>\nThe answer is 9."), "grammar", "character"),
        (record(response=record().response.replace("2: b", "3: b")), "grammar", "label"),
        (record((Block((Path("Find a.", ("a",)),), "9"), "The answer is 9.")), "grammar", "one path"),
        (record(autoregressive="<Path> 9"), "control tag", "contains <Path>"),
        (record(autoregressive=" "), "grammar", "empty"),
        (record(meta={"parallel": False}), "grammar", "whether there is a block"),
    ],
)
def test_what_is_wrong_is_named(made, name, reason):
    findings = check(made)
    assert name in {finding.check for finding in findings}
    assert any(reason in finding.reason for finding in findings)


def test_thinking_must_reach_what_the_reasoning_reached():
    attempt = "It is \\boxed{9}."
    reasoning = "a is 4. b is 5. The answer is 9."
    thought = multiverse(("Both.", BLOCK, "The answer is 8."))
    made = record(response=f"<Think>\n{thought}\n</Think>\n{attempt}", autoregressive=f"{reasoning}\n\n{attempt}")
    (finding,) = check(made)
    assert finding.reason == "the thinking does not reach the answer 9"
    assert check(replace(made, response=made.response.replace("is 8", "is 9"))) == []
    tagged = replace(made, autoregressive=f"<Think>\n{reasoning}\n</Think>\n\n{attempt}")
    assert check(tagged) == [finding]
    assert check(replace(tagged, response=tagged.response.replace("is 8", "is 9"))) == []
    (other,) = check(replace(tagged, autoregressive=f"<Think>\n{reasoning} <Path>\n</Think>\n\n{attempt}"))[:1]
    assert other.reason == "the sequential form contains <Path> as text"


@pytest.mark.parametrize(
    ("fields", "name", "reason"),
    [
        ({"reasoning": " \n"}, "unusable input", "the reasoning is empty"),
        ({"question": ""}, "unusable input", "the question is empty"),
        ({"reasoning": "9 " * 60}, "unusable input", "the reasoning has 120 characters; at most 100"),
        (
            {"reasoning": "So </Path> 9."},
            "control tag",
            "the reasoning contains the control tag </Path> as text at character 4",
        ),
        ({"attempt": "<Think>9"}, "control tag", "the attempt contains the control tag <Think> as text at character 1"),
        ({"reasoning": "9 \ud800"}, "unusable input", "half a character at 3"),
        ({"reasoning": "It is 8."}, "answer", "the original does not reach the answer 9"),
    ],
)
def test_an_unusable_problem(fields, name, reason):
    given = {"id": "p", "question": "<Path> is what?", "reasoning": "It is 9.", "answer": "9"}
    (finding,) = check_problem(Problem(**{**given, **fields}), 100)
    assert finding.check == name
    assert reason in finding.reason


def test_usable_problems():
    assert check_problem(problem(1, attempt=True), 10_000) == []
    assert check_problem(Problem("p", "q", "reasoning", ""), 100) == []
