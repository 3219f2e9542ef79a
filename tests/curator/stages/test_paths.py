"""Goals, paths and conclusion of a block."""

import json

import pytest

from mvjax.curator.stages import paths
from mvjax.curator.stages.draft import DraftBlock
from mvjax.curator.stages.groups import Group
from mvjax.curator.stages.paths import Branch
from mvjax.curator.stages.replies import Faulty
from mvjax.curator.text.transcript import Block, Path

SENTENCES = ["Intro. ", "First half. ", "Second half. ", "Both. ", "Other.\n", "Its end.\n"]
GROUP = Group((("S1",), ("S2",)), "collective", "other", "")
INNER = DraftBlock("1.1", GROUP, (((2,),), ((3,),)), (1,))
OUTER = DraftBlock("1", GROUP, (((1,), INNER, (4,)), ((5, 6),)), ())
WRITTEN = {"1.1": Block((Path("g", ("first",)), Path("h", ("second",))), "both")}
BRANCHES = paths.branches_of(OUTER, WRITTEN, SENTENCES)
GOOD = {"goals": ["One.", "Two."], "paths": ["Intro.\n[[block 1.1]]\nBoth.", "Other. Its end."], "conclusion": "Done."}


def read(**entries):
    return paths.read(json.dumps({**GOOD, **entries}), "1", BRANCHES)


def test_branches_with_and_without_a_written_block_inside():
    assert (*BRANCHES,) == (Branch("Intro.\n[[block 1.1]]\nBoth.", ("1.1",)), Branch("Other.\nIts end.", ()))
    assert BRANCHES[0].original == "Intro.\n\nBoth."
    (plain, _) = paths.branches_of(OUTER, {"1.1": None}, SENTENCES)
    assert plain == Branch("Intro. First half. Second half. Both.", ())


def test_a_block_with_its_nested_block_in_place():
    made = read(paths=["Intro. [[block 1.1]] Both.", "[b]\n\nOther."])
    block = made.block(WRITTEN)
    assert block.paths == (Path("One.", ("Intro.", WRITTEN["1.1"], "Both.")), Path("Two.", ("[b]", "", "Other.")))
    assert made.own(0) == "Intro.\n\nBoth."
    assert paths.text(block.paths[0]) == "Intro.\nfirst\nsecond\nboth\nBoth."
    assert paths.read(json.dumps(paths.to_json(made)), "1", BRANCHES) == made


@pytest.mark.parametrize(
    ("entries", "check", "message"),
    [
        ({"goals": ["One."]}, "path count", "1 goals and 2 paths for 2 branches"),
        ({"paths": ["x"] * 3, "goals": ["x"] * 3}, "path count", "3 goals and 3 paths"),
        ({"paths": ["[[block 1.1]]", 2]}, "wrong type", 'entry 2 of "paths" must be a string'),
        ({"conclusion": None}, "wrong type", '"conclusion" must be a string'),
        ({"conclusion": " "}, "empty text", "the conclusion is empty"),
        ({"goals": ["One.", "\n"]}, "empty text", "path 1.2: its goal is empty"),
        ({"paths": ["[[block 1.1]]", ""]}, "empty text", "path 1.2: its text is empty"),
        ({"goals": ["One.", "<Goal>"]}, "control tag", "path 1.2: its goal contains <Goal>"),
        ({"conclusion": "</Parallel>"}, "control tag", "the conclusion contains </Parallel>"),
        ({"goals": ["One.", "Two\nlines."]}, "goal", "must be one line"),
        ({"goals": ["One.", "One."]}, "goal", "that of another path"),
        (
            {"paths": ["Intro.", "Other."]},
            "nested block",
            "path 1.1: its text has these lines for finished parts: none",
        ),
        ({"paths": ["[[block 1.1]] [[block 1.1]]", "Other."]}, "nested block", "must have: [[block 1.1]]"),
        ({"paths": ["[[block 1.1]]", "[[block 1.1]]"]}, "nested block", "path 1.2"),
        ({"paths": ["[[block 1.1]] [[block x]]", "Other."]}, "nested block", "a changed line"),
        ({"conclusion": "[[block 1.1]]"}, "nested block", "the conclusion has these lines"),
    ],
)
def test_what_is_wrong_is_said(entries, check, message):
    with pytest.raises(Faulty) as error:
        read(**entries)
    assert check in {finding.check for finding in error.value.findings}
    assert message in str(error.value)
