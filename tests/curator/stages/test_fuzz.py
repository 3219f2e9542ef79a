"""No reply breaks a parser: whatever it is, there is a result or a reason."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_replies import Model, drive, problem

from mvjax.curator import llm
from mvjax.curator.stages import draft as drafts
from mvjax.curator.stages import groups, judge, paths, refill, structure, tree
from mvjax.curator.stages.replies import Faulty
from mvjax.curator.text import sentences
from mvjax.curator.text.transcript import Block

PROBLEM = problem(1, nested=1)
PIECES = sentences.split(PROBLEM.reasoning)
MADE = drive(llm.curate(PROBLEM, llm.Settings()), Model().answer)[1]
GOOD = {call.stage: json.loads(reply.text) for call, reply in MADE}
TREE = tree.read(json.dumps(GOOD["tree"]))
GROUPS = groups.read(json.dumps(GOOD["groups"]), TREE)
STRUCTURE = structure.read(json.dumps(GOOD["structure"]), TREE, GROUPS)
REFILL = refill.read(json.dumps(GOOD["refill"]), STRUCTURE, PIECES, 0.2)
(BLOCK,) = drafts.blocks(drafts.draft(STRUCTURE, REFILL))
WRITTEN = {"1.1": Block((), "")}
BRANCHES = paths.branches_of(BLOCK, WRITTEN, PIECES)
READ = {
    "tree": tree.read,
    "groups": lambda text: groups.read(text, TREE),
    "structure": lambda text: structure.read(text, TREE, GROUPS),
    "refill": lambda text: refill.read(text, STRUCTURE, PIECES, 0.2),
    "paths": lambda text: paths.read(text, "1", BRANCHES),
    "judge": judge.read,
}
WORDS = (
    *("S1", "S2", "S2.1", "S9", "1-3", "2", "9-1", "step", "inside", "parallel", "reason", "label", "summary", "steps"),
    *("branches", "kind", "case", "collective", "other", "[[block 1.1]]", "<Path>", "a\nb", ""),
)
KEYS = st.sampled_from(WORDS) | st.text(max_size=3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
CHANGES = (
    lambda old, new: new,
    lambda old, new: [old, old],
    lambda old, new: {"S1": old},
    lambda old, new: old[:-1] if isinstance(old, list | str) else old,
)


def places(value, path=()):
    """The ways to all values in a JSON value."""
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from places(entry, (*path, key))


def put(value, path, change):
    """The value with what is at the end of a way changed."""
    if not path:
        return change(value)
    value = value.copy()
    value[path[0]] = put(value[path[0]], path[1:], change)
    return value


@pytest.mark.parametrize("stage", READ)
@settings(max_examples=60)
@given(data=st.data())
def test_any_reply_gives_a_result_or_reasons(stage, data):
    value = GOOD[stage]
    for _ in range(data.draw(st.integers(0, 3))):
        way = data.draw(st.sampled_from(list(places(value))))
        change, new = data.draw(st.sampled_from(CHANGES)), data.draw(VALUES)
        value = put(value, way, lambda old, change=change, new=new: change(old, new))
    text = json.dumps(value)
    cut = data.draw(st.none() | st.integers(0, len(text)))
    for finding in findings_of(stage, text[:cut]):
        assert finding.check
        assert finding.reason
        assert "\n" not in finding.reason
        assert len(finding.reason) < 600


def findings_of(stage, text):
    """What is wrong with a reply; nothing where it was accepted."""
    try:
        READ[stage](text)
    except Faulty as error:
        return error.findings
    return ()


@pytest.mark.parametrize("stage", READ)
@settings(max_examples=20)
@given(text=st.text())
def test_any_text_gives_reasons(stage, text):
    with pytest.raises(Faulty):
        READ[stage](text)


@pytest.mark.parametrize("stage", READ)
def test_a_right_reply_can_stand_in_other_words(stage):
    text = json.dumps(GOOD[stage])
    assert READ[stage](f"<think>{{}}</think>Sure:\n```json\n{text}\n```") == READ[stage](text)
