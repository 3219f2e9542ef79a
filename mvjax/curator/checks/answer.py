"""Whether a text reaches an answer, as far as that can be decided."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from mvjax.curator.checks.content import plain_digits, words
from mvjax.curator.text.arithmetic import parse_number
from mvjax.grading import grade
from mvjax.grading.extraction import find

TAIL = 600
"""Characters at the end of a text in which its answer is looked for where it is not stated."""
LONGEST = 100
"""Answers longer than this are not decided on."""
_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+(?:\.\d{1,300})?|\d{1,300}(?:\.\d{1,300})?|\.\d{1,300})(?:/\d{1,300})?")
_UNITS = re.compile(
    r"\\(?:text|mathrm|mbox|textbf|operatorname)\s*\{(?P<words>[^{}]*)\}(?:\^\{?\d\}?)?|\b[kcm]?m\s*\^\{?\d\}?"
)
_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{([^{}]*)\}\s*\{([^{}]*)\}|(\d)\s*(\d))")
_SPACES = re.compile(r"\\(?:left|right|displaystyle|[,;:! ])|\^\s*\{?\\circ\}?|[$€£]|\\[()\[\]$]")
_MATHS = re.compile(r"[\\^_{}]|\d[^\W\d]|[^\W\d]\d")
"""What makes an answer more than numbers and words beside them."""
_CHOICE = re.compile(r"\(?([A-J])\)?(?=[.):,;]|\s*$)")


def reached(text: str, answer: str, kind: str | None = None) -> bool | None:
    """Whether a text states an answer, or holds it at its end; None where that cannot be decided, as with long answers.

    What a text states is graded (`mvjax.grading`). Where it states nothing, or what is too involved to be told from the
    reference, the answer must occur at the end; numbers are compared exactly.

    Args:
      kind: of the answer, where it is not to be told from it.
    Raises:
      UserError: the answers need algebra and math-verify is not installed.
    """
    wanted = _short(answer).strip()
    if not _plain(wanted) or len(_plain(wanted)) > LONGEST:
        return None
    found = find(text)
    if found.how != "last" and found.text:
        if grade(text, wanted, kind).correct:
            return True
        if _differ(_plain(found.text), _plain(wanted)):
            return False
    return _occurs(text, _plain(wanted))


def numbers(text: str) -> list[Fraction]:
    """All numbers of a text in order, exact, with their signs; 3/8 is one number."""
    values = []
    for found in _NUMBER.findall(text):
        top, _, bottom = found.lstrip("-").partition("/")
        value = parse_number(top)
        if bottom:
            if not parse_number(bottom):
                continue
            value /= parse_number(bottom)
        values.append(-value if found.startswith("-") else value)
    return values


def _short(answer: str) -> str:
    """The final answer of a reference that may be a whole solution."""
    found = find(answer)
    return found.text if found.how == "boxed" and found.text else answer.rpartition("####")[2]


def _plain(text: str) -> str:
    """One way of writing what can be written in several."""
    text = plain_digits(text).replace("{,}", ",").replace("\\%", "%").replace("−", "-")
    text = _UNITS.sub(lambda match: f" {match['words'] or ''}", text)
    text = _FRACTION.sub(lambda match: f"{match[1] or match[3]}/{match[2] or match[4]}", text)
    return " ".join(_SPACES.sub(" ", text).replace("*", " ").split()).strip(" .。।")


def _differ(given: str, wanted: str) -> bool:
    """Whether two answers that are not the same are so simple that they must differ."""
    if numbers(wanted) and numbers(given):
        return not (_MATHS.search(given) or _MATHS.search(wanted))
    if all(_CHOICE.match(text) for text in (given, wanted)):
        return True
    return _words(given) and _words(wanted) and given.casefold() not in wanted.casefold()


def _words(text: str) -> bool:
    """Whether a text is four words at most, of letters only."""
    letters = all(unicodedata.category(character)[0] in "LMZ" for character in text)
    return bool(text) and letters and len(text.split()) <= 4


def _occurs(text: str, wanted: str) -> bool | None:
    """Whether the end of a text holds what it nowhere states as its answer; None where only its beginning does."""
    end = text[-TAIL:]
    needed = {abs(value) for value in numbers(wanted)}
    if not needed:
        return True if wanted.casefold() in _plain(end).casefold() else None
    if needed <= {abs(value) for value in numbers(_plain(end))} or needed <= words(end):
        return True
    if _MATHS.search(wanted) or needed <= {abs(value) for value in numbers(_plain(text))}:
        return None
    return False
