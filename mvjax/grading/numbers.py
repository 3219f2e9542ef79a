"""Numbers that can be compared exactly without algebra: digits, fractions, mixed numbers, number words."""

from __future__ import annotations

import re
from fractions import Fraction

from mvjax.grading.normal import MARK

LONGEST = 400
"""Characters of a number at most; longer ones are expressions."""
LARGEST_EXPONENT = 400

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?:[ ]\d{3})+|\d+)?"
_DECIMAL = re.compile(rf"({_DIGITS})(\.\d*)?(?:[eE]([-+]?\d{{1,4}}))?")
_RATIO = re.compile(r"(?:(?P<whole>\d+) )?\s*\(?(?P<top>-?\d+(?:\.\d+)?)\s*/\s*(?P<bottom>\d+(?:\.\d+)?)\)?")
_FRACTION = re.compile(
    r"(?P<whole>\d+)?\s*\\frac\s*\{\s*(?P<top>-?\d[\d,]*(?:\.\d+)?)\s*\}\s*\{\s*(?P<bottom>-?\d[\d,]*(?:\.\d+)?)\s*\}"
)
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_DECADES = "twenty thirty forty fifty sixty seventy eighty ninety"
_UNITS = {word: value for value, word in enumerate(_SMALL.split())}
_TENS = {word: 10 * value for value, word in enumerate(["", "", *_DECADES.split()]) if word}
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8, "tenth": 10}


def number(text: str) -> Fraction | None:
    """The value of a text that is one number and nothing else; None for any other text.

    Thousands are set apart by commas or spaces; 2 1/2 is a mixed number, as is 2 in front of a fraction below 1.
    """
    text = text.replace(MARK, " ").strip()
    if not text or len(text) > LONGEST:
        return None
    text, sign = re.sub(r"^(?:minus|negative)\s+(?=[\d.\\])", "-", text, flags=re.IGNORECASE), 1
    while text and text[0] in "+-":
        sign, text = (-sign if text[0] == "-" else sign), text[1:].strip()
    value = _decimal(text)
    if value is None:
        value = _quotient(text)
    if value is None:
        value = words(text)
    return None if value is None else sign * value


def _decimal(text: str) -> Fraction | None:
    match = _DECIMAL.fullmatch(text)
    if not match or not re.search(r"\d", (match[1] or "") + (match[2] or "")):
        return None
    exponent = int(match[3] or 0)
    if abs(exponent) > LARGEST_EXPONENT:
        return None
    whole = re.sub(r"[ ,]", "", match[1] or "0")
    return Fraction(f"{whole}{match[2] if match[2] and match[2] != '.' else ''}") * Fraction(10) ** exponent


def _quotient(text: str) -> Fraction | None:
    match = _RATIO.fullmatch(text) or _FRACTION.fullmatch(text)
    if not match:
        return None
    top, bottom = (Fraction(match[name].replace(",", "")) for name in ("top", "bottom"))
    if not bottom:
        return None
    if match["whole"] is None:
        return top / bottom
    # 2 5/3 is no mixed number: it may be a product.
    return int(match["whole"]) + top / bottom if 0 < top < bottom else None


def leading(text: str) -> Fraction | None:
    """The value of the number words that a text begins with; None where it begins with none."""
    parts = text.split()[:12]
    found = (words(" ".join(parts[:length])) for length in range(len(parts), 0, -1))
    return next((value for value in found if value is not None), None)


def words(text: str) -> Fraction | None:
    """The value of a number in English words."""
    parts = re.sub(r"[-\s]+", " ", text.strip().casefold()).split(" ")
    sign = -1 if parts[0] in ("minus", "negative") else 1
    parts = parts[1:] if sign < 0 else parts
    if not 0 < len(parts) <= 16:
        return None
    if len(parts) == 2 and parts[1].removesuffix("s").replace("halve", "half") in _PARTS:
        top = {"a": 1, **_UNITS}.get(parts[0])
        return None if not top else Fraction(sign * top, _PARTS[parts[1].removesuffix("s").replace("halve", "half")])
    total = current = 0
    last = 1_000  # what the next word must be smaller than
    for part in parts:
        if part == "and" and last < 1_000:
            continue
        if part in _UNITS or part in _TENS:
            value = _UNITS.get(part, _TENS.get(part, 0))
            if value >= last:
                return None
            current, last = current + value, 10 if part in _TENS else 1
        elif part == "hundred" and 0 < current < 10:
            current, last = current * 100, 100
        elif part in _SCALES and part != "hundred" and current:
            total, current, last = total + current * _SCALES[part], 0, 1_000
        else:
            return None
    return Fraction(sign * (total + current))
