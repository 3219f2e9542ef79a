"""Cutting a text into sentences that together are the text."""

from __future__ import annotations

import re
from collections.abc import Sequence

_ABBREVIATION = re.compile(
    r"(?:approx|cf|ch|dr|e\.g|eg|eqn?s?|figs?|i\.e|ie|mrs?|ms|prof|prop|resp|sec|thm|viz|vol|vs|w\.l\.o\.g|wlog|w\.r\.t|"
    r"z\.b|bzw|ca)",
    re.IGNORECASE,
)
_SPAN = re.compile(
    r"```.{0,4000}?```|\\\[.{0,4000}?\\\]|\$\$.{0,4000}?\$\$|\\begin\{(\w{1,20}\*?)\}.{0,4000}?\\end\{\1\}", re.DOTALL
)
"""Displayed formulas and code: never cut inside."""
_CLOSERS = "\"'”’»」』】）)\\]*_"
_STOPS, _WIDE = ".!?…؟۔।॥։።", "。！？｡"
_END = re.compile(
    rf"[\n{_STOPS}{_WIDE}](?:"
    rf"(?<=\n)\s*"  # a line break ends a sentence, whatever comes before it
    rf"|(?<=[{_STOPS}])[{_STOPS}]*[{_CLOSERS}]*\s+"  # these need a space behind them: 3.14 is no end
    rf"|(?<=[{_WIDE}])[{_WIDE}]*[{_CLOSERS}]*\s*)"  # these need none
)
_WORD_BEFORE = re.compile(r"[^\s(\[“\"']*$")
_LETTER = re.compile(r"[^\W_]")
"""Or a digit."""
_NUMBERING = re.compile(r"\d{1,3}|[a-zA-Z]")
"""What comes before the full stop of a list's entry."""


def split(text: str) -> list[str]:
    """The sentences of a text in any language, in order: each with the space behind it, so that they add up to `text`.

    A line break ends a sentence; displayed formulas and code are never cut. No sentence is without a letter or digit,
    unless the whole text is. An empty text has none.
    """
    shown = _SPAN.finditer(text) if "```" in text or "$$" in text or "\\" in text else ()
    spans = iter([*(match.span() for match in shown), (len(text) + 1, len(text) + 1)])
    start, end = next(spans)
    pieces: list[str] = []
    done = 0
    for match in _END.finditer(text):
        cut = match.end()
        while end < cut:
            start, end = next(spans)
        if start < cut < end or not _ends(text, done, match):
            continue
        pieces.append(text[done:cut])
        done = cut
    if done < len(text):
        pieces.append(text[done:])
    return _joined(pieces) if len(pieces) > 1 else pieces


def numbers(value: str | Sequence[int]) -> tuple[int, ...]:
    """Numbers of sentences, as a list or as text such as "1-3, 5"."""
    if not isinstance(value, str):
        return tuple(value)
    spans = re.findall(r"(\d+)(?:\s*[-–]\s*(\d+))?", value)
    return tuple(number for first, last in spans for number in range(int(first), int(last or first) + 1))


def _ends(text: str, start: int, match: re.Match) -> bool:
    """Whether a match of `_END` ends the sentence that began at `start`."""
    mark = match[0].strip()
    if "\n" in match[0] or mark[:1] not in (".", "…"):
        return True
    if mark == ".":
        before = _WORD_BEFORE.search(text, max(start, match.start() - 24), match.start())
        word = before[0] if before else ""
        if _ABBREVIATION.fullmatch(word):
            return False
        if _NUMBERING.fullmatch(word) and not text[start : match.start() - len(word)].strip(" \t*#(->"):
            return False  # "2. Then"
    following = text[match.end() : match.end() + 1]
    return not following.islower()


def _joined(pieces: list[str]) -> list[str]:
    """Pieces without a letter or digit go to the one before, at the beginning to the one after."""
    sentences: list[str] = []
    for piece in pieces:
        if sentences and not (_LETTER.search(piece) and _LETTER.search(sentences[-1])):
            sentences[-1] += piece
        else:
            sentences.append(piece)
    return sentences
