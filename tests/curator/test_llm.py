"""Whole records, made with a scripted model."""

import json
from dataclasses import replace

import pytest
from curated import MADE, PERFECT, PROBLEM, SETTINGS, curate, stages
from hypothesis import given, settings
from hypothesis import strategies as st
from model_replies import drive, problem

from mvjax.curator import llm
from mvjax.curator.production import Finding, Outcome, Problem, Reply
from mvjax.curator.stages.writing import shortened
from mvjax.errors import UserError
from mvjax.language import parse_text, tree


def test_a_record_with_nested_blocks():
    assert (PERFECT.state, PERFECT.check, PERFECT.findings) == ("parallel", "", ())
    (outer,) = [c for c in parse_text(PERFECT.record.response, complete=True).children if isinstance(c, tree.Block)]
    assert len(outer.paths) == 3
    assert PERFECT.record.meta == {
        "farms": 3,
        "parallel": True,
        "blocks": 3,
        "kinds": ["collective, case study", "collective, sub-task", "collective, sub-task"],
    }
    assert PERFECT.record.autoregressive == PROBLEM.reasoning
    assert PERFECT.record.messages == ({"role": "user", "content": PROBLEM.question},)
    assert stages(MADE) == [
        "tree",
        "groups",
        "structure",
        "refill",
        *["paths"] * 2,
        *["judge"] * 4,
        "paths",
        *["judge"] * 3,
    ]
    assert [call.where for call, _ in MADE if call.stage == "paths"] == ["block 1.1", "block 1.2", "block 1"]
    assert set(PERFECT.stages) == {"tree", "groups", "structure", "refill", "paths"}
    assert PERFECT.stages["groups"]["needs"]["S5"] == ["S2", "S3", "S4"]
    assert set(PERFECT.stages["paths"]) == {"1.1", "1.2", "1"}


def test_the_first_three_stages_are_one_conversation():
    calls = {call.stage: call for call, _ in MADE}
    assert calls["groups"].messages[:2] == calls["tree"].messages
    assert calls["structure"].messages[:4] == calls["groups"].messages
    assert len(calls["refill"].messages) == 2


def test_the_judge_sees_nothing_of_the_siblings():
    paths = PERFECT.stages["paths"]["1"]["paths"]
    judged = {call.where: call.messages[-1]["content"] for call, _ in MADE if call.stage == "judge"}
    assert paths[2] in judged["path 1.3"]
    for sentence in paths[2].split("\n"):
        assert sentence not in judged["path 1.2"].replace(PROBLEM.question, "")


def test_the_same_replies_give_the_same_calls_and_outcome():
    waiting = iter(MADE)

    def stored(call):
        asked, reply = next(waiting)
        assert call.fingerprint == asked.fingerprint
        return reply

    outcome, made = drive(llm.curate(PROBLEM, SETTINGS), stored)
    assert outcome == PERFECT
    assert len(made) == len(MADE)
    assert Outcome.from_json(outcome.to_json()) == outcome


def test_an_attempt_stands_behind_the_thinking():
    given = problem(4, attempt=True)
    outcome, _ = curate(made=given)
    assert outcome.state == "parallel"
    assert outcome.record.response.startswith("<Think>\nThis is about")
    assert outcome.record.response.endswith(f"\n</Think>\n\nAnswer: {given.attempt}")
    assert outcome.record.autoregressive == f"<Think>\n{given.reasoning}\n</Think>\n\nAnswer: {given.attempt}"
    assert llm.thought("So it is 2.", "The Answer: 2.") == "<Think>\nSo it is 2.\n</Think>\n\nThe Answer: 2."
    assert llm.thought("So it is 2.", "") == "So it is 2."


@pytest.mark.parametrize(("stage", "name"), [("groups", "nothing"), ("structure", "all sequential")])
def test_nothing_parallel_is_no_fault(stage, name):
    outcome, made = curate({stage: name})
    assert (outcome.state, outcome.check, outcome.findings) == ("sequential", "nothing parallel", ())
    assert stages(made)[-1] == stage
    assert curate({stage: name}, fallback="reject")[0].state == "rejected"


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"reasoning": " "}, "unusable input"),
        ({"reasoning": "x" * 200_001}, "unusable input"),
        ({"reasoning": f"{PROBLEM.reasoning}</Path>"}, "control tag"),
        ({"attempt": "<Think>"}, "control tag"),
        ({"answer": "17"}, "answer"),
    ],
)
def test_unusable_input_is_rejected_before_anything_is_asked(changes, check):
    given = replace(PROBLEM, **changes)
    outcome, made = curate(made=given)
    assert (outcome.state, outcome.check, made) == ("rejected", check, [])
    assert outcome.findings
    assert llm.estimate(given, SETTINGS, len) == (0, 0, 0)


LANGUAGES = {
    "ar": """نحسب مساحة الحديقة ومساحة البركة.
الحديقة: ٦ × ٤ = ٢٤ مترا مربعا.
البركة: ٣ × ٢ = ٦ أمتار مربعة.
إذن الفرق ٢٤ - ٦ = ١٨.""",
    "zh": """先求草坪和池塘的面积。
草坪的面积是6×4=24平方米。
池塘的面积是3×2=6平方米。
所以相差24-6=18平方米。""",
    "hi": """पहले बगीचे और तालाब का क्षेत्रफल निकालें।
बगीचे का क्षेत्रफल 6×4 = 24 है।
तालाब का क्षेत्रफल 3×2 = 6 है।
अंतर 24-6 = 18 है।""",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_other_languages_and_directions(language):
    texts = LANGUAGES[language].split("\n")
    between = "" if language == "zh" else " "
    given = Problem("p", f"{language}: 6, 4, 3, 2?", between.join(texts), "18")
    steps = [{"label": f"S{k}", "summary": text} for k, text in enumerate(texts, 1)]
    group = {"branches": [["S2"], ["S3"]], "kind": "collective", "case": "sub-task", "reason": "r"}
    needs = {"S1": [], "S2": [], "S3": [], "S4": ["S2", "S3"]}
    replies = {
        "tree": {"steps": steps},
        "groups": {"needs": needs, "groups": [group]},
        "structure": {"structure": ["S1", {"parallel": [["S2"], ["S3"]], "reason": "r"}, "S4"]},
        "refill": {"refill": {"S1": "1", "S2": "2", "S3": "3", "S4": "4"}},
        "paths": {"goals": [texts[1][:6], texts[2][:6]], "paths": texts[1:3], "conclusion": "24, 6."},
        "judge": {"followable": True, "missing": ""},
    }
    outcome, _ = drive(llm.curate(given, SETTINGS), lambda call: Reply(json.dumps(replies[call.stage])))
    assert outcome.state == "parallel", outcome.reason
    assert f"1: {texts[1]}" in outcome.record.response
    assert outcome.record.response.endswith(texts[3])


@settings(max_examples=30, deadline=None)
@given(st.text(min_size=1, max_size=80), st.text(max_size=30))
def test_any_text_can_be_a_problem(reasoning, question):
    outcome, made = drive(llm.curate(Problem("p", question, reasoning), SETTINGS), lambda call: Reply("{}"))
    assert outcome.state == ("sequential" if made else "rejected")
    assert all(reasoning.strip() in call.messages[1]["content"] for call, _ in made)


def test_an_estimate_is_of_the_right_size():
    given = problem(7, details=8, nested=3)
    outcome, made = curate(made=given)
    assert outcome.state == "parallel"
    calls, prompt, completion = llm.estimate(given, SETTINGS, lambda text: len(text.split()))
    assert 0.5 < calls / len(made) < 2
    assert 0.5 < prompt / sum(reply.prompt_tokens for _, reply in made) < 2
    assert 0.3 < completion / sum(reply.completion_tokens for _, reply in made) < 3
    assert llm.estimate(given, llm.Settings(judge=False), len)[0] < calls


def test_settings():
    names = json.loads(json.dumps(SETTINGS.fingerprint()))
    assert names["retries"] == 2
    assert names["prompts"]["tree"].startswith("1-")
    for wrong in ({"retries": -1}, {"distance": 1.5}, {"fallback": "none"}, {"max_prefix": 3}):
        with pytest.raises(UserError, match=f"{next(iter(wrong))} "):
            llm.Settings(**wrong)


@given(st.text(max_size=300), st.integers(100, 200))
def test_a_long_prefix_is_shortened(text, most):
    short = shortened(text, most)
    assert len(short) <= most
    assert short == text or ("[...]" in short and text.startswith(short.partition("\n[...]\n")[0]))


class Leaning:
    """A check by a model that finds the last path of every block dependent."""

    threshold, pull = 1.0, 2.0

    def __init__(self):
        self.known = []

    def check(self, block, known):
        self.known.append(known)
        return [Finding("likelihood", f"path {len(block.paths)}", "it uses what only a sibling says")]


def test_a_local_model_can_score_the_paths():
    leaning, made = Leaning(), problem(1, nested=0)
    outcome, _ = curate(made=made, likelihood=leaning, retries=1)
    assert (outcome.state, outcome.check) == ("sequential", "likelihood")
    found = [finding for finding in outcome.findings if finding.check == "likelihood"]
    assert [finding.where for finding in found] == ["path 1.3"] * 2
    assert all(made.question in known for known in leaning.known)
    assert llm.Settings(likelihood=leaning).fingerprint()["likelihood"] == [1.0, 2.0]
