"""One problem's story on a terminal and as a page: nothing is lost, nothing is taken for markup."""

import io
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_productions import call, problem, record
from rich.console import Console

from mvjax.curator.display.page import page
from mvjax.curator.display.story import Fork, Passage, Run, Split, tell
from mvjax.curator.display.terminal import show
from mvjax.curator.production import Finding, Outcome, Problem, Reply
from mvjax.curator.store import Store
from mvjax.curator.text.transcript import Block, Path, multiverse
from mvjax.data.records import Record

REASONING = "We need both areas. The lawn is 6*4=24. Its edge is 20. The pond is 3*2=6. Subtract: 24-6=18. Done."
STAGES = {
    "tree": {
        "steps": [
            {"label": "S1", "summary": "Restates.", "steps": []},
            {"label": "S2", "summary": "The lawn.", "steps": [{"label": "S2.1", "summary": "Area."}]},
            {"label": "S3", "summary": "The pond.", "steps": []},
            {"label": "S4", "summary": "Subtracts.", "steps": []},
        ]
    },
    "groups": {
        "needs": {"S1": [], "S2": ["S1"], "S2.1": [], "S3": ["S1"], "S4": ["S2", "S3"]},
        "groups": [{"branches": [["S2"], ["S3"]], "kind": "collective", "case": "sub-task", "reason": "Apart."}],
    },
    "structure": {
        "structure": [
            {"step": "S1", "inside": []},
            {
                "parallel": [[{"step": "S2", "inside": [{"step": "S2.1"}]}], ["S3"]],
                "reason": "Neither needs the other.",
            },
            {"step": "S4"},
        ]
    },
    "refill": {"refill": {"S1": "1", "S2": "", "S2.1": "2-3", "S3": [4], "S4": "5, 6"}},
}


def stored(entry, outcome, *calls):
    store = Store.open(":memory:")
    store.add([entry])
    for number, (asked, reply) in enumerate(calls):
        store.commit(1, number, asked, reply, 0.5)
    if outcome is not None:
        store.finish(1, outcome)
    return tell(store, entry.id)


def garden(**changes):
    block = Block(
        (Path("Find the lawn's area.", ("6*4=24.",)), Path("Find the pond's area.", ("3*2=6.",))), "24 and 6."
    )
    response = f"<Think>\n{multiverse(('We need both areas.', block, 'Subtract: 24-6=18. Done.'))}\n</Think>\nIt is 18."
    entry = Problem("garden", "How much grass is there?", REASONING, "18", **changes)
    made = Record("garden", ({"role": "user", "content": "?"},), response, REASONING, "18", "llm", {"parallel": True})
    findings = (Finding("cyclic graph", "step S3", "S3 needs S4, which comes later", "groups"),)
    outcome = Outcome(made, "judge", "block 2 fell back", findings, STAGES)
    first = call(entry, "groups")
    again = type(first)("groups", "", first.messages, why="cyclic graph")
    return stored(
        entry, outcome, (first, Reply("{", "stop", 90, 20, 1.5)), (again, Reply("{}", "length", 120, 30, 2.0))
    )


def printed(story, width):
    out = io.StringIO()
    show(Console(file=out, width=width), story)
    return out.getvalue()


def test_what_came_from_what():
    story = garden()
    assert len(story.sentences) == 6
    assert list(story.steps) == ["S1", "S2", "S2.1", "S3", "S4"]
    assert story.steps["S4"].needs == ("S2", "S3")
    fork = Fork(((Run(("S2", "S2.1")),), (Run(("S3",)),)), "Neither needs the other.", "collective, sub-task")
    assert story.flow == (Run(("S1",)), fork, Run(("S4",)))
    before, split, after, attempt = story.transcript
    assert before == Passage("We need both areas.", ("S1",))
    goals = ("Find the lawn's area.", "Find the pond's area.")
    paths = ((Passage("6*4=24.", ("S2", "S2.1")),), (Passage("3*2=6.", ("S3",)),))
    assert split == Split(goals, paths, "24 and 6.", "Neither needs the other.")
    assert after == Passage("Subtract: 24-6=18. Done.", ("S4",))
    assert attempt == Passage("It is 18.", ())
    assert story.sentences_of(("S2", "S2.1")) == [2, 3]


def test_other_blocks_than_forks_are_not_guessed_at():
    entry = problem(1)
    story = stored(entry, Outcome(record(entry), stages={**STAGES, "structure": {"structure": ["S1", "S2"]}}))
    (split, after) = story.transcript
    assert split.paths[0] == (Passage("a is one.", ()),)
    assert after.labels == ()


def test_a_block_that_fell_back_is_sequential_text():
    entry = problem(1)
    inner = {"parallel": [["S2"], ["S3"]], "reason": "inner"}
    outer = {"parallel": [[{"step": "S1", "inside": [inner]}], ["S4"]], "reason": "outer"}
    stages = {"structure": {"structure": ["S0", outer, "S5"]}}
    fallen = {**stages, "paths": {"1": {"sequential": "judge: no", "check": "judge"}}}
    story = stored(entry, Outcome(record(entry), stages=fallen))
    inside = Fork(((Run(("S2",)),), (Run(("S3",)),)), "inner", "")
    assert story.flow == (Run(("S0", "S1")), inside, Run(("S4", "S5")))
    assert story.transcript[0].paths[1][0].labels == ("S3",)
    fallen["paths"]["1.1"] = {"sequential": "judge: no"}
    assert stored(entry, Outcome(record(entry), stages=fallen)).flow == (Run(("S0", "S1", "S2", "S3", "S4", "S5")),)
    (_, whole, _) = stored(entry, Outcome(record(entry), stages=stages)).flow
    assert whole.branches[0] == (Run(("S1",)), inside)


@pytest.mark.parametrize("width", [40, 80, 160])
def test_terminal(width):
    text = " ".join(printed(garden(), width).split())
    if width == 80:
        for piece in ("garden parallel", "judge: block 2 fell back", "answer 18", "S2 S3", "[2] The lawn is 6*4=24."):
            assert piece in text
        for piece in (
            "side by side (collective, sub-task) Neither needs the other.",
            "S2 → S2.1",
            "path 2 Find the pond's",
        ):
            assert piece in text
        for piece in ("cyclic graph step S3 S3 needs S4", "conclusion 24 and 6.", "3.5 1.0000", "210 50"):
            assert piece in text
    lines = printed(garden(), width).splitlines()
    assert max(map(len, lines)) <= width
    assert any("[1] We need both areas." in line and line.count("We need") == 2 for line in lines) == (width == 160)


def test_stories_without_stages():
    rejected = stored(problem(1), Outcome(None, "answer", "it is lost"))
    assert "p1  rejected" in printed(rejected, 80)
    assert "answer: it is lost" in printed(rejected, 80)
    assert "There is none." in page(rejected)
    pending = stored(problem(1), None, (call(problem(1), "tree"), Reply("half")))
    assert "p1  pending" in printed(pending, 80)
    assert "It has not ended." in page(pending)


class Outline(HTMLParser):
    """Elements, attributes and text of a page; elements must be closed in order."""

    VOID = ("meta", "br")

    def __init__(self, text):
        super().__init__()
        self.elements, self.attributes, self.open, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attributes]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["script"] and self.open[-1:] != ["style"]:
            self.text += data


def test_page():
    text = page(garden())
    outline = Outline(text)
    assert outline.elements.count("script") == outline.elements.count("style") == 1
    assert not [name for _, name, value in outline.attributes if name in ("src", "href") or "//" in (value or "")]
    assert not re.search("https?:", text, re.IGNORECASE)
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    pointed = [value for _, name, value in outline.attributes if name == "data-sentences"]
    assert {"1", "2 3", "4", "5 6"} <= set(pointed)
    ids = [value for _, name, value in outline.attributes if name == "id"]
    assert ids == [f"s{k}" for k in range(1, 7)]
    assert re.search(r'<p dir="auto"[^>]*>.*The pond is', text)


def test_other_scripts_keep_their_direction():
    entry = Problem("مسألة", "كم المساحة؟", "المساحة أربعة. انتهى.", "٤")
    text = page(stored(entry, Outcome(None, "answer", "ضاع الجواب")))
    assert '<p dir="auto" class="question">كم المساحة؟</p>' in text
    assert '<p dir="auto" id="s1">' in text


@given(
    st.sampled_from(
        ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "<Parallel>", "@@calls@@", "[/b]&amp;"]
    )
)
@settings(max_examples=10, deadline=None)
def test_texts_are_never_markup(evil):
    stages = {
        "tree": {"steps": [{"label": "S1", "summary": evil}]},
        "groups": {"needs": {"S1": [evil]}, "groups": []},
        "structure": {"structure": [{"parallel": [["S1"], [evil]], "reason": evil}]},
        "refill": {"refill": {"S1": "1"}},
    }
    entry = Problem(f"id {evil}", f"q {evil}", f"r {evil}.", f"a {evil}")
    made = Record(entry.id, ({"role": "user", "content": "?"},), evil.replace("<P", "< P"), "", "", "llm", {})
    outcome = Outcome(made, f"check {evil}", f"why {evil}", (Finding(evil, evil, evil, evil),), stages)
    first = call(entry, evil)
    again = type(first)(evil, evil, first.messages, why=evil)
    story = stored(entry, outcome, (again, Reply(evil, evil)))
    outline, plain = Outline(page(story)), Outline(page(garden()))
    assert set(outline.elements) <= set(plain.elements) | {"button"}
    assert outline.elements.count("script") == 1
    assert not [name for _, name, _ in outline.attributes if name.startswith("on") or name == "src"]
    assert outline.text.count(evil) >= 10
    assert printed(story, 200).count(evil) >= 10
