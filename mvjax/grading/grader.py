"""The verdict on a response."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mvjax.grading import compare
from mvjax.grading.extraction import find, last_letter
from mvjax.grading.kinds import kind_of
from mvjax.grading.worker import WORKERS


class Verdict(NamedTuple):
    """Whether a response is right."""

    correct: bool
    """Its final answer equals the reference."""
    extracted: str
    """The final answer as the response writes it; "" where there is none."""


def grade(response: str, answer: str, kind: str | None = None) -> Verdict:
    """Whether the final answer of a response equals a reference answer.

    Args:
      response: what a model wrote: text, with or without control tags.
      answer: the reference, as text or LaTeX.
      kind: its kind; None: told from the answer (`kinds.kind_of`).
    Raises:
      UserError: no such kind, or algebra is needed and math-verify is not installed (extra `evaluate`).

    May be called from any thread. What digits and words do not decide is compared in another process, within 4 s: what
    takes longer is wrong.
    """
    kind, found = kind_of(answer, kind), find(response)
    if kind == "choice" and found.how == "last" and (letter := last_letter(response)):
        found = found._replace(text=letter)
    readings = [found.text]
    if len(found.boxes) > 1 and kind in ("math", "list") and compare.count(answer) == len(found.boxes):
        readings = [", ".join(found.boxes), found.text]
    for text in readings:
        if text and _equal(text, answer, kind):
            return Verdict(True, text)
    return Verdict(False, readings[0])


def grade_all(items: Iterable[tuple[str, str, str | None]]) -> Iterator[Verdict]:
    """The verdicts on (response, answer, kind), in order."""
    return (grade(*item) for item in items)


def _equal(given: str, wanted: str, kind: str) -> bool:
    try:
        return compare.equal(given, wanted, kind)
    except compare.Undecided:
        return WORKERS.equal(given, wanted, kind)
    except RecursionError:  # brackets in hundreds of brackets
        return False
