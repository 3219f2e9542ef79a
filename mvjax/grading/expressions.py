"""Whether two expressions are equal, by math-verify and sympy. Runs in a process of its own."""

from __future__ import annotations

import random
import re

LONGEST = 1_000
"""Characters of an expression at most."""
DEEPEST = 40
"""Brackets within brackets at most."""
LARGEST_POWER = 10_000
LARGEST_FACTORIAL = 3_000
POINTS = 4
"""Points at which two expressions are evaluated."""
TOLERANCE = 1e-9
ROUNDED = 1e-6
"""Of decimal numbers, which may have been rounded."""


def equal(given: str, wanted: str) -> bool:
    """Whether two expressions in plain form are equal for all values of their variables."""
    if unreasonable(given) or unreasonable(wanted):
        return False
    if ("=" in given) != ("=" in wanted):
        return False
    if "=" in wanted and given.count("=") == wanted.count("=") == 1:
        return _equations(given, wanted)
    one, other = _parsed(given), _parsed(wanted)
    return one is not None and other is not None and _same(one, other)


def unreasonable(text: str) -> bool:
    """Whether a text is too long, too deep, or holds a power or factorial that nobody could work out."""
    if len(text) > LONGEST:
        return True
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    if deepest > DEEPEST or re.search(r"\d{301}", text):
        return True
    if any(int(found[:9]) > LARGEST_FACTORIAL for found in re.findall(r"(\d+)\s*[)}]*\s*!", text)):
        return True
    if re.search(r"![\s)}]*!", text) or any(_tower(text, match.end()) for match in re.finditer(r"\^", text)):
        return True
    return any(int(found[:9]) > LARGEST_POWER for found in re.findall(r"\^\s*[({]*\s*-?(\d+)", text))


def _tower(text: str, place: int) -> bool:
    """Whether the exponent at a place holds a power or a factorial of a number that is not small."""
    depth, end = 0, place
    while end < len(text):
        depth += (text[end] in "({") - (text[end] in ")}")
        end += 1
        if depth <= 0 and not re.match(r"\s*[\^!]", text[end : end + 8]) and text[end - 1] not in "^ ":
            break
    exponent = text[place:end]
    if not re.search(r"[\^!]", exponent) or re.search(r"(?<!\\)\b[a-zA-Z]\b", exponent):
        return False
    return len(re.findall(r"[\^!]", exponent)) > 1 or any(int(found[:9]) > 16 for found in re.findall(r"\d+", exponent))


def _parsed(text: str):
    """A text as a sympy expression; None where it is none."""
    import math_verify
    from latex2sympy2_extended import NormalizationConfig
    from sympy import Basic, MatrixBase

    # Units are ours: the library takes the letters of 2ab for one.
    rules = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
    )
    config = [math_verify.LatexExtractionConfig(boxed_match_priority=-1, normalization_config=rules)]
    found = math_verify.parse(f"${text}$", config, fallback_mode="no_fallback", parsing_timeout=0)
    return next((value for value in found if isinstance(value, (Basic, MatrixBase))), None)


def _same(one, other) -> bool:
    """math-verify's verdict, unless values at points contradict it; values at points where it finds nothing."""
    import math_verify
    from sympy import Expr, Symbol

    if isinstance(one, Expr) and isinstance(other, Expr):
        by_value = _at_points(one, other, 1)
        if by_value is False or (by_value and _at_points(one, other, -1) is not False):
            return by_value
        # |x| is x for some x only; the root of a product may be that of its factors for positive ones only.
    if isinstance(one, Symbol) != isinstance(other, Symbol):
        return False
    return math_verify.verify(other, one, strict=True, timeout_seconds=0)


def _names(expression) -> set[str]:
    return {symbol.name for symbol in expression.free_symbols}


def _equations(given: str, wanted: str) -> bool:
    """Whether two equations have the same solutions: their differences of sides are multiples of one another."""
    from sympy import Add, Expr, Mul

    differences: list[Expr] = []
    for text in (given, wanted):
        left, right = (_parsed(side) for side in text.split("="))
        if not isinstance(left, Expr) or not isinstance(right, Expr):
            return False
        differences.append(Add(left, Mul(-1, right)))
    one, other = differences
    if _names(one) != _names(other):
        return False
    draw = random.Random(0)
    ratios = []
    for _ in range(POINTS):
        values = {name: draw.uniform(0.5, 2.5) for name in sorted(_names(one) | _names(other))}
        top, bottom = _value(one, values), _value(other, values)
        if top is None or bottom is None or not abs(bottom) or not abs(top):
            return False
        ratios.append(top / bottom)
    return all(abs(ratio - ratios[0]) <= TOLERANCE * abs(ratios[0]) for ratio in ratios)


def _at_points(one, other, sign: int) -> bool | None:
    """Whether two expressions have the same values at some points of a sign; None where they have none there."""
    from sympy import Float

    tolerance = ROUNDED if one.has(Float) or other.has(Float) else TOLERANCE
    draw, seen = random.Random(0), 0
    names = sorted(_names(one) | _names(other))
    for _ in range(POINTS if names else 1):
        values = {name: sign * draw.uniform(0.5, 2.5) for name in names}
        left, right = _value(one, values), _value(other, values)
        if left is None or right is None:
            if (left is None) != (right is None):
                return None
            continue
        seen += 1
        if abs(left - right) > tolerance * max(1.0 if tolerance == ROUNDED else 0.0, abs(left), abs(right)):
            return False
    return True if seen else None


def _value(expression, values: dict[str, float]) -> complex | None:
    from sympy import Float, I

    try:
        # The parser reads some i as variables, such as that of e^{i\\pi}.
        point = {s: I if s.name == "i" else Float(values[s.name], 30) for s in expression.free_symbols}
        number = complex(expression.doit().subs(point).evalf(20))
    except (TypeError, ValueError, ArithmeticError, AttributeError, NotImplementedError):
        return None
    return number if abs(number) < 1e300 else None
