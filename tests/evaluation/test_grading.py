"""Final answers: found, normalised, compared."""

from fractions import Fraction

import pytest

from mvjax.evaluation.grading import final_answer, is_correct, numbers


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So it is 4.\nThe answer is 12.", "12"),
        ("The answer is 3.\nNo: the answer is 5.", "5"),
        ("Thus \\boxed{1/2}. The answer is 7.", "1/2"),
        ("He has 3 and then 8", "8"),
        ("nothing here", ""),
    ],
)
def test_final_answer(text, answer):
    assert final_answer(text) == answer


def test_numbers_are_exact_and_lists_are_not_thousands():
    assert numbers("6, 9, 4") == [6, 9, 4]
    assert numbers("$1,234.50 and -3") == [Fraction("1234.5"), -3]
    assert numbers("1/3") == [Fraction(1, 3)]
    assert numbers("1/0") == []


@pytest.mark.parametrize(
    ("response", "answer", "right"),
    [
        ("The answer is $1,200.", "1200", True),
        ("The answer is 6, 9, 4.", "6, 9, 4", True),
        ("The answer is 6, 9.", "6, 9, 4", False),
        ("The answer is 9, 6, 4.", "6, 9, 4", False),
        ("The answer is 2.50 dollars.", "2.5", True),
        ("The answer is yes.", "Yes", True),
        ("The answer is 12.", "13", False),
        ("", "13", False),
    ],
)
def test_is_correct(response, answer, right):
    assert is_correct(response, answer) is right
