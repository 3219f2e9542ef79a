"""The outline."""

import json

import pytest

from mvjax.curator.stages import tree
from mvjax.curator.stages.replies import Faulty

SUB = {"label": "S2.1", "summary": "a", "steps": []}
GOOD = {
    "steps": [
        {"label": "S1", "summary": "One\n thing."},
        {"label": "S2", "summary": "Two.", "steps": [SUB, {"label": "S2.2", "summary": "b"}]},
        {"label": "S3", "summary": "Three.", "steps": None},
    ]
}


def changed(old, new):
    return json.dumps(GOOD).replace(old, new, 1)


def test_a_tree_and_its_labels():
    steps = tree.read(json.dumps(GOOD))
    assert tree.labels(steps) == ["S1", "S2", "S2.1", "S2.2", "S3"]
    assert steps[0].summary == "One thing."
    assert tree.read(json.dumps(tree.to_json(steps))) == steps
    assert [tree.parent(label) for label in ("S1", "S2.1")] == ["", "S2"]


@pytest.mark.parametrize(
    ("text", "check", "message"),
    [
        ('{"steps": []}', "no steps", "holds no step"),
        ('{"tree": []}', "wrong type", '"steps" is missing'),
        ('{"steps": [1]}', "wrong type", "step S1 must be an object"),
        (changed('"S2.2"', '"S2.3"'), "label", 'step S2.2: its label is "S2.3" and must be S2.2'),
        (changed('"S3"', '"S1"'), "label", "must be S3"),
        (changed('"Two."', '" "'), "no summary", "step S2: its summary is empty"),
        (changed('"Two."', "2"), "wrong type", 'step S2: "summary" must be a string'),
        (
            changed('"steps": []', '"steps": [{"label": "S2.1.1", "summary": "c"}]'),
            "depth",
            "step S2.1: it has sub-steps",
        ),
    ],
)
def test_what_is_wrong_is_said(text, check, message):
    with pytest.raises(Faulty, match=message) as error:
        tree.read(text)
    assert error.value.findings[0].check == check
