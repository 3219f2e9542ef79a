"""The lexical checks: planted wordings are found, clean text is left alone, no text breaks them."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvjax.bench.planted import cases
from mvjax.curator.checks.independence import check_block, check_body
from mvjax.curator.checks.phrases import RULES
from mvjax.curator.checks.views import Sentence
from mvjax.curator.sources import synthetic
from mvjax.curator.text import reading
from mvjax.curator.text.transcript import Block, Path

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


def block(*bodies, goals=("Find the red ones.", "Find the blue ones.", "Find the green ones.")):
    paths = (Path(goal, body if isinstance(body, tuple) else (body,)) for goal, body in zip(goals, bodies))
    return Block(tuple(paths), "Done.")


@pytest.mark.parametrize(
    "bodies",
    [
        # Both paths find the same number, each by itself.
        ("The area is 12 * 14 = 168.", "Split it: 12 * 10 = 120 and 12 * 4 = 48. The area is 168."),
        ("A week has 7 * 24 = 168 hours.", "There are 7 * 24 = 168 hours in a week, so 168 * 31 = 5208."),
        ("There are 3x + 12 = 144 in all. Solving gives x = 44.", "From 2x = 88 we get x = 44."),
        # Each brings in the same letter.
        ("Let n be the first number. Then n + 17 = 40.", "Let n be the other number. Then n - 19 = 40."),
        ("The area is A = 13 * 15 = 195.", "By the formula A = a * b the area is 14 * 16 = 224."),
        ("Let x be the number of pens, so x = 17.", "Consider f(x) = x^2 + 1. For x > 0 it rises."),
        # Labels, and words that point back, for what the path says itself.
        ("Multiply.", "Step 1: add. Step 2: divide. With step 1 done, step 2 is easy."),
        ("Multiply.", "There are two cases. In the first case it is 5, in the second case 7."),
        ("Multiply.", "The sum is 17 + 26 = 43. The 43 found above is prime. Then 43 * 2 = 86."),
        ("Multiply.", "First a = 31. Similarly, b = 37. As before, we add them: 31 + 37 = 68."),
        # Other meanings.
        ("Multiply.", "The triangles are similar. The flat is 15 m above sea level, next to the other house."),
        ("Multiply.", "Tom read it again the next day. The previous year it cost the same."),
        ("Multiply.", "This approach uses induction. By symmetry, the rest is paid in cash."),
    ],
)
def test_what_a_path_says_itself_is_its_own(bodies):
    assert check_block(block(*bodies), known="Some numbers are asked for.") == []


def test_goals_and_what_is_known_are_seen_by_all():
    define, lean = "Let M be 23 * 2 = 46.", "Taking 46, we have 46 - 21 = 25 left, so M shrinks."
    found = check_block(block(define, lean), known="There are 21.")
    assert {(finding.check, finding.where) for finding in found} == {
        ("sibling number", "path 2"),
        ("sibling symbol", "path 2"),
    }
    assert check_block(block(define, lean), known="There are 21. The total M is 46.") == []
    goals = ("Find M.", "Subtract 21 from it. The total M is 46.")
    assert check_block(block(define, lean, goals=goals), known="There are 21.") == []


def test_a_nested_block_is_text_of_its_path_and_is_looked_into_by_check_body():
    inner = block("17 + 26 = 43.", "Similarly, 43 - 14 = 29.", goals=("Add.", "Subtract."))
    outer = block(("We need two numbers.", inner, "Both cases give less than 44."), "We use 29 here: 29 * 3 = 87.")
    found = check_block(outer, known="17, 26 and 14.")
    assert [(finding.check, finding.where) for finding in found] == [("sibling number", "path 2")]
    deep = check_body(("Some text.", outer, "The end."), known="17, 26 and 14.")
    assert [(finding.check, finding.where) for finding in deep] == [
        ("sibling number", "path 2"),
        ("sibling reference", "path 1.2"),
        ("sibling number", "path 1.2"),
    ]
    seen = block(("17 + 26 = 43.", block("Now 43 - 14 = 29.", "And 43 * 2 = 86.")), "Multiply.")
    assert check_body((seen,), known="17, 26 and 14.") == []


@pytest.mark.parametrize(
    "texts",
    [
        ("Le prix est de 37 * 3 = 111 euros.", "Ensuite, de la même façon, 52 * 4 = 208 euros."),
        ("Es sind 37 * 3 = 111.", "Auch hier gilt wie zuvor: 52 * 4 = 208."),
        ("共 37 * 3 = 111。", "同样，52 * 4 = 208。"),
        ("المجموع ٣٧", "كذلك ٥٢"),
    ],
)
def test_wordings_of_other_languages_are_left_alone(texts):
    assert check_block(block(*texts, goals=("A", "B")), known="37 * 3, 52 * 4") == []


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.integers(13, 999)] * 2), min_size=2, max_size=5, unique=True))
def test_copies_of_clean_text_with_numbers_of_their_own_have_no_findings(pairs):
    known = " ".join(f"Item {k} has {a} rows of {b}." for k, (a, b) in enumerate(pairs, 1))
    line = "We are given {a} rows of {b}. First multiply, then state the result: {a} * {b} = {r}. So it is {r}."
    paths = [Path(f"Count item {k}.", (line.format(a=a, b=b, r=a * b),)) for k, (a, b) in enumerate(pairs, 1)]
    assert check_block(Block(tuple(paths), "Done."), known=known) == []


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_the_order_of_paths_does_not_matter_but_for_labels(seed, random):
    case = cases("tuning", 4, seed)[0]
    shuffled = random.sample(case.block.paths, len(case.block.paths))

    def found(paths):
        findings = check_block(Block(tuple(paths), ""), known=case.known)
        named = {(paths[int(finding.where.removeprefix("path ")) - 1].goal, finding.check) for finding in findings}
        return {entry for entry in named if entry[1] != "sibling label"}

    assert found(case.block.paths) == found(shuffled)


@pytest.mark.parametrize("name", ["Zoe", "Quinn", "Bartholomew"])
@pytest.mark.parametrize("prefix", ["Similarly, ", "As with Ann, ", ""])
def test_names_of_people_do_not_matter(name, prefix):
    texts = (KNOWN, "Find what Ann pays.", "Ann pays 37 * 3 = 111.", f"{prefix}Ben pays 52 * 4 = 208, not 111.")

    def found(known, goal, one, two):
        findings = check_block(block(one, two, goals=(goal, "Find what Ben pays.")), known=known)
        return [(finding.check, finding.where) for finding in findings]

    results = found(*texts)
    assert results == found(*(text.replace("Ann", name) for text in texts))
    assert ("sibling number", "path 2") in results
    assert (("sibling reference", "path 2") in results) == bool(prefix)


@pytest.mark.parametrize("naming", ["This is the so-called budget.", "This is what we call the budget."])
def test_a_name_that_only_the_sibling_gives_is_found(naming):
    first = Path("Find the cost of the red pens.", (f"The red pens cost 37 * 3 = 111 dollars. {naming}",))
    found = findings("The blue pens cost 52 * 4 = 208 dollars, more than the budget.", first=first)
    assert [finding.check for finding in found] == ["sibling symbol"]
    assert "the budget" in found[0].reason


def test_rules_are_for_small_letters():
    for rule in RULES:
        assert not re.search(r"(?<!\\)[A-Z]", rule.pattern.pattern)


def test_small_letters_stand_where_the_letters_stand():
    sentence = Sentence("İn ISTANBUL, ẞ and 12: By The Same Method again.", 0)
    assert len(sentence.lowered) == len(sentence.text)
    assert sentence.lowered.index("the same") == sentence.text.index("The Same")
