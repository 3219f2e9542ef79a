"""Numbers that a path uses though only a sibling finds them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from fractions import Fraction
from functools import cached_property
from itertools import islice
from math import factorial
from typing import NamedTuple

from mvjax.curator.checks.views import View, quotation
from mvjax.curator.text.arithmetic import NUMBER, evaluate, numbers_in, parse_number
from mvjax.curator.text.lines import by_line

SMALL = 12
"""Whole numbers up to it prove nothing: counts, exponents, coefficients."""
COMMON = frozenset(
    """24 30 31 52 60 90 100 180 270 360 365 366 1000 3600 0.25 0.75 1.5 3.14 3.1416 3.14159 1.414 1.732 2.718 9.8
    9.81""".split()  # noqa: SIM905
) | {f"0.{'0' * zeros}{digit}" for zeros in range(5) for digit in range(1, 10)}
"""Numbers that everybody knows, as `Use.key`: units, angles, shares, constants."""
_ALWAYS = ("60", "100", "1000")
NEAR = 8
"""Different numbers before another number that may have given it."""
_LONG = re.compile(r"[\d,.][\d,.]{30,}")
_SIGNS = {"·": "*", "∙": "*", "⋅": "*", "\\times": "*", "\\cdot": "*", "\\div": "/", "−": "-", "{,}": ","}
_SIGN = re.compile("|".join(map(re.escape, _SIGNS)))
_OPERAND = rf"[($ ]*+(?:{NUMBER.pattern})[ )%]*+"
_CALCULATION = re.compile(rf"(?<![\w.])(?:{_OPERAND}[-+*/×÷^xX–]\s*+)+{_OPERAND}")
_OPERATED = re.compile(r"[-+*/×÷^–(]|\d\s*x|\btimes\b|\bof\b|sqrt|frac")
_EQUALS = re.compile(r"(?:=|≈|\\approx)\s*[-$€£(\\{]*\s*$")
_OPERATOR = re.compile(r"[-+*/×÷^x–(]\s*[$€£]?\s*$|\b(?:plus|minus|times|by|of|and|from)\s+\$?$")
_STATED = re.compile(r"(?:=|≈|≡|[≤≥<>]|\\(?:approx|leq?|geq?)|equals|→|⇒|\b(?:is|are|to be|namely))\s*[-$€£(\\{±]*\s*$")
_CLAIMED = re.compile(
    r"(?:=|≈|⇒|→|\\approx|gives?|giving|yields?|yielding|obtain(?:s|ed)?|get|gets|got|becomes?|(?:leads?|leading|"
    r"simplifies|reduces|amounts?|rounds|rounding|comes|adds up|sums|equal|equivalent) to|results? in|which is|"
    r"making|makes|leaving|conclude)\s*(?:that\s+)?(?:about |approximately |exactly )?(?:[A-Za-z\\][\w()\\ "
    r",]{0,14}\s*(?:=|is|are)\s*)?[-$€£(±≈\\{\s]*$",
    re.IGNORECASE,
)
"""Before a number that a path gives as what its work comes to."""
_PREMISE = re.compile(
    r"^\W*(?:since|given|as|because|with|using|taking|if|where|knowing|from|recall|for|when|put|set|let|"
    r"substituting)\b",
    re.IGNORECASE,
)
_BECAUSE = re.compile(r"\b(?:because|since|as)\b.*|\([^()]*\)")
_OPERATOR_AFTER = re.compile(r"[ \w]{0,20}[-+*/×÷^(–]")
_UNIT = re.compile(
    r"[ -]?(?:%|°|percent|degrees?|seconds?|minutes?|hours?|days?|weeks?|months?|years?|cents?|feet|inch(?:es)?|"
    r"ounces?|pounds?|grams?|millilit|meters?|metres?|miles?|yards?)\b|%"
)
"""Behind a number that everybody knows for what it counts."""


@by_line
def values_in(text: str) -> frozenset[Fraction]:
    """All values that a text mentions; runs of digits that no reader takes for a number are passed over."""
    return numbers_in(_LONG.sub(" ", text))


class Use(NamedTuple):
    """A number at a place of a path."""

    key: str
    """Its digits, the same for 1,200 and 1200, for 0.5 and .50."""
    sentence: int
    start: int
    end: int

    @property
    def value(self) -> Fraction:
        return parse_number(self.key)


class Numbers:
    """The numbers of a path, in order."""

    def __init__(self, view: View):
        self.view = view
        said = (sentence.text for sentence in view.sentences)
        self.texts = tuple(said if _readable(view.text) == view.text else map(_readable, said))

    @cached_property
    def keys(self) -> frozenset[str]:
        """`Use.key` of all of them, and of digits that belong to names."""
        return frozenset(map(_key, NUMBER.findall("\n".join(self.texts))))

    @cached_property
    def uses(self) -> tuple[Use, ...]:
        """All of them, but for those that belong to a name, such as x_12 or A4."""
        found = []
        for place, text in enumerate(self.texts):
            for match in NUMBER.finditer(text):
                start = match.start()
                if not (start and _is_of_name(text, start)):
                    found.append(Use(_key(match[0]), place, start, match.end()))
        return tuple(found)

    @cached_property
    def first(self) -> dict[str, int]:
        """Where in `uses` each number occurs first."""
        places: dict[str, int] = {}
        for place, use in enumerate(self.uses):
            places.setdefault(use.key, place)
        return places

    def finds(self, key: str, generous: bool = False) -> bool:
        """Whether the path derives a number that it has: a calculation gives it, or simple arithmetic with the numbers
        before it.

        A number that is not given as a result must come from numbers of its own sentence, unless read generously.
        """
        place = self.first[key]
        use = self.uses[place]
        value, sentence = use.value, self.texts[use.sentence]
        results = frozenset(_calculations(sentence))
        if self.calculated(use) or value in results or self.explained(use):
            return True
        earlier = self.uses[:place]
        if self.claimed(use, bool(earlier)):
            return True
        if not generous and not self.stated(use):
            shares = {value, value / 100} if sentence.startswith("%", use.end) else {value}
            given = values_in(self.before(use)) - {value} - results
            return not given.isdisjoint(shares) or any(_combines(share, given) for share in shares)
        near = dict.fromkeys(other.key for other in reversed(earlier) if other.key != key)
        own = {parse_number(other) for other in islice(near, NEAR)}
        return _follows(value, own | values_in(self.view.goal) if len(near) < NEAR else own)

    def before(self, use: Use) -> str:
        """What comes before a number in its sentence."""
        return self.texts[use.sentence][: use.start]

    def calculated(self, use: Use) -> bool:
        """Whether an equals sign comes before a number, and a calculation before that."""
        equals = _EQUALS.search(self.before(use))
        left = self.before(use)[: equals.start()] if equals else ""
        return any(character.isdigit() for character in left) and _OPERATED.search(left) is not None

    def stated(self, use: Use) -> bool:
        """Whether a number is given as what something is: an equals sign or "is" is next to it."""
        before, after = self.before(use), self.texts[use.sentence][use.end :]
        if _STATED.search(before):
            return not re.match(r"\s*[-+*/×÷^]", after)
        return after.lstrip().startswith("=") and not _OPERATOR.search(before)

    def explained(self, use: Use) -> bool:
        """Whether the words behind a number say how it comes about: "25, because 14 boys and 11 girls"."""
        sentence = self.texts[use.sentence]
        because = _BECAUSE.search(sentence, use.end)
        if because is None or _OPERATOR.search(self.before(use)) or _OPERATOR_AFTER.match(sentence, use.end):
            return False
        return _combines(use.value, values_in(because[0]) - {use.value})

    def claimed(self, use: Use, worked: bool) -> bool:
        """Whether a number is given as what the path's own work comes to."""
        before = self.before(use)
        return worked and _CLAIMED.search(before) is not None and not _PREMISE.search(before)

    def concludes(self, use: Use, names: Set[str]) -> bool:
        """Whether a number that is stated is the path's own conclusion: it worked with numbers and names no sibling."""
        worked = any(other.sentence < use.sentence and other.key != use.key for other in self.uses)
        named = not self.view.sentences[use.sentence].stems.isdisjoint(names)
        return worked and not named and not _PREMISE.search(self.before(use))

    def states(self, key: str) -> bool:
        """Whether the path gives the number as a result somewhere."""
        return any(use.key == key and self.stated(use) for use in self.uses)


def foreign_numbers(mine: Numbers, others: Sequence[Numbers], names: Set[str], seen: str) -> list[str]:
    """Numbers that a path uses and does not find itself, but a sibling does, as quotations.

    Args:
      names: stems by which a sibling can be named.
      seen: what every path sees, all goals included.
    """
    common = mine.keys & frozenset().union(*(other.keys for other in others))
    telling = {key for key in common if not (key.isdigit() and len(key) < 3 and int(key) <= SMALL)}
    shared = [key for key in mine.first if key in telling and _is_telling(key, mine, others)] if telling else []
    if not shared:
        return []
    visible = _spread(values_in(seen))
    found = (key for key in shared if parse_number(key) not in visible and _is_foreign(key, mine, others, names))
    uses = (mine.uses[mine.first[key]] for key in found)
    return list(dict.fromkeys(quotation(mine.texts[use.sentence], use.start, use.end) for use in uses))


def _is_telling(key: str, mine: Numbers, others: Sequence[Numbers]) -> bool:
    """Whether it is shared with a sibling and none that everybody knows: one that a sibling calculates is none, unless
    it counts what it always counts."""
    holders = [other for other in others if key in other.first]
    if not holders or key not in COMMON:
        return bool(holders)
    use = mine.uses[mine.first[key]]
    if "." in key or key in _ALWAYS or _UNIT.match(mine.texts[use.sentence], use.end):
        return False
    return any(other.calculated(other.uses[other.first[key]]) for other in holders)


def _is_foreign(key: str, mine: Numbers, others: Sequence[Numbers], names: Set[str]) -> bool:
    """Whether a path does not find a number that it shares with siblings, and one of them does."""
    use = mine.uses[mine.first[key]]
    stated = mine.stated(use)
    if (stated and mine.concludes(use, names)) or mine.finds(key):
        return False
    holders = (other for other in others if key in other.first)
    return any(other.finds(key, generous=True) or (other.states(key) and not stated) for other in holders)


def _readable(text: str) -> str:
    """A sentence with one sign for each operation, without endless digits."""
    if "\\" in text or "{,}" in text or not text.isascii():
        text = _SIGN.sub(lambda match: _SIGNS[match[0]], text)
    return _LONG.sub(" ", text)


def _is_of_name(text: str, start: int) -> bool:
    """Whether digits belong to a name: behind a letter that is no times sign, or a subscript."""
    last = text[start - 1]
    if last == "{":
        return text[start - 2 : start - 1] == "_"
    if last in "xX" and text[:start].rstrip("xX ")[-1:] in tuple("0123456789)%"):
        return False
    return last == "_" or (last.isascii() and last.isalpha())


def _key(written: str) -> str:
    if written.isdecimal() and not written.startswith("0"):
        return written
    digits = written.replace(",", "")
    if "." in digits:
        digits = digits.rstrip("0").rstrip(".")
        digits = f"0{digits}" if digits.startswith(".") else digits
    return digits.lstrip("0") if digits.isdigit() and digits.strip("0") else digits or "0"


def _spread(values: Set[Fraction]) -> Set[Fraction]:
    """Values with their shares of a hundred."""
    return {*values, *(value / 100 for value in values), *(value * 100 for value in values if value < 1)}


def _calculations(text: str) -> Iterator[Fraction]:
    """Values of the calculations that are in a text."""
    for match in _CALCULATION.finditer(text):
        if len(match[0]) <= 120 and match[0].count("^") <= 1 and match[0].count("(") <= 20:
            try:
                yield evaluate(match[0])
            except ValueError:
                continue


def _combines(value: Fraction, given: Set[Fraction]) -> bool:
    """Whether two of some values, words such as "twice" among them, make a value by one operation."""
    for a in given:
        others = given - {a}
        if value - a in others or value + a in others or (a and value / a in others) or value * a in others:
            return True
    return False


def _follows(value: Fraction, given: Set[Fraction]) -> bool:
    """Whether one step of simple arithmetic makes a value of some others, to nine digits."""
    x, numbers = float(value), [float(other) for other in given]
    found = {_rounded(other) for other in numbers}
    if not found:
        return False
    single = [x / 2, x / 3, x * 2, x * 3, x * 100, x / 100, x / 60, x * 60, x**0.5, x * x, 100 - x, 1 - x, x - 1]
    single += [180 - x, 360 - x, 90 - x]
    for a in numbers:
        single += [x - a, x + a, a - x, x * a]
        single += [x / a, 100 * x / a, 2 * x / a, a / x if x else a] if a else []
    if not found.isdisjoint(map(_rounded, single)):
        return True
    if any(_rounded(x - a - b) in found for a in numbers for b in numbers if a < b < x - a - b):
        return True
    small = [int(a) for a in numbers if a.is_integer() and 2 <= a <= 12]
    powers = (a**power for power in small for a in numbers if a < 10**6)
    return any(_rounded(other) == _rounded(x) for other in (sum(numbers), *map(factorial, small), *powers))


def _rounded(value: float) -> float:
    return float(f"{value:.9g}")
