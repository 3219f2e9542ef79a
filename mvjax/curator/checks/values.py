"""Numbers that a path uses though only a sibling finds them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from mvjax.curator.arithmetic import NUMBER, evaluate, numbers_in, parse_number
from mvjax.curator.checks.views import View
from mvjax.curator.checks.wording import quotation

SMALL = 12
"""Whole numbers up to it prove nothing: counts, exponents, coefficients."""
COMMON = frozenset(
    {Fraction(10) ** power for power in range(-6, 4)}
    | {Fraction(digit, 10**power) for digit in range(1, 10) for power in range(1, 6)}
    | {Fraction(value) for value in (24, 30, 31, 52, 60, 90, 180, 270, 360, 365, 366, 3600)}
    | {Fraction(text) for text in "0.25 0.75 1.5 3.14 3.1416 3.14159 1.414 1.732 2.718 9.8 9.81".split()}
)  # fmt: skip
"""Numbers that everybody knows: units, angles, shares, constants."""
NEAR = 8
"""So many different numbers before one may have given it."""
_FOREIGN = re.compile(r"[A-Za-z_\\][\d_{]*$|_\{[^}]*$")
"""Before digits that belong to a name, such as x_12 or A4."""
_TIMES = re.compile(r"[\d)\s][xX]\s?$")
_SIGNS = {"·": "*", "∙": "*", "⋅": "*", "\\times": "*", "\\cdot": "*", "\\div": "/", "−": "-", "{,}": ","}
_SIGN = re.compile("|".join(map(re.escape, _SIGNS)))
_CALCULATION = re.compile(
    rf"(?<![\w.])(?:[($\s]*(?:{NUMBER.pattern})[\s)%]*(?:[-+*/×÷^xX–]\s*))+[($\s]*(?:{NUMBER.pattern})[)%]*"
)
_EQUALS = re.compile(r"(?:=|≈|≡|\\approx|equals|→|⇒|is|are|to be|namely)\s*[-$€£(\\{±]*\s*$")
_CLAIMED = re.compile(
    r"(?:=|≈|⇒|→|\\approx|gives?|giving|yields?|yielding|obtain(?:s|ed)?|get|gets|got|becomes?|(?:leads?|leading|simplifies|"
    r"reduces|amounts?|rounds|rounding|comes|adds up|sums|equal|equivalent) to|results? in|which is|making|makes|leaving|"
    r"conclude)\s*(?:that\s+)?(?:about |approximately |exactly )?(?:[A-Za-z\\][\w()\\ ,]{0,14}\s*(?:=|is|are)\s*)?[-$€£(±≈\\{\s]*$",
    re.IGNORECASE,
)
"""Before a number that the path gives as what its work comes to."""
_PREMISE = re.compile(
    r"^\W*(?:since|given|as|because|with|using|taking|if|where|knowing|from|recall|for|when|put|set|let|substituting)\b",
    re.IGNORECASE,
)
_ENDS = re.compile(r"[.!?](?=\s|$)|\n")


@dataclass(frozen=True)
class Use:
    """A number at a place of a path."""

    value: Fraction
    start: int
    end: int
    sentence: int
    """Where its sentence begins."""


@dataclass(frozen=True)
class Numbers:
    """The numbers of a path, in order."""

    view: View

    @cached_property
    def text(self) -> str:
        """The path's text with one sign for each operation."""
        return _SIGN.sub(lambda match: _SIGNS[match[0]], self.view.text)

    @cached_property
    def uses(self) -> tuple[Use, ...]:
        """All of them."""
        text, found, sentence = self.text, [], 0
        ends = [match.end() for match in _ENDS.finditer(text)]
        for match in NUMBER.finditer(text):
            while ends and ends[0] <= match.start():
                sentence = ends.pop(0)
            before = text[max(0, match.start() - 12) : match.start()]
            if _FOREIGN.search(before) and not _TIMES.search(before):
                continue
            found.append(Use(parse_number(match[0]), match.start(), match.end(), sentence))
        return tuple(found)

    @cached_property
    def first(self) -> dict[Fraction, int]:
        """Where in `uses` each value stands first."""
        places: dict[Fraction, int] = {}
        for place, use in enumerate(self.uses):
            places.setdefault(use.value, place)
        return places

    def finds(self, value: Fraction, generous: bool = False) -> bool:
        """Whether the path derives a value that it has: a calculation gives it, or simple arithmetic with the numbers
        before it.

        A number that is not given as a result must come from numbers of its own sentence, unless read generously.
        """
        place = self.first[value]
        use = self.uses[place]
        end = _ENDS.search(self.text, use.end)
        sentence = self.text[use.sentence : end.start() if end else len(self.text)]
        if self.calculated(use) or value in _calculations(sentence) or self.explained(use, sentence):
            return True
        earlier = self.uses[:place]
        result = self.claimed(use, bool(earlier))
        if generous or result or self.stated(use):
            near = dict.fromkeys(other.value for other in reversed(earlier) if other.value != value)
            own = {*list(near)[:NEAR], *(numbers_in(self.view.goal) if len(near) < NEAR else ())}
        else:
            own = {other.value for other in earlier if other.sentence == use.sentence and other.value != value}
        return result or value in _derived(own)

    def stated(self, use: Use) -> bool:
        """Whether a number is given as what something is: an equals sign or "is" stands beside it."""
        return bool(_EQUALS.search(self.text[use.sentence : use.start]) or re.match(r"\s*=", self.text[use.end :]))

    def explained(self, use: Use, sentence: str) -> bool:
        """Whether the words behind a number in its sentence say how it comes about: "25, because 14 boys and 11 girls"."""
        after = re.search(r"\b(?:because|since|as)\b|\(", sentence[use.end - use.sentence :])
        return bool(after) and use.value in _derived(numbers_in(sentence[use.end - use.sentence + after.start() :]))

    def calculated(self, use: Use) -> bool:
        """Whether an equals sign stands before a number, and a calculation before that."""
        before = self.text[use.sentence : use.start]
        equals = re.search(r"(?:=|≈|\\approx)\s*[-$€£(\\{\s]*$", before)
        if not equals:
            return False
        left = before[: equals.start()]
        return bool(re.search(r"\d", left) and re.search(r"[-+*/×÷^–(]|\d\s*x|\btimes\b|\bof\b|sqrt|frac", left))

    def claimed(self, use: Use, worked: bool) -> bool:
        """Whether a number is given as what the path's own work comes to."""
        before = self.text[use.sentence : use.start]
        return worked and bool(_CLAIMED.search(before)) and not _PREMISE.search(before)

    def states(self, value: Fraction) -> bool:
        """Whether the path gives the value as a result somewhere: behind an equals sign or "is"."""
        return any(use.value == value and self.stated(use) for use in self.uses)


def foreign_numbers(view: View, siblings: Sequence[View], seen: str) -> list[str]:
    """Numbers that a path uses and does not find itself, but a sibling does, as quotations.

    Args:
      seen: what every path sees, all goals included.
    """
    mine = Numbers(view)
    others = [Numbers(sibling) for sibling in siblings]
    visible = _spread(numbers_in(seen))
    return list(dict.fromkeys(_foreign(mine, others, visible)))


def _foreign(mine: Numbers, others: Sequence[Numbers], visible: Set[Fraction]) -> Iterator[str]:
    for value, place in mine.first.items():
        if value in visible or value in COMMON or (value <= SMALL and value.denominator == 1):
            continue
        holders = [other for other in others if value in other.first]
        if not holders or mine.finds(value):
            continue
        use = mine.uses[place]
        stated = mine.stated(use)
        if any(other.finds(value, generous=True) or (other.states(value) and not stated) for other in holders):
            yield quotation(mine.text, use.start, use.end)


def _spread(values: Set[Fraction]) -> Set[Fraction]:
    """Values with their shares of a hundred."""
    return {*values, *(value / 100 for value in values), *(value * 100 for value in values if value < 1)}


def _calculations(text: str) -> Set[Fraction]:
    """Values of the calculations that stand in a text."""
    found = set()
    for match in _CALCULATION.finditer(text):
        try:
            found.add(evaluate(match[0]))
        except (ValueError, ZeroDivisionError):
            continue
    return found


def _derived(values: Set[Fraction]) -> Set[Fraction]:
    """What one step of simple arithmetic makes of some values."""
    found: set[Fraction] = set()
    ordered = list(values)
    for value in ordered:
        found |= {value * value, 2 * value, 3 * value, value / 2, value / 3, value / 100, 100 * value, 100 - value,
                  1 - value, 1 + value, 180 - value, 360 - value, 90 - value, 60 * value, value / 60}  # fmt: skip
        found |= {root for root in (_root(value),) if root is not None}
        found |= {_factorial(value)} if value.denominator == 1 and 4 <= value <= 12 else set()
    for index, a in enumerate(ordered):
        for b in ordered[index + 1 :]:
            found |= {a + b, abs(a - b), a * b, a * b / 100, a * b / 2}
            found |= {a / b} if b else set()
            found |= {b / a} if a else set()
            found |= {a**int(b)} if b.denominator == 1 and 0 <= b <= 8 else set()
            found |= {b**int(a)} if a.denominator == 1 and 0 <= a <= 8 else set()
            found |= {a + b + c for c in ordered[index + 2 :]}
    total = Fraction(0)
    for value in ordered:
        total += value
        found.add(total)
    return found


def _root(value: Fraction) -> Fraction | None:
    """The exact square root of a whole number."""
    if value.denominator != 1 or value < 0:
        return None
    root = int(value.numerator**0.5 + 0.5) if value.numerator < 10**15 else 0
    return Fraction(root) if root * root == value.numerator else None


def _factorial(value: Fraction) -> Fraction:
    product = 1
    for factor in range(2, int(value) + 1):
        product *= factor
    return Fraction(product)
