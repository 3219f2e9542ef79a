"""Whether a rewritten text still says what the original said: edit distance and numbers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Set
from fractions import Fraction

from mvjax.curator.production import Finding
from mvjax.curator.text import sentences
from mvjax.curator.text.arithmetic import NUMBER, numbers_in, parse_number
from mvjax.curator.text.lines import by_line
from mvjax.errors import UserError

CHECK = "content"
_LABEL = re.compile(r"^[ \t]*[*#-]*[ \t]*(?:(?:[^\W\d]+[ \t]+)?\d{1,2}[):]|\d{1,2}\.(?=\s))", re.MULTILINE)
"""What numbers a case, step or entry of a list: it may go."""
ENDLESS = 300
"""Digits from which on something is not taken for a number."""
_ENDLESS = re.compile(rf"\d\d{{{ENDLESS - 1},}}")
MOST = 6
"""The most numbers that a reason names."""


def distance(a: str, b: str, limit: float = 1.0) -> float:
    """Levenshtein distance over the longer length: 0 for equal texts, 1 for texts with nothing in common.

    Args:
      limit: a distance beyond it is given as 1, which is found out sooner.
    Raises:
      UserError: rapidfuzz is not installed.
    """
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError as error:
        raise UserError("the curator needs rapidfuzz, which is not installed (pip install 'mvjax[curate]')") from error
    return Levenshtein.normalized_distance(a, b, score_cutoff=limit)


def check_path(original: str, written: str, known: Set[Fraction | int], limit: float, where: str) -> list[Finding]:
    """What a rewritten path lost of its original, or has that is new.

    Args:
      known: values that are in the question or before the block; a path may use them.
      limit: largest edit distance between the two, spaces not counted.
    """
    findings = []
    if lost := _beyond(values(_LABEL.sub("", original)), written):
        findings.append(Finding(CHECK, where, f"numbers of the original are missing: {_listed(lost)}"))
    if invented := _beyond(values(_LABEL.sub("", written)) - known, original):
        findings.append(Finding(CHECK, where, f"numbers that are not in the original: {_listed(invented)}"))
    if distance(" ".join(original.split()), " ".join(written.split()), limit) > limit:
        reason = f"further than {limit:.2f} from the original in edit distance; keep its wording"
        findings.append(Finding(CHECK, where, reason))
    return findings


def check_goal(goal: str, path: str, known: Set[Fraction | int], where: str) -> list[Finding]:
    """Whether a goal gives away what its path finds, or has numbers that are nowhere.

    What a path finds are the numbers of its last sentence that its first one has not.
    """
    given = values(goal) - known
    if not given:
        return []
    said = sentences.split(path)
    first, last = (said[0], said[-1]) if len(said) > 1 else path.rpartition("=")[::2]
    findings = []
    if told := given & (values(last) - values(first)):
        findings.append(Finding("result in goal", where, f"its goal contains the result: {_listed(told)}"))
    if invented := _beyond(given, path):
        findings.append(Finding(CHECK, where, f"its goal has numbers that are nowhere else: {_listed(invented)}"))
    return findings


def check_conclusion(conclusion: str, paths: Iterable[str], known: Set[Fraction | int], where: str) -> list[Finding]:
    """Whether a conclusion has numbers that no path found."""
    if invented := _beyond(values(conclusion) - known, *paths):
        return [Finding(CHECK, where, f"the conclusion has numbers that are in no path: {_listed(invented)}")]
    return []


@by_line
def values(text: str) -> frozenset[Fraction | int]:
    """The numbers of a text that are written in digits, of any script; endless ones are left out."""
    return frozenset(map(_value, set(NUMBER.findall(_without_endless(plain_digits(text))))))


def words(text: str) -> frozenset[Fraction]:
    """All numbers of a text, those that are written as words or fractions too."""
    return numbers_in(_without_endless(plain_digits(text)))


def _beyond(numbers: Set[Fraction | int], *texts: str) -> Set[Fraction | int]:
    """Those of some numbers that no text has, in digits or otherwise."""
    for read in (values, words):
        for text in texts:
            if numbers:
                numbers = numbers - read(text)
    return numbers


def _value(written: str) -> Fraction | int:
    """The number, as an integer where it is one: equal, but hashed in a tenth of the time."""
    if written.isdecimal():
        return int(written)
    value = parse_number(written)
    return value.numerator if value.denominator == 1 else value


def _without_endless(text: str) -> str:
    return _ENDLESS.sub(" ", text) if len(text) >= ENDLESS else text


def plain_digits(text: str) -> str:
    """The text with the digits and the decimal signs of all scripts as 0 to 9, "." and ","."""
    if text.isascii():
        return text
    return "".join(map(_plain_digit, text))


def _plain_digit(character: str) -> str:
    if character.isascii():
        return character
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    return {"٫": ".", "٬": ","}.get(character, character)


def _listed(numbers: Iterable[Fraction | int]) -> str:
    ordered = sorted(numbers)
    shown = ", ".join(_decimal(number) for number in ordered[:MOST])
    return f"{shown}, ..." if len(ordered) > MOST else shown


def _decimal(number: Fraction | int) -> str:
    return str(number.numerator) if number.denominator == 1 else format(float(number), "g")
