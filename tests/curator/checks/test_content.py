"""Edit distance and numbers of rewritten texts."""

import builtins
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvjax.curator.checks.content import check_conclusion, check_goal, check_path, distance, values, words
from mvjax.errors import UserError


def levenshtein(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


@given(st.text("abक中", max_size=12), st.text("abक中", max_size=12), st.floats(0, 1))
def test_distance_is_levenshtein_over_the_longer_length(a, b, limit):
    wanted = levenshtein(a, b) / max(1, len(a), len(b))
    assert distance(a, b) == pytest.approx(wanted)
    if abs(wanted - limit) > 1e-6:
        assert (distance(a, b, limit) <= limit) == (wanted <= limit)


def test_without_rapidfuzz_the_user_is_told(monkeypatch):
    def missing(name, *rest):
        if name.startswith("rapidfuzz"):
            raise ImportError(name)
        return real(name, *rest)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"pip install 'mvjax\[curate\]'"):
        distance("a", "b")


ORIGINAL = "Case 2: Similarly, for x = 5 we get 5 * 1,200 = 6000."


@pytest.mark.parametrize(
    ("written", "reasons"),
    [
        ("For x = 5 we get 5 * 1,200 = 6000.", []),
        ("For x = five we get 5 * 1200 = 6,000 and 7.", []),
        ("For x = 5 we get the result 6000.", ["numbers of the original are missing: 1200"]),
        ("For x = 5 we get 5 * 1,200 = 6001.", ["are missing: 6000", "not in the original: 6001"]),
        ("5 1200 6000.", ["further than 0.65 from the original"]),
    ],
)
def test_what_a_path_lost_and_has_new(written, reasons):
    findings = check_path(ORIGINAL, written, {Fraction(7)}, 0.65, "path 1.2")
    assert len(findings) == len(reasons)
    for finding, reason in zip(findings, reasons):
        assert (finding.check, finding.where) == ("content", "path 1.2")
        assert reason in finding.reason


@pytest.mark.parametrize(
    ("goal", "path", "good"),
    [
        ("Find the area.", "It is 3 wide. So it has 12.", True),
        ("Find the area, 12.", "It is 3 wide. So it has 12.", False),
        ("Find the area, 12.", "3 * 4 = 12", False),
        ("Is x = 3 possible?", "Let x = 3. Then y = 4. So x = 3 is possible.", True),
        ("Find the 20th term.", "It is 19. So the 20th is 20.", True),
        ("Find the 21st term.", "It is 19. So the 20th is 20.", False),
    ],
)
def test_a_goal_must_not_tell_the_result(goal, path, good):
    assert (not check_goal(goal, path, {Fraction(20)}, "path 1.1")) == good


def test_a_conclusion_has_only_numbers_of_its_paths():
    assert not check_conclusion("They are 12 and 20.", ["It is 12.", "Twenty."], set(), "block 1")
    (finding,) = check_conclusion("They are 12 and 21.", ["It is 12.", "Twenty."], set(), "block 1")
    assert finding.reason == "the conclusion has numbers that are in no path: 21"


def test_numbers_of_every_script_and_size():
    assert values("٤٢ و ४२, １,２００ and 3.50") == {42, 1200, Fraction(7, 2)}
    assert values("١٢٫٥، 5，200") == {Fraction(25, 2), 5, 200}
    assert values(f"{'9' * 5000} and 8") == words(f"{'9' * 5000} and eight") == {8}


@given(st.text(), st.text())
def test_no_text_breaks_the_checks(a, b):
    check_path(a, b, set(), 0.5, "")
    check_goal(a, b, set(), "")
    check_conclusion(a, [b], set(), "")
    assert not check_conclusion(a, [a], set(), "")
