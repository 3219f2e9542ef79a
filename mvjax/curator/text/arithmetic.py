"""Exact arithmetic on the numbers and calculations of written solutions."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from mvjax.curator.text.lines import by_line

NUMBER = re.compile(r"[\d.](?:(?<=\d)(?:\d{0,2}(?:,\d{3})+|\d*)(?:\.\d+)?|(?<=\.)\d+)")
"""A number as people write it: 12, 1,200, 0.5, .5. It begins with a set of characters, which `re` finds fast."""
_RATIO = re.compile(rf"({NUMBER.pattern})\s*/\s*({NUMBER.pattern})")
_TOKEN = re.compile(rf"\s*(?:({NUMBER.pattern})|(\*\*|[-+*/^()×÷xX%$=−–]))")
_SIGNS = {"×": "*", "x": "*", "X": "*", "÷": "/", "−": "-", "–": "-", "**": "^"}
_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_WORDS = {word: Fraction(value) for value, word in enumerate(_UNITS.split())} | {
    "thirty": Fraction(30), "forty": Fraction(40), "fifty": Fraction(50), "sixty": Fraction(60),
    "seventy": Fraction(70), "eighty": Fraction(80), "ninety": Fraction(90), "hundred": Fraction(100),
    "thousand": Fraction(1000), "million": Fraction(1000000), "dozen": Fraction(12), "once": Fraction(1),
    "twice": Fraction(2), "double": Fraction(2), "triple": Fraction(3), "thrice": Fraction(3), "half": Fraction(1, 2),
    "third": Fraction(1, 3), "quarter": Fraction(1, 4), "fourth": Fraction(1, 4), "fifth": Fraction(1, 5),
    "both": Fraction(2), "couple": Fraction(2), "pair": Fraction(2),
}  # fmt: skip
_FRACTION = re.compile(r"\b(two|three|four|five|six|seven|eight|nine)[- ](third|fourth|quarter|fifth)s\b")
_COMPOUND = re.compile(r"\b(\w+ty)-(\w+)\b")
_WORD = re.compile(r"\w+")


@lru_cache(maxsize=65536)
def parse_number(text: str) -> Fraction:
    """Value of a written number such as 1,200 or .5."""
    digits = text.replace(",", "")
    return Fraction(int(digits) if digits.isdecimal() else digits)


def evaluate(text: str) -> Fraction:
    """Value of a calculation: + - * / ^, brackets, %, $ ignored, x and × for times.

    Raises:
      ValueError: not a calculation, a division by zero, or an unreasonable power.
    """
    tokens = _tokens(text)
    value, rest = _sum(tokens, 0)
    if rest != len(tokens):
        raise ValueError(f"not a calculation: {text.strip()!r}")
    return value


def agrees(exact: Fraction, written: str) -> bool:
    """Whether a written result equals the exact one, rounded to the decimals it is written with.

    A result written without decimals must be exact: whole numbers are counts, not roundings.
    """
    value = evaluate(written)
    decimals = re.search(r"\.(\d+)", written)
    if value == exact or not decimals:
        return value == exact
    unit = Fraction(1, 10 ** len(decimals[1]))
    return abs(value - exact) <= unit / (200 if "%" in written else 2)


@by_line
def numbers_in(text: str) -> frozenset[Fraction]:
    """All values that a text mentions: digits, fractions such as 3/8, percentages (as written and as shares), words."""
    found: set[Fraction] = set()
    for match in NUMBER.finditer(text):
        value = parse_number(match[0])
        found.add(value)
        if text.startswith(("%", " percent", " cent"), match.end()):
            found.add(value / 100)
    for numerator, denominator in _RATIO.findall(text) if "/" in text else ():
        if parse_number(denominator):
            found.add(parse_number(numerator) / parse_number(denominator))
    lowered = text.lower()
    words = set(_WORD.findall(lowered))
    found.update(_WORDS[word] for word in (words | {word.removesuffix("s") for word in words}) & _WORDS.keys())
    if not words.isdisjoint(("thirds", "fourths", "quarters", "fifths")):
        found.update(_WORDS[word] * _WORDS[part] for word, part in _FRACTION.findall(lowered))
    if "ty-" in lowered:
        for ten, unit in _COMPOUND.findall(lowered):
            if ten in _WORDS and unit in _WORDS:
                found.add(_WORDS[ten] + _WORDS[unit])
    return frozenset(found)


def _tokens(text: str) -> list[str]:
    tokens, place = [], 0
    text = text.strip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if not match:
            raise ValueError(f"not a calculation: {text!r}")
        token = match[1] or _SIGNS.get(match[2], match[2])
        if token != "$":
            tokens.append(token)
        place = match.end()
    return tokens


def _sum(tokens: list[str], place: int) -> tuple[Fraction, int]:
    value, place = _product(tokens, place)
    while place < len(tokens) and tokens[place] in "+-":
        other, after = _product(tokens, place + 1)
        value = value + other if tokens[place] == "+" else value - other
        place = after
    return value, place


def _product(tokens: list[str], place: int) -> tuple[Fraction, int]:
    value, place = _signed(tokens, place)
    while place < len(tokens) and (tokens[place] in "*/" or tokens[place] == "("):
        sign = tokens[place]
        other, after = _signed(tokens, place if sign == "(" else place + 1)
        if sign == "/" and not other:
            raise ValueError("a division by zero")
        value = value / other if sign == "/" else value * other
        place = after
    return value, place


def _signed(tokens: list[str], place: int) -> tuple[Fraction, int]:
    if place < len(tokens) and tokens[place] == "-":
        value, place = _signed(tokens, place + 1)
        return -value, place
    value, place = _atom(tokens, place)
    while place < len(tokens) and tokens[place] in "%^":
        if tokens[place] == "%":
            value, place = value / 100, place + 1
            continue
        power, place = _atom(tokens, place + 1)
        if power.denominator != 1 or not 0 <= power <= 64:
            raise ValueError("an unreasonable power")
        value = value ** int(power)
    return value, place


def _atom(tokens: list[str], place: int) -> tuple[Fraction, int]:
    if place >= len(tokens):
        raise ValueError("a calculation that ends too early")
    if tokens[place] == "(":
        value, place = _sum(tokens, place + 1)
        if place >= len(tokens) or tokens[place] != ")":
            raise ValueError("a bracket that is not closed")
        return value, place + 1
    if not NUMBER.fullmatch(tokens[place]):
        raise ValueError(f"a number was expected, not {tokens[place]!r}")
    return parse_number(tokens[place]), place + 1
