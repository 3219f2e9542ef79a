"""Whether two answers are equal: by parts, by number, by words, and by algebra where those do not decide."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from mvjax.grading.kinds import letter
from mvjax.grading.normal import MARK, bare, compact, plain
from mvjax.grading.numbers import leading, number
from mvjax.grading.shapes import Shape, assigned, elements, is_words, shape
from mvjax.grading.units import differ, value_and_unit

Algebra = Callable[[str, str], bool]
"""Whether two expressions, the given and the reference, are equal."""

MOST = 64
"""Elements of a row or set at most; those of longer ones are compared in order."""

_BASE = re.compile(r"\(?([0-9A-Fa-f]+)\)?\s*_\s*\{?\s*(\d+|[a-z]+)\s*\}?")
_TIME = re.compile(r"(\d{1,2}):(\d\d)\s*(?:([ap])\.?\s*m\.?)?.*", re.IGNORECASE)
_CHOICE = re.compile(
    r"\W*(?:(?:option|choice|answer)\W+)?[(\[{]?\s*([A-J])\s*(?:[)\]}]|[.:,;*](?=\s|$)|$|\s+(?:because|since|as|is|which)\b)"
)


class Undecided(Exception):
    """Numbers and words do not decide whether two answers are equal."""


def undecided(given: str, wanted: str) -> bool:
    """In place of algebra: raises Undecided."""
    raise Undecided


def equal(given: str, wanted: str, kind: str, algebra: Algebra = undecided) -> bool:
    """Whether an answer, as a response writes it, equals a reference of this kind.

    Raises:
      Undecided: from `undecided`.
    """
    if kind == "choice":
        return _choice(given) == letter(wanted) != ""
    given, wanted = plain(given), plain(wanted)
    if not given or not wanted:
        return False
    if kind == "integer":
        return _integer(given, wanted)
    if kind == "list":
        return _ordered(given, wanted, algebra)
    if compact(given) == compact(wanted) or bare(given) == bare(wanted) != "":
        return True
    return same(shape(given), shape(wanted), algebra)


def count(wanted: str) -> int:
    """The number of elements of a reference that is a row; 1 of any other."""
    found = shape(plain(wanted))
    return len(found.parts) if found.kind in ("row", "set") else 1


def same(given: Shape, wanted: Shape, algebra: Algebra) -> bool:
    """Whether two shapes are equal; of rows, sets and unions the order does not count."""
    if given.name and wanted.name and given.name != wanted.name:
        return False
    if wanted.kind == "one" and given.kind == "one":
        return _expressions(given.text, wanted.text, algebra)
    if wanted.kind == "one" and given.kind == "row" and is_words(wanted.text):
        return bare(given.parts[0].text) == bare(wanted.text)
    if wanted.kind == "one" and given.kind == "row":  # "1/2 or 0.5"
        return all(same(part, wanted, algebra) for part in given.parts)
    kinds = {given.kind, wanted.kind}
    if kinds <= {"row", "set"} or kinds == {"union"}:
        return _unordered(given.parts, wanted.parts, algebra)
    if kinds == {"set", "one"}:
        one, many = (given, wanted) if given.kind == "one" else (wanted, given)
        return len(many.parts) == 1 and same(*((one, many.parts[0]) if one is given else (many.parts[0], one)), algebra)
    if len(given.parts) != len(wanted.parts) or not given.parts:
        return False
    if kinds == {"matrix", "tuple"}:  # a column vector
        matrix = given if given.kind == "matrix" else wanted
        if int(matrix.ends) not in (1, len(matrix.parts)):
            return False
    elif given.kind != wanted.kind or given.ends != wanted.ends:
        return False
    return _in_order(given.parts, wanted.parts, algebra)


def _in_order(given: tuple[Shape, ...], wanted: tuple[Shape, ...], algebra: Algebra) -> bool:
    """One by one; what numbers decide comes before what needs algebra."""
    unsure = []
    for one, other in zip(given, wanted, strict=True):
        try:
            if not same(one, other, undecided):
                return False
        except Undecided:
            unsure.append((one, other))
    return all(same(one, other, algebra) for one, other in unsure)


def _unordered(given: tuple[Shape, ...], wanted: tuple[Shape, ...], algebra: Algebra) -> bool:
    if len(given) != len(wanted):
        return False
    if len(given) > MOST:
        return _in_order(given, wanted, algebra)
    left = list(wanted)
    for one in given:
        for other in left:
            if same(one, other, algebra):
                left.remove(other)
                break
        else:
            return False
    return True


def _ordered(given: str, wanted: str, algebra: Algebra) -> bool:
    """Elements in a row in the reference's order, in brackets or not."""
    target = elements(_without_brackets(wanted))
    inside = _without_brackets(given)
    found = elements(inside)
    if len(found) != len(target):  # 6,900 is two elements where two are wanted
        found = [piece for piece in re.split(r"\s*,\s*", inside) if piece]
    if len(found) == len(target) > 0:
        found[-1] = found[-1] if number(found[-1]) is not None else value_and_unit(found[-1])[0]
    if len(found) != len(target):
        return False
    return _in_order(
        tuple(shape(text, row=False) for text in found), tuple(shape(text, row=False) for text in target), algebra
    )


def _without_brackets(text: str) -> str:
    text = text.replace(r"\lbrace", "[").replace(r"\rbrace", "]").strip()
    return text[1:-1] if text[:1] in ("[", "(") and text[-1:] in ("]", ")") and text.count(text[0]) == 1 else text


def _integer(given: str, wanted: str) -> bool:
    value = number(assigned(value_and_unit(given)[0]))
    return value is not None and value.denominator == 1 and value == number(assigned(wanted))


def _choice(given: str) -> str:
    text = plain(given).replace(MARK, " ").strip()
    match = _CHOICE.match(text)
    if match:
        return match[1]
    return text.upper() if re.fullmatch(r"[a-j]", text) else ""


def _expressions(given: str, wanted: str, algebra: Algebra) -> bool:
    if compact(given) == compact(wanted):
        return True
    if is_words(wanted) and not number(bare(wanted)):
        return _words(given, wanted)
    if (time := _time(wanted)) and (said := _time(given)):
        return time[:2] == said[:2] and (not time[2] or not said[2] or time[2] == said[2])
    based = _based(given, wanted)
    if based is not None:
        return based
    if r"\approx" in given and r"\approx" not in wanted:
        return any(_expressions(piece.strip(), wanted, algebra) for piece in given.split(r"\approx") if piece.strip())
    if wanted.count("=") != given.count("="):
        given = assigned(given)
        wanted = wanted if "=" in given else assigned(wanted)
    (left, unit), (right, other_unit) = value_and_unit(given), value_and_unit(wanted)
    if differ(unit, other_unit):
        return False
    if compact(left) == compact(right):
        return True
    one, other = number(_shared(left)), number(_shared(right))
    if one is None and other is not None and not re.search(r"\d|\\", left):
        one = leading(bare(left))
    if one is not None and other is not None:
        return _amounts(one, left.endswith("%"), other, right.endswith("%"))
    if other is not None and re.fullmatch(r"[^\W\d_\\]{2,}[^\\]*", bare(left)) and "=" not in left:
        # Words with one number in them ("Janet makes 18 dollars").
        found = re.findall(r"(?<![\w.,/])-?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?(?![\w/^])", left)
        return len(found) == 1 and not re.search(r"\bnot\b", left) and _expressions(found[0], right, algebra)
    if is_words(left) or not left or not right:
        return False
    return algebra(_exact(_shared(left)), _exact(_shared(right)))


def _exact(text: str) -> str:
    """A number as an integer or a fraction, since the parser takes 3e8 for a product; any other text as it is."""
    value = number(text)
    if value is None or ("." in text and "e" not in text.casefold()):
        return text
    return str(value) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _shared(text: str) -> str:
    return text.removesuffix("%").strip()


def _amounts(one: Fraction, percent: bool, other: Fraction, other_percent: bool) -> bool:
    """Two numbers; 50 % is 50 and 0.5."""
    if one == other or percent == other_percent:
        return one == other
    return one / 100 == other if percent else other / 100 == one


def _words(given: str, wanted: str) -> bool:
    said, sought = bare(given), bare(wanted)
    if said == sought:
        return True
    if sought in ("yes", "no", "true", "false") or len(sought) > 3:
        said = re.split(r"[,.;:(]|\b(?:because|since|as|which|who|where|when)\b", said)[0].strip()
        return said.removeprefix("the ").removeprefix("an ").removeprefix("a ") == sought.removeprefix("the ")
    return False


def _time(text: str) -> tuple[int, int, str] | None:
    match = _TIME.fullmatch(bare(text))
    return (int(match[1]), int(match[2]), (match[3] or "").lower()) if match else None


def _based(given: str, wanted: str) -> bool | None:
    r"""Of 4210_5 in the reference the base may be missing in the response; None where the reference has none."""
    target, found = (_BASE.fullmatch(text.replace(MARK, "").strip()) for text in (wanted, given))
    if not target:
        return False if found and number(wanted) is not None else None
    return (found[1], found[2]) == (target[1], target[2]) if found else compact(given) == target[1]
