"""The outline with its parallel parts."""

import json

import pytest

from mvjax.curator.stages import structure
from mvjax.curator.stages.groups import Group, Groups
from mvjax.curator.stages.replies import Faulty
from mvjax.curator.stages.structure import Fork, Node
from mvjax.curator.stages.tree import Step, labels

TREE = (
    Step("S1", "a"),
    Step("S2", "b", (Step("S2.1", "c"), Step("S2.2", "d"), Step("S2.3", "e"))),
    Step("S3", "f"),
    Step("S4", "g", (Step("S4.1", "h"),)),
)
OUTER = Group((("S2",), ("S3", "S4")), "collective", "sub-task", "r")
INNER = Group((("S2.1",), ("S2.2",)), "selective", "other", "r")
GROUPS = Groups({}, (OUTER, INNER))
DEEP = {"step": "S2.1", "inside": ["x"]}
INSIDE = [{"parallel": [["S2.1"], ["S2.2"]], "reason": "r"}, "S2.3"]
GOOD = [
    {"step": "S1"},
    {"parallel": [[{"step": "S2", "inside": INSIDE}], ["S3", {"step": "S4", "inside": []}]], "reason": "w"},
]


def read(entries):
    return structure.read(json.dumps({"structure": entries}), TREE, GROUPS)


def test_a_structure_with_nested_parts():
    found = read(GOOD)
    inner = Fork(INNER, ((Node("S2.1"),), (Node("S2.2"),)), "r")
    outer = Fork(OUTER, ((Node("S2", (inner, Node("S2.3"))),), (Node("S3"), Node("S4", (Node("S4.1"),)))), "w")
    assert found == (Node("S1"), outer)
    assert [node.label for node in structure.walk(found)] == labels(TREE)
    assert list(structure.forks(found)) == [outer, inner]
    assert read(structure.to_json(found)["structure"]) == found


def test_groups_may_be_left_out():
    assert not list(structure.forks(read(["S1", "S2", "S3", "S4"])))


@pytest.mark.parametrize(
    ("entries", "check", "message"),
    [
        (GOOD[:1], "missing step", "S2, S2.1, S2.2, S2.3, S3, S4, S4.1 cannot be found"),
        (["S1", *GOOD], "step twice", "S1 stands in it 2 times"),
        ([*GOOD, "S9"], "unknown step", '"S9" is no step'),
        (["S2", "S1", "S3", "S4"], "wrong order", "S2 stands where S1 must stand"),
        (["S1", "S2", "S2.1", "S3", "S4"], "wrong order", "step S2.1: it stands at the top"),
        (["S1", {"step": "S2", "inside": ["S2.1", "S3"]}, "S4"], "wrong order", "step S3: it stands inside of S2"),
        (["S1", "S2", {"step": "S3", "inside": ["S3"]}, "S4"], "step twice", ""),
        (["S1", {"step": "S2", "inside": [DEEP, "S2.2", "S2.3"]}, "S3", "S4"], "unknown step", "step S2.1: it has no"),
        ([{"parallel": [["S1"], ["S2"]], "reason": ""}, "S3", "S4"], "unknown group", "S1 | S2"),
        (["S1", {"parallel": [["S2"], ["S3"], ["S4"]], "reason": ""}], "unknown group", "none of the groups"),
        (["S1", {"parallel": [["S2"], ["S3", "S4"]]}], "wrong type", '"reason" is missing'),
        (["S1", {"parallel": "S2", "reason": ""}], "wrong type", '"parallel" must be a list'),
        (["S1", {"parallel": ["S2", "S3"], "reason": ""}], "wrong type", "branch 1"),
        ([{"step": "S1", "parallel": []}], "wrong type", "either"),
        ([{"step": 1}], "wrong type", '"step" must be a string'),
        ([[]], "wrong type", "an entry must be an object"),
    ],
)
def test_what_is_wrong_is_said(entries, check, message):
    with pytest.raises(Faulty) as error:
        read(entries)
    findings = error.value.findings
    assert check in {finding.check for finding in findings}
    assert message in str(error.value)


def test_entries_nested_without_end_are_faulty():
    entries = '{"step": "S2", "inside": [' * 400 + "]}" * 400
    with pytest.raises(Faulty):
        structure.read(f'{{"structure": [{entries}]}}', TREE, GROUPS)
