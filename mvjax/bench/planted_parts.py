"""Parts of a problem as templates, and sentences put into them: the planted set is made of these."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from mvjax.curator.text.arithmetic import evaluate, parse_number

LOWERED = frozenset(
    """the a an its it this that these each every for from with at in on over per so then hence there here half two all
    multiplying adding dividing suppose even direct distance let""".split()  # noqa: SIM905
)
"""First words that lose their capital behind a prefix."""
_SLOT = re.compile(r"\{(=?)([^{}]+)\}")
_RANKS = tuple(
    zip(
        ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"),
        ("1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th"),
        ("one", "two", "three", "four", "five", "six", "seven", "eight"),
        ("I", "II", "III", "IV", "V", "VI", "VII", "VIII"),
        "ABCDEFGH",
        strict=True,
    )
)


@dataclass(frozen=True)
class Part:
    """One part of a problem, with its solution. Texts are templates: `{a}` is a number, `{=a*b}` a calculated one."""

    goal: str
    subject: str
    """What it is about, as a noun phrase; "" where nothing is known."""
    quantity: str
    """What is found, as a noun phrase; "" where nothing is known."""
    result: str
    """The number that is found, as a calculation."""
    lines: tuple[str, ...]
    """The path."""


@dataclass(frozen=True)
class Scene:
    """A problem with independent parts."""

    name: str
    known: str
    """What is asked."""
    draws: Mapping[str, tuple[int, int]]
    """Smallest and largest value of each number."""
    parts: tuple[Part, ...]
    planted: bool = True
    """Whether a wording may be put into it; False where its parts share a result, to be used clean only."""

    def drawn(self, values: Mapping[str, str]) -> tuple[str, list[Part]]:
        """What is asked, and the parts, with these numbers.

        Raises:
          ValueError: a calculated number has more than four decimals.
        """
        parts = [
            Part(
                fill(part.goal, values),
                fill(part.subject, values),
                fill(part.quantity, values),
                fill(f"{{={part.result}}}", values),
                tuple(fill(line, values) for line in part.lines),
            )
            for part in self.parts
        ]
        return fill(self.known, values), parts


def slots(parts: Sequence[Part], sibling: int, own: int) -> dict[str, str]:
    """What a wording may mention: `r` and `own`, the results of the sibling and of the path, `big` and `small` the
    larger and the smaller; `sib`, `me`, `sib_quantity`, `my_quantity`, noun phrases, and these with a capital;
    `j`, `ordinal`, `nth`, `word`, `roman`, `letter`, `lower`, the sibling's number, and `k`, the path's."""
    theirs, mine = parts[sibling], parts[own]
    small, big = sorted((theirs.result, mine.result), key=parse_number)
    ordinal, nth, word, roman, letter = _RANKS[min(sibling, len(_RANKS) - 1)]
    phrases = {"sib": theirs.subject, "me": mine.subject, "sib_quantity": theirs.quantity, "my_quantity": mine.quantity}
    return {
        **phrases,
        **{name[0].upper() + name[1:]: phrase[:1].upper() + phrase[1:] for name, phrase in phrases.items()},
        "r": theirs.result,
        "own": mine.result,
        "big": big,
        "small": small,
        "j": str(sibling + 1),
        "k": str(own + 1),
        "ordinal": ordinal,
        "nth": nth,
        "word": word,
        "roman": roman,
        "letter": letter,
        "lower": letter.lower(),
    }


def put(part: Part, text: str, place: str, values: Mapping[str, str]) -> Part:
    """The part with a sentence put in at its `start`, `inside` (before the last line) or at its `end`."""
    lines = list(part.lines)
    if "{line}" in text:
        lines[0] = fill(text, {**values, "line": _lowered(lines[0])})
    else:
        at = {"start": 0, "inside": max(1, len(lines) - 1), "end": len(lines)}[place]
        lines.insert(at, fill(text, values))
    return replace(part, lines=tuple(lines))


def fill(text: str, values: Mapping[str, str]) -> str:
    """A template with its slots filled; braces that are no slot stay as they are.

    Raises:
      ValueError: a calculated number has more than four decimals.
    """

    def filled(match: re.Match) -> str:
        if match[1]:
            return shown(evaluate(re.sub(r"[A-Za-z]\w*", lambda name: values[name[0]], match[2])))
        return values.get(match[2], match[0])

    return _SLOT.sub(filled, text)


def shown(value: Fraction) -> str:
    """A number in digits.

    Raises:
      ValueError: it has more than four decimals.
    """
    if 10**4 % value.denominator:
        raise ValueError(f"{value} has too many decimals")
    return str(value.numerator) if value.denominator == 1 else str(float(value))


def _lowered(line: str) -> str:
    first = line.split(" ", 1)[0]
    return line[:1].lower() + line[1:] if first.lower() in LOWERED else line
