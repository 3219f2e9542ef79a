"""The dependency graph and the groups."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvjax.curator.stages import groups
from mvjax.curator.stages.replies import Faulty
from mvjax.curator.stages.tree import Step, labels, parent

TREE = (
    Step("S1", "a"),
    Step("S2", "b", (Step("S2.1", "c"), Step("S2.2", "d"), Step("S2.3", "e"))),
    Step("S3", "f"),
    Step("S4", "g", (Step("S4.1", "h"), Step("S4.2", "i"))),
    Step("S5", "j"),
)
NEEDS = {
    **{label: [] for label in labels(TREE)},
    "S2": ["S1"], "S2.1": ["S2"], "S2.3": ["S2.1", "S2.2"], "S4.2": ["S4.1"], "S5": ["S2.3", "S3", "S4"],
}  # fmt: skip


def group(*branches, kind="collective", case="sub-task"):
    return {"branches": [branch.split() for branch in branches], "kind": kind, "case": case, "reason": "r"}


def reply(*entries, **needs):
    return json.dumps(
        {"needs": {**NEEDS, **{key.replace("_", "."): value for key, value in needs.items()}}, "groups": entries}
    )


def test_groups_of_steps_and_of_sub_steps():
    found = groups.read(
        reply(group("S2", "S3 S4"), group("S2.1", "S2.2", kind="selective", case="path exploration")), TREE
    )
    assert [one.branches for one in found.groups] == [(("S2",), ("S3", "S4")), (("S2.1",), ("S2.2",))]
    assert found.needs["S2.1"] == ()  # that it belongs to S2 goes without saying
    assert groups.read(json.dumps(groups.to_json(found)), TREE) == found


@pytest.mark.parametrize(
    ("text", "check", "message"),
    [
        (reply(S1=["S1"]), "cyclic graph", "step S1: it needs itself: S1 needs S1"),
        (reply(S1=["S3"], S3=["S5"], S5=["S1"]), "cyclic graph", "S1 needs S3 needs S5 needs S1"),
        (reply(S2=["S2.1"]), "cyclic graph", "S2 needs S2.1 needs S2"),
        (reply(S1=["S3"]), "later step", "step S1: it needs S3, which comes after it"),
        (reply(S1=["S9"]), "unknown step", 'step S1: it needs "S9"'),
        (reply(S9=[]), "unknown step", '"S9" is no step'),
        (reply(S1="S2"), "wrong type", "needs of S1 must be a list"),
        (reply(S1=[2]), "wrong type", "entry 1 of needs of S1 must be a string"),
        ('{"needs": {"S1": []}, "groups": []}', "missing step", "no entry for S2, S2.1"),
        (reply(group("S2", "S4")), "not contiguous", "in this order: S2, S3, S4"),
        (reply(group("S3", "S2")), "not contiguous", "in this order: S2, S3"),
        (reply(group("S2 S4", "S3")), "not contiguous", "group 1"),
        (reply(group("S2.1", "S3")), "not contiguous", "S2.1 and S3 do not belong to the same step"),
        (reply(group("S2", "S9")), "unknown step", 'group 1: "S9"'),
        (reply(group("S2")), "single branch", "two branches or more"),
        (reply(group("S2", "")), "single branch", "none of them empty"),
        (reply(group("S2", "S2")), "step twice", "S2 stands in it twice"),
        (reply(group("S2", "S3"), group("S3", "S4")), "step twice", "group 2: S3 stands in another group"),
        (reply(group("S1", "S2")), "dependent group", "S2 needs S1"),
        (reply(group("S4.1", "S4.2")), "dependent group", "S4.2 needs S4.1"),
        (reply(group("S2", "S3", "S4"), S4_2=["S2.2"]), "dependent group", "S4 needs S2"),
        (reply(group("S2", "S3 S4 S5")), "dependent group", "S5 needs S2"),
        (reply(group("S2", "S3", kind="both")), "wrong type", '"kind" is "both"'),
        (reply(group("S2", "S3", case="path exploration")), "wrong type", "of a collective group"),
        (reply(3), "wrong type", "group 1 must be an object"),
        (reply({**group(), "branches": [3]}), "wrong type", "branch 1 must be a list"),
    ],
)
def test_what_is_wrong_is_said(text, check, message):
    with pytest.raises(Faulty, match=message) as error:
        groups.read(text, TREE)
    assert error.value.findings[0].check == check


def test_the_other_groups_can_be_used():
    with pytest.raises(Faulty) as error:
        groups.read(reply(group("S1", "S2"), group("S3", "S4"), group("S2.1", "S2.2", "S2.3")), TREE)
    assert [finding.where for finding in error.value.findings] == ["group 1", "group 3"]
    assert [one.branches for one in error.value.rest.groups] == [(("S3",), ("S4",))]
    with pytest.raises(Faulty) as error:
        groups.read(reply(group("S3", "S4"), S1=["S3"]), TREE)
    assert error.value.rest is None  # without a graph nothing is known


@settings(max_examples=60)
@given(st.data())
def test_accepted_groups_hold_to_the_graph(data):
    names = labels(TREE)
    needs = {
        name: data.draw(st.lists(st.sampled_from(names[:place] or names[:1]), max_size=2))
        for place, name in enumerate(names)
    }
    needs["S1"] = []
    siblings = data.draw(st.sampled_from([[n for n in names if parent(n) == above] for above in ("", "S2", "S4")]))
    cuts = data.draw(st.lists(st.integers(0, len(siblings)), min_size=3, max_size=4).map(sorted))
    branches = [siblings[a:b] for a, b in pairwise(cuts)]
    text = json.dumps({"needs": needs, "groups": [{**group(), "branches": branches}]})
    try:
        (found,) = groups.read(text, TREE).groups
    except Faulty as error:
        checks = {finding.check for finding in error.findings}
        assert checks <= {"dependent group", "single branch", "cyclic graph", "later step"}
        return
    edges = {(a, b) for a, others in needs.items() for b in others}
    whole = {(a, b) for a in names for b in names if a == b or b.startswith(f"{a}.") or a.startswith(f"{b}.")}
    for branch in found.branches:
        others = {name for other in found.branches if other != branch for name in other}
        inside = {name for label in branch for name in names if name == label or parent(name) == label}
        direct = {b for a, b in edges if a in inside}
        assert not {label for label in others for b in direct if (label, b) in whole and b != parent(label)}


def test_what_the_schema_allows_is_what_is_read():
    schema = groups._schema(TREE)
    assert list(schema["properties"]["needs"]["properties"]) == labels(TREE)
    assert schema["required"] == ["needs", "groups"]
