"""Kinds of answers, and which kind a reference answer is."""

from __future__ import annotations

import re
from typing import Literal, get_args

from mvjax.errors import UserError

Kind = Literal["math", "choice", "integer", "list"]
"""math: an expression, a number, a tuple, a set, an interval, words; of elements that stand in a row without brackets
the order does not count. choice: a letter from A to J. integer: an integer written in digits. list: elements in a row
whose order counts."""
KINDS: tuple[Kind, ...] = get_args(Kind)

LETTER = re.compile(r"\\?\(?\s*(?:\\(?:text|textbf|mathrm|mathbf)\s*\{)?\s*\(?\s*([A-J])\s*\)?\s*\.?\}?\s*\\?\)?")


def kind_of(answer: str, stated: str | None = None, where: str = "") -> Kind:
    """The kind of a reference answer: as stated, else choice for one letter from A to J, else math.

    Raises:
      UserError: there is no such kind; `where` begins the message.
    """
    if stated is None:
        return "choice" if letter(answer) else "math"
    for kind in KINDS:
        if kind == stated:
            return kind
    raise UserError(f"{where}{': ' * bool(where)}kind {stated!r}: the kinds of answers are {', '.join(KINDS)}")


def letter(answer: str) -> str:
    """The letter of a reference answer that is a choice; "" where it is none."""
    match = LETTER.fullmatch(answer.strip().strip("$").strip())
    return match[1] if match else ""
