"""Exact arithmetic on written numbers."""

from fractions import Fraction

import pytest

from mvjax.curator.text.arithmetic import agrees, evaluate, numbers_in, parse_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("48/2", Fraction(24)),
        ("2+3*4", Fraction(14)),
        ("(2+3)*4", Fraction(20)),
        ("10-4-3", Fraction(3)),
        ("-3+5", Fraction(2)),
        (".5*8", Fraction(4)),
        ("20%*50", Fraction(10)),
        ("$1,200 x 2", Fraction(2400)),
        ("6 × 7 ÷ 2", Fraction(21)),
        ("80(.50)", Fraction(40)),
        ("2^3", Fraction(8)),
        ("1/3*3", Fraction(1)),
        ("30 – 12", Fraction(18)),
    ],
)
def test_values(text, value):
    assert evaluate(text) == value


@pytest.mark.parametrize("text", ["", "3+", "(2", "2)", "3 apples", "5/0", "2^999", "//2"])
def test_what_is_no_calculation(text):
    with pytest.raises(ValueError, match=r"calculation|number|division|bracket|power"):
        evaluate(text)


def test_rounded_decimals_agree_and_whole_numbers_must_be_exact():
    assert agrees(Fraction(1, 3), "0.33")
    assert agrees(Fraction(2, 3), ".667")
    assert agrees(Fraction(1, 6), "16.67%")
    assert not agrees(Fraction(1, 3), "0.34")
    assert not agrees(Fraction(100, 3), "33")
    assert agrees(Fraction(5, 6), "5/6")


def test_numbers_of_a_text():
    found = numbers_in("Twice as many as 1,200 is 20% of two-thirds or 3/8 of twenty-five dozens")
    for value in ("1200", "20", "1/5", "2/3", "3/8", "25", "12", "2"):
        assert Fraction(value) in found
    assert numbers_in("nothing here") == frozenset()


def test_commas_and_points():
    assert parse_number("12,345.5") == Fraction(24691, 2)
    assert parse_number(".5") == Fraction(1, 2)
