"""Replies that are wrong: found, asked for again, and what becomes of the record where they stay so."""

import pytest
from curated import PERFECT, PROBLEM, SETTINGS, curate, stages
from hypothesis import given, settings
from hypothesis import strategies as st
from model_replies import FAULTS, Model, drive, problem

from mvjax.curator import llm
from mvjax.curator.checks import record as records
from mvjax.curator.display.story import Fork, Passage, Split, tell
from mvjax.curator.production import Outcome, Reply
from mvjax.curator.store import Store
from mvjax.curator.text.sentences import split

EXPECTED = {
    "tree": {
        "malformed": "malformed JSON",
        "garbage": "malformed JSON",
        "two objects": "malformed JSON",
        "empty": "malformed JSON",
        "wrong type": "wrong type",
        "wrong label": "label",
        "refusal": "refused",
        "cut": "cut reply",
    },
    "groups": {
        "cycle": "cyclic graph",
        "later step": "later step",
        "unknown step": "unknown step",
        "forgotten step": "missing step",
        "refusal": "refused",
    },
    "structure": {"missing": "missing step", "unknown group": "unknown group", "wrong type": "wrong type"},
    "refill": {
        "missing": "missing sentence",
        "invented": "invented sentence",
        "sentence twice": "sentence twice",
        "swapped": "wrong order",
        "malformed": "malformed JSON",
    },
}
SOME_BLOCKS = {
    "groups": {"scattered": "not contiguous", "step twice": "step twice", "dependent": "dependent group"},
    "paths": {
        "count": "path count",
        "tag": "control tag",
        "lost numbers": "content",
        "invented numbers": "content",
        "result in goal": "result in goal",
        "lost block": "nested block",
        "refusal": "refused",
        "cut": "cut reply",
        "malformed": "malformed JSON",
    },
}
UNREADABLE = {"garbage": "malformed JSON", "refusal": "refused"}


def cases(table):
    return [(stage, name, check) for stage, names in table.items() for name, check in names.items()]


@pytest.mark.parametrize(
    ("stage", "name", "check"), cases(EXPECTED) + cases(SOME_BLOCKS) + cases({"judge": UNREADABLE})
)
def test_a_fault_is_found_and_mended_by_asking_again(stage, name, check):
    outcome, made = curate({stage: f"{name} once"})
    assert outcome.record == PERFECT.record
    assert check in {finding.check for finding in outcome.findings}
    assert {finding.stage for finding in outcome.findings} <= {stage, "paths"}
    again = [call for call, _ in made if call.why]
    assert again
    assert all(call.why in call.messages[-1]["content"] for call in again)
    assert outcome.check == ""


@pytest.mark.parametrize(("stage", "name", "check"), cases(EXPECTED))
def test_a_fault_that_stays_leaves_the_original(stage, name, check):
    outcome, made = curate({stage: name})
    assert outcome.state == "sequential"
    assert outcome.check == check
    assert outcome.reason
    assert outcome.record.response == PROBLEM.reasoning
    assert stages(made).count(stage) == 3
    rejected, _ = curate({stage: name}, fallback="reject", retries=0)
    assert (rejected.state, rejected.check) == ("rejected", check)


def test_faulty_groups_are_left_out():
    for name in ("scattered", "dependent"):
        outcome, _ = curate({"groups": name})
        assert outcome.state == "parallel"
        assert outcome.record.meta["kinds"] == ["collective, sub-task"] * 2
        assert outcome.check == SOME_BLOCKS["groups"][name]
    outcome, _ = curate({"groups": "step twice"})
    assert outcome.record == PERFECT.record


@pytest.mark.parametrize("name", ["count", "tag", "lost numbers", "invented numbers", "lost block"])
def test_a_block_that_fails_becomes_its_original_sentences(name):
    outcome, _ = curate({"paths": lambda value: FAULTS[name](value) if "[[block" in str(value) else value})
    assert outcome.state == "parallel"
    assert outcome.record.meta["blocks"] == 2
    assert outcome.reason.startswith(("path 1.", "block 1"))
    assert outcome.stages["paths"]["1"]["check"] == outcome.check == SOME_BLOCKS["paths"][name]


@pytest.mark.parametrize("name", SOME_BLOCKS["paths"])
def test_without_any_block_the_original_is_left(name):
    outcome, made = curate({"paths": name}, retries=1)
    if name != "lost block":  # which is none in the blocks inside
        assert (outcome.state, outcome.check) == ("sequential", SOME_BLOCKS["paths"][name])
        assert outcome.record.response == PROBLEM.reasoning
        assert stages(made).count("paths") == 6


def test_dependent_paths_are_found():
    outcome, made = curate({"paths": "dependent"})
    assert outcome.state == "sequential"
    assert {finding.check for finding in outcome.findings} & {"sibling reference", "sibling label", "sibling number"}
    assert "judge" not in stages(made)
    assert curate({"paths": "dependent once"})[0].record == PERFECT.record


def test_the_judge_can_be_left_out_and_can_refuse():
    assert "judge" not in stages(curate(judge=False)[1])
    outcome, made = curate({"judge": "no"}, retries=1)
    assert outcome.state == "sequential"
    assert outcome.check == "judge"
    assert "cannot be followed: the number of rows" in outcome.reason
    # Twice each of three blocks; every path that was not followable is judged again.
    assert stages(made).count("paths") == 6
    outcome, made = curate({"judge": "garbage"}, retries=1)
    assert (outcome.state, outcome.check) == ("sequential", "malformed JSON")
    assert stages(made).count("paths") == 3


def test_paths_that_were_followable_are_not_judged_again():
    refused = []

    def once(call):
        if call.where == "path 1.2" and not refused:
            refused.append(call)
            return Reply('{"followable": false, "missing": "it"}')
        return Model().answer(call)

    outcome, made = drive(llm.curate(PROBLEM, SETTINGS), once)
    assert outcome.record == PERFECT.record
    assert [call.where for call, _ in made if call.stage == "judge"].count("path 1.2") == 2
    assert [call.where for call, _ in made if call.stage == "judge"].count("path 1.1") == 1


def test_a_lost_answer_costs_the_block_it_was_lost_in():
    given = problem(5, nested=1, closing=False)
    assert curate(made=given)[0].state == "parallel"
    outcome, _ = curate(
        {"paths": lambda value: FAULTS["dropped answer"](value) if "answer" in str(value) else value}, given
    )
    assert (outcome.state, outcome.check) == ("parallel", "answer")
    assert outcome.record.meta["kinds"] == ["collective, sub-task"]
    assert f"the answer is {given.answer}." in outcome.record.response
    told = outcome.stages["paths"]
    (lost,) = [number for number in told if "sequential" in told[number]]
    assert told[lost]["check"] == "answer"
    assert len(told[lost]["paths"]) >= 2  # what was written stays to be looked at
    with Store.open(":memory:") as store:
        store.add([given])
        store.finish(1, outcome)
        story = tell(store, given.id)
    assert sum(isinstance(part, Fork) for part in story.flow) == sum(isinstance(p, Split) for p in story.transcript)
    assert all(part.labels for part in story.transcript if isinstance(part, Passage))


def test_single_sentences_are_put_back():
    outcome, _ = curate({"refill": "one missing"})
    assert outcome.state == "parallel"
    assert outcome.record == PERFECT.record
    assert [finding.check for finding in outcome.findings] == ["missing sentence"]


@pytest.mark.parametrize("stage", ["tree", "refill", "paths", "judge"])
def test_an_endpoint_that_fails_for_good_ends_the_record(stage):
    def answer(call):
        return Reply("503 Service Unavailable", "failed") if call.stage == stage else Model().answer(call)

    outcome, _ = drive(llm.curate(PROBLEM, SETTINGS), answer)
    assert (outcome.state, outcome.check, outcome.reason) == ("rejected", "endpoint", "503 Service Unavailable")


ANY = st.sampled_from(["right", "right", "right", *FAULTS, "failed", "[]", '{"steps": [[]]}', "{}", "</Path>"])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_comes_a_record_ends_and_holds(data):
    given = problem(
        data.draw(st.integers(0, 50)), nested=data.draw(st.integers(0, 2)), attempt=data.draw(st.booleans()),
        closing=data.draw(st.booleans()),
    )  # fmt: skip
    changed = llm.Settings(
        retries=data.draw(st.integers(0, 2)), judge=data.draw(st.booleans()),
        fallback=data.draw(st.sampled_from(["sequential", "reject"])),
    )  # fmt: skip
    rare = data.draw(st.booleans())

    def answer(call):
        name = data.draw(ANY) if not rare or data.draw(st.integers(0, 9)) == 0 else "right"
        if name == "failed":
            return Reply("down", "failed")
        if name not in FAULTS:
            return Reply(name) if name != "right" else Model().answer(call)
        try:
            return Model({call.stage: name}).answer(call)
        except (KeyError, IndexError, ValueError, TypeError):  # a fault of another stage
            return Reply(name)

    outcome, made = drive(llm.curate(given, changed), answer)
    assert outcome.state in ("parallel", "sequential", "rejected")
    assert Outcome.from_json(outcome.to_json()) == outcome
    assert all(len(call.messages) <= 6 + 2 * changed.retries for call, _ in made)
    if outcome.state != "parallel":
        assert outcome.check
        assert outcome.reason
    if outcome.state == "rejected":
        assert changed.fallback == "reject" or outcome.check == "endpoint"
        return
    assert records.check(outcome.record) == []
    assert changed.fallback == "sequential" or outcome.state == "parallel"
    if outcome.state == "sequential":
        for sentence in split(given.reasoning):
            assert sentence.strip() in outcome.record.response
