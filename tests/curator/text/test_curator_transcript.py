"""Writing bodies as Multiverse text."""

from mvjax.curator.text.transcript import Block, Path, multiverse
from mvjax.language import parse_text, render

INNER = Block((Path("c?", ("c",)), Path("d?", ("d",))), "c and d")
BODY = ("before", Block((Path("a?", ("a", INNER, "after")), Path("b?", (INNER,))), "a and b"), "end")


def test_labels_follow_the_nesting():
    text = multiverse(BODY)
    assert render(parse_text(text, complete=True)) == text
    labels = [part.split(":")[0] for part in text.split("<Path>\n")[1:]]
    assert labels == ["1", "1.1", "1.2", "2", "2.1", "2.2"]
    assert "2: Let's think in parallel.\n<Parallel>" in text
