"""The live view: text in order, paths of a block side by side, nothing shown twice or lost."""

import io
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
from rich.console import Console

from mvjax.display.branch_texts import BranchTexts
from mvjax.display.live_tree import LiveTree, SegmentTokens, write_svg
from mvjax.language.tags import TAGS


def view(width=100):
    words = {}

    def encode(text):
        return [
            words.setdefault(word, len(TAGS) + len(words)) if word not in TAGS else TAGS.index(word) for word in text
        ]

    def decode(tokens):
        names = {number: word for word, number in words.items()}
        return "".join(TAGS[token] if token < len(TAGS) else names[token] for token in tokens)

    return encode, LiveTree(decode, lambda token: token if token < len(TAGS) else None, width)


def drawn(renderable, width=100):
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(renderable)
    return console.export_text()


MAP = ["intro\n", "<Parallel>", "\n", "<Goal>", "\n"]
for label in "12":
    MAP += ["<Outline>", "\n", label, ":", f" goal{label}", "\n", "</Outline>", "\n"]
MAP += ["</Goal>", "\n"]


def test_paths_stand_side_by_side_between_map_and_reduce():
    encode, shown = view()
    tokens = SegmentTokens()
    tokens.add(0, -1, encode(MAP))
    tokens.add(1, 0, encode(["<Path>", "\n", "1", ":", " left"]))
    tokens.add(2, 0, encode(["<Path>", "\n", "2", ":", " right"]))
    lines = drawn(shown.render(tokens)).splitlines()
    assert any("left" in line and "right" in line for line in lines)
    assert not any("Reduce" in line for line in lines)
    tokens.add(
        0, -1, encode(["<Conclusion>", "\n", "merged", "\n", "</Conclusion>", "\n", "</Parallel>", "\n", "after"])
    )
    text = drawn(shown.render(tokens))
    for word in ("intro", "goal1", "goal2", "left", "right", "merged", "after"):
        assert text.count(word) == 1, word
    assert text.index("goal2") < text.index("left") < text.index("merged") < text.index("after")


def test_narrow_terminals_stack_the_paths():
    encode, shown = view(30)
    tokens = SegmentTokens()
    tokens.add(0, -1, encode(MAP))
    tokens.add(2, 0, encode(["<Path>", "\n", "2", ":", " right"]))
    tokens.add(1, 0, encode(["<Path>", "\n", "1", ":", " left"]))
    text = drawn(shown.render(tokens), 30)
    assert text.index("left") < text.index("right")


def test_an_abandoned_block_takes_no_paths_of_the_next_one():
    encode, shown = view()
    tokens = SegmentTokens()
    abandoned = [*MAP, "</Parallel>", "\n", "between", "\n"]
    tokens.add(0, -1, encode([*abandoned, *MAP]))
    tokens.add(1, 0, encode(["<Path>", "\n", "1", ":", " left"]))
    tokens.add(2, 0, encode(["<Path>", "\n", "2", ":", " right"]))
    text = drawn(shown.render(tokens))
    assert text.count("left") == 1
    assert text.index("between") < text.index("left")


def test_a_finished_result_has_the_tree_that_its_tokens_grew(tmp_path):
    encode, shown = view()
    paths = [encode(["<Path>", "\n", label, ":", f" text{label}", "\n", "</Path>", "\n"]) for label in "12"]
    head, tail = encode(MAP), encode(["<Conclusion>", "\n", "merged", "\n", "</Conclusion>", "\n", "</Parallel>"])
    grown = SegmentTokens()
    for segment, parent, tokens in ((0, -1, head), (2, 0, paths[1]), (1, 0, paths[0]), (0, -1, tail)):
        grown.add(segment, parent, tokens)
    result = SimpleNamespace(
        tokens=np.array([*head, *paths[0], *paths[1], *tail]),
        segment=np.repeat([0, 1, 2, 0], [len(head), len(paths[0]), len(paths[1]), len(tail)]),
        parent=np.array([-1, 0, 0]),
    )
    made = SegmentTokens.of_result(result)
    assert drawn(shown.render(made)) == drawn(shown.render(grown))
    write_svg(tmp_path / "tree.svg", shown.render(made), "title & name", 100)
    svg = ElementTree.parse(tmp_path / "tree.svg")  # Well-formed, whatever the text.
    text = "".join(svg.getroot().itertext())
    for word in ("title", "goal1", "text1", "text2", "merged"):
        assert word in text
    assert "url(http" not in (tmp_path / "tree.svg").read_text().replace('"', "")


def test_branches_that_come_as_text_are_drawn_alike():
    """Whatever the pieces that their texts come in."""
    encode, shown = view()
    paths = [["<Path>", "\n", label, ":", f" text{label}", "\n", "</Path>", "\n"] for label in "12"]
    tail = ["<Conclusion>", "\n", "merged", "\n", "</Conclusion>", "\n", "</Parallel>", "\n", "after"]
    tokens, texts, coarse = SegmentTokens(), BranchTexts(), BranchTexts()
    story = [("", MAP), ("1.1", paths[0]), ("1.2", paths[1]), ("", tail)]
    for number, (address, words) in enumerate(story):
        tokens.add(number % 3, 0 if address else -1, encode(words))
        for made in (texts, coarse):
            if address:
                made.add(address, "start", "")
        for word in words:
            texts.add(address, "text", word)
        coarse.add(address, "text", "".join(words))
        texts.add("", "fork", "")
        for made in (texts, coarse):
            assert drawn(made.view(100).render(made.tokens)) == drawn(shown.render(tokens))


def test_nested_paths_stand_in_their_path():
    texts = BranchTexts()
    for address, text in (
        ("", "".join(MAP)),
        ("1.1", "<Path>\n1:" + "".join(MAP)),
        ("1.1/1.1", "deep"),
        ("1.2", "flat"),
    ):
        texts.add(address, "start" if address else "text", text)
    assert texts.tokens.children == {0: [1, 3], 1: [2]}
