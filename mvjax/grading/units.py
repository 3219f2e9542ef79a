"""Units and other words after a value."""

from __future__ import annotations

import re

from mvjax.grading.normal import MARK

_FUNCTIONS = r"(?:sin|cos|tan|cot|sec|csc|log|ln|exp|arc\w+|sqrt|pi|mod|gcd|lcm|max|min|and|or|not)\b"
_UNIT = re.compile(
    rf"(?P<value>.*[\d)}}\].%\w\"'])\s*(?P<unit>{MARK}[^{MARK}]*{MARK}(?:\s*\^\s*\{{?\s*[23]\s*\}}?)?[\s./]*)+",
    re.DOTALL,
)
_PROSE = re.compile(rf"(?P<value>.*?\d[%)}}]*)\s+(?!{_FUNCTIONS})(?P<unit>[a-zA-Z]{{2,}}\b[^\\={MARK}]*)", re.DOTALL)
_GLUED = re.compile(r"(?P<value>[-+]?[\d.,/ ]*\d)\s*(?P<unit>cm|mm|km|kg|lbs?|ft|mph|hrs?|mins?|secs?|[ap]\.?m\.?)\b.*")
_BEFORE = re.compile(rf"\s*{MARK}(?P<unit>[^{MARK}]*){MARK}\s*(?P<value>[-+\d\\(].*)", re.DOTALL)

_MEASURES = {
    "degrees": "degree degrees deg", "radians": "radian radians rad", "centimeters": "cm centimeter centimeters "
    "centimetre centimetres", "millimeters": "mm millimeter millimeters", "kilometers": "km kilometer kilometers "
    "kilometre kilometres", "meters": "m meter meters metre metres", "inches": "in inch inches",
    "feet": "ft foot feet", "yards": "yd yard yards", "miles": "mi mile miles", "grams": "g gram grams",
    "kilograms": "kg kilogram kilograms", "pounds": "lb lbs pound pounds", "seconds": "s sec secs second seconds",
    "minutes": "min mins minute minutes", "hours": "h hr hrs hour hours", "days": "day days", "weeks": "week weeks",
    "years": "year years", "cents": "cent cents", "dollars": "dollar dollars", "am": "am a.m.", "pm": "pm p.m.",
}  # fmt: skip
_NAMES = {name: measure for measure, names in _MEASURES.items() for name in names.split()}


def value_and_unit(text: str) -> tuple[str, str]:
    """A plain text's value, and the words after it in lower case."""
    if text.startswith(MARK) and text.endswith(MARK) and text.count(MARK) == 2:
        text = text.strip(MARK)
    for pattern in (_UNIT, _GLUED, _PROSE):
        if match := pattern.fullmatch(text):
            value, unit = match["value"].strip(), text[len(match["value"]) :]
            inner, earlier = value_and_unit(value) if pattern is _UNIT else (value, "")
            return inner, " ".join(f"{earlier} {unit}".replace(MARK, " ").split()).casefold().strip(" .")
    if match := _BEFORE.fullmatch(text):
        return match["value"].strip(), match["unit"].strip().casefold()
    return text, ""


def differ(one: str, other: str) -> bool:
    """Whether two units are known measures, each another one, or other powers of one."""
    (first, power), (second, other_power) = _measure(one), _measure(other)
    if not first or not second:
        return False
    return first != second or bool(power and other_power and power != other_power)


def _measure(unit: str) -> tuple[str, str]:
    """The measure of a unit and its power; "" where they are not known."""
    name, *_ = re.split(r"[\s^/,]", unit)
    power = re.search(r"\^\s*\{?\s*(\d)", unit)
    return _NAMES.get(name, ""), power[1] if power else ""
