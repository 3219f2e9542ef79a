"""The lexical checks: planted wordings are found, clean text is left alone, no text breaks them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvjax.curator import reading
from mvjax.curator.checks.independence import check_block
from mvjax.curator.sources import synthetic
from mvjax.curator.transcript import Block, Path

KNOWN = "Ann has 37 red and 52 blue pens. Each red pen costs 3 dollars, each blue pen 4 dollars. What do they cost?"
RED = Path("Find the cost of the red pens.", ("The red pens cost 37 * 3 = 111 dollars.",))


def findings(text, goal="Find the cost of the blue pens.", first=RED):
    return check_block(Block((first, Path(goal, (text,))), "Both are known."), known=KNOWN)


@pytest.mark.parametrize(
    ("text", "check", "quoted"),
    [
        ("Similarly, the blue pens cost 52 * 4 = 208 dollars.", "sibling reference", "Similarly"),
        ("As in path 1, we multiply: 52 * 4 = 208 dollars.", "sibling label", "path 1"),
        ("The blue pens cost 52 * 4 = 208 dollars. With 111 dollars that is enough.", "sibling number", "111"),
    ],
)
def test_a_path_that_leans_on_its_sibling_is_found(text, check, quoted):
    found = findings(text)
    assert check in {finding.check for finding in found}
    assert {finding.where for finding in found} == {"path 2"}
    assert any(quoted.lower() in finding.reason.lower() for finding in found)


def test_a_symbol_that_only_the_sibling_defines_is_found():
    first = Path("Find the cost of the red pens.", ("Let R be the cost of the red pens. R = 37 * 3 = 111.",))
    found = findings("The blue pens cost 52 * 4 = 208, so R + 208 is left to add.", first=first)
    assert "sibling symbol" in {finding.check for finding in found}


@pytest.mark.parametrize(
    "text",
    [
        "The blue pens cost 52 * 4 = 208 dollars.",
        "The pens next to the red ones are blue. They cost 52 * 4 = 208 dollars.",
        "Each blue pen costs the same. 52 * 4 = 208 dollars.",
        "52 blue pens at 4 dollars: 50 * 4 = 200 and 2 * 4 = 8, so 208 dollars.",
    ],
)
def test_a_path_that_stands_alone_is_left_alone(text):
    assert findings(text) == []


def test_the_order_of_the_siblings_does_not_matter_for_numbers():
    lean = Path("Find the cost of the blue pens.", ("The blue pens cost 111 + 97 = 208 dollars.",))
    for paths, where in (((RED, lean), "path 2"), ((lean, RED), "path 1")):
        found = check_block(Block(paths, "Both are known."), known=KNOWN)
        assert where in {finding.where for finding in found if finding.check == "sibling number"}


def test_transcripts_that_are_right_by_construction_pass():
    records = list(synthetic.generate(synthetic.SyntheticConfig(seed=5), 40))
    assert [
        finding
        for record in records
        for block, known in reading.blocks(record.response)
        for finding in check_block(block, known=f"{record.messages[-1]['content']}\n{known}")
    ] == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=120)), min_size=2, max_size=4), st.text(max_size=80))
def test_no_text_breaks_the_checks(texts, known):
    for finding in check_block(Block(tuple(Path(goal, (text,)) for goal, text in texts), ""), known=known):
        assert finding.where.startswith("path ")
        assert finding.reason
