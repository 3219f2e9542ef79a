"""From structure and refill to a body."""

from mvjax.curator.stages import draft as drafts
from mvjax.curator.stages.groups import Group
from mvjax.curator.stages.refill import Refill
from mvjax.curator.stages.structure import Fork, Node
from mvjax.curator.text.transcript import Block, Path

GROUP = Group((("S1",), ("S2",)), "collective", "other", "")
INNER = Fork(GROUP, ((Node("S2.1"),), (Node("S2.2"),)), "")
STRUCTURE = (
    Node("S1"),
    Fork(GROUP, ((Node("S2", (INNER, Node("S2.3"))),), (Node("S3"), Node("S4"))), ""),
    Node("S5", (Node("S5.1"), Fork(GROUP, ((Node("S5.2"),), (Node("S5.3"),)), ""))),
)
REFILL = Refill(
    {"S1": (1,), "S2": (2,), "S2.1": (3,), "S2.2": (4,), "S2.3": (5,), "S3": (6,), "S4": (7,), "S5": (), "S5.1": (8,),
     "S5.2": (9,), "S5.3": (10,)}
)  # fmt: skip
SENTENCES = [f"{number}.\n" for number in range(1, 11)]
DRAFT = drafts.draft(STRUCTURE, REFILL)
BLOCK = Block((Path("g", ("p",)), Path("h", ("q",))), "c")


def test_blocks_are_numbered_by_the_block_they_are_in():
    first, second = drafts.blocks(DRAFT)
    (inner,) = first.nested
    assert [block.number for block in (first, inner, second)] == ["1", "1.1", "2"]
    assert [block.before for block in (first, inner, second)] == [(1,), (1, 2), (1, 2, 3, 4, 5, 6, 7, 8)]
    assert first.branches[1] == ((6,), (7,))
    assert drafts.numbers(DRAFT) == tuple(range(1, 11))


def test_what_is_not_written_stays_sequential():
    assert drafts.body(DRAFT, {}, SENTENCES) == tuple(f"{number}." for number in range(1, 11))
    body = drafts.body(DRAFT, {"1.1": BLOCK, "1": None, "2": None}, SENTENCES)
    assert body == ("1.", "2.", BLOCK, "5.", "6.", "7.", "8.", "9.", "10.")
    outer = Block((Path("g", (BLOCK,)), Path("h", ("q",))), "c")
    written = {"1.1": BLOCK, "1": outer, "2": BLOCK}
    assert drafts.body(DRAFT, written, SENTENCES) == ("1.", outer, "8.", BLOCK)
    assert [block.number for block in drafts.kept(DRAFT, written)] == ["1", "1.1", "2"]
    assert [block.number for block in drafts.kept(DRAFT, {**written, "1.1": None})] == ["1", "2"]
