"""Final answers: find them, bring them to one form, compare."""

from __future__ import annotations

import re
from fractions import Fraction

ANSWER = re.compile(r"answer is:?\s*(?P<answer>[^\n<]*)", re.IGNORECASE)
BOXED = re.compile(r"\\boxed\{(?P<answer>[^{}]*)\}")
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?")


def final_answer(text: str) -> str:
    """The last stated answer of a response: `\\boxed{...}`, "the answer is ...", or its last number; "" if none."""
    for pattern in (BOXED, ANSWER):
        found = [match["answer"] for match in pattern.finditer(text)]
        if found:
            return found[-1].strip().rstrip(".").strip()
    numbers = NUMBER.findall(text)
    return numbers[-1] if numbers else ""


def numbers(text: str) -> list[Fraction]:
    """All numbers of a text in order, exact; thousands separators are dropped."""
    values = []
    for found in NUMBER.findall(text):
        # A comma that no three digits follow separates two numbers ("6, 9" or "6,9"), else it groups digits.
        pieces = [found] if re.fullmatch(r"-?\d{1,3}(,\d{3})+(\.\d+)?", found) else found.split(",")
        for piece in pieces:
            if piece:
                try:
                    values.append(Fraction(piece.replace(",", "")))
                except (ValueError, ZeroDivisionError):
                    continue
    return values


def is_correct(response: str, answer: str) -> bool:
    """Whether a response's final answer equals the reference: all numbers in order, or the text if there are none.

    Units, currency signs and punctuation do not count. An answer in several numbers ("6, 9, 4") must match as a whole.
    """
    given, wanted = final_answer(response), answer.strip()
    if wanted_numbers := numbers(wanted):
        return numbers(given) == wanted_numbers
    return bool(wanted) and given.casefold() == wanted.rstrip(".").casefold()
