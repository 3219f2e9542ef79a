"""What an answer is made of: elements in a row, a tuple, a set, an interval, a matrix, or one expression."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from mvjax.grading.normal import MARK, bare

_OPEN, _CLOSE = "([{", ")]}"
_MATRIX = re.compile(r"\\begin\s*\{([bpvV]?matrix|array)\}(?:\s*\{[^{}]*\})?(.*)\\end\s*\{\1\}", re.DOTALL)
_NAME = r"[a-zA-Z](?:_\{?\w\}?)?|\\[a-z]+"
_BUILDER = re.compile(rf"\s*(?:{_NAME})\s*(?:\\in\s*(?:\\mathbb\s*\{{?\s*R\s*\}}?|R)\s*)?[|:]\s*(.*)", re.DOTALL)
_MEMBER = re.compile(rf"\s*({_NAME})\s*\\in\s*(.*)", re.DOTALL)
_ASSIGNED = re.compile(
    rf"\s*\(?(?:(?:{_NAME})(?:\s*\(\s*\w\s*\))?|\(\s*[a-z]\s*(?:,\s*[a-z]\s*)+\))\)?\s*=(?!=)\s*(.*)", re.DOTALL
)
_RELATION = re.compile(r"(\\le(?![a-z])|\\ge(?![a-z])|<|>)")
_JOINED = re.compile(
    rf"\s*{MARK}\s*(?:and|or)\s*{MARK}\s*|(?<![a-zA-Z]),?\s*\b(?:and|or)\b(?!\s*[a-zA-Z]{{2}})|\\ldots"
)


@dataclass(frozen=True)
class Shape:
    """An answer in parts."""

    kind: str
    """row (elements without brackets), set, tuple, interval, union, matrix, or one."""
    parts: tuple[Shape, ...] = ()
    text: str = ""
    """Of one expression."""
    ends: str = ""
    """The brackets of an interval or tuple; the number of rows of a matrix."""
    name: str = ""
    """The variable of an inequality that an interval was written as."""


def split(text: str, separator: str = ",") -> list[str]:
    """The pieces of a text between separators that stand in no bracket."""
    pieces, depth, start, place = [], 0, 0, 0
    while place < len(text):
        if text.startswith((r"\lbrace", r"\begin"), place):
            depth += 1
        elif text.startswith((r"\rbrace", r"\end"), place):
            depth -= 1
        elif text[place] in _OPEN:
            depth += 1
        elif text[place] in _CLOSE:
            depth -= 1
        if depth <= 0 and text.startswith(separator, place):
            pieces.append(text[start:place])
            start = place = place + len(separator)
            continue
        place += 1
    return [piece.strip() for piece in [*pieces, text[start:]]]


def elements(text: str) -> list[str]:
    """The elements of a row: separated by commas, semicolons, "and", "or". Commas that group digits separate none."""
    text = _JOINED.sub(",", text)
    text = re.sub(r",\s*,", ",", text)
    guarded = re.sub(r"(?<![\d,])(\d{1,3}(?:,\d{3})+)(?![\d,])", lambda match: match[1].replace(",", "\0"), text)
    pieces = [piece for half in split(guarded, ";") for piece in split(half)]
    return [piece.replace("\0", ",") for piece in pieces if piece]


def shape(text: str, row: bool = True) -> Shape:
    """What a plain text is.

    Args:
      row: whether elements without brackets make a row.
    """
    text = text.strip()
    if match := _MEMBER.fullmatch(text):
        return replace(shape(match[2], row), name=match[1])
    if match := _ASSIGNED.fullmatch(text):
        value = match[1].strip()
        if value.startswith(("(", r"\lbrace", "[", r"\begin")) and (found := _enclosed(value)):
            return found
    if (pieces := split(text, r"\cup")) and len(pieces) > 1:
        return Shape("union", tuple(shape(piece, row=False) for piece in pieces))
    if (pieces := re.split(rf"\s*{MARK}?\s*\bor\b\s*{MARK}?\s*", text)) and len(pieces) > 1:
        halves = [_inequality(piece) for piece in pieces]
        if all(halves):
            return Shape("union", tuple(half for half in halves if half))
    builder = _enclosed(text) if text.startswith(r"\lbrace") else None
    if found := builder or _inequality(text) or _enclosed(text):
        return found
    if row and len(pieces := elements(text)) > 1:
        return Shape("row", tuple(part for piece in pieces for part in _signs(piece)))
    return _row_of(_signs(text))


def _row_of(parts: list[Shape]) -> Shape:
    return parts[0] if len(parts) == 1 else Shape("row", tuple(parts))


def _signs(text: str) -> list[Shape]:
    r"""One expression; two where it holds one \pm."""
    if text.count(r"\pm") == 1:
        return [Shape("one", text=text.replace(r"\pm", sign)) for sign in "+-"]
    found = _enclosed(text)
    return [found or Shape("one", text=text)]


def _enclosed(text: str) -> Shape | None:
    """A set, tuple, interval or matrix; None where a text as a whole is in no brackets, or in brackets about one."""
    if match := _MATRIX.fullmatch(text):
        rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?", match[2]) if row.strip()]
        cells = tuple(Shape("one", text=cell.strip()) for row in rows for cell in row.split("&"))
        return Shape("matrix", cells, ends=str(len(rows)))
    if text.startswith(r"\lbrace") and text.endswith(r"\rbrace"):
        inside = text.removeprefix(r"\lbrace").removesuffix(r"\rbrace")
        if match := _BUILDER.fullmatch(inside):
            return shape(match[1], row=False)
        return Shape("set", tuple(part for piece in elements(inside) for part in _signs(piece)))
    if len(text) < 2 or text[0] not in "([" or text[-1] not in ")]":
        return None
    depth = 0
    for place, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if not depth and place < len(text) - 1:
            return None
    pieces = split(text[1:-1])
    if len(pieces) < 2 or not all(pieces):
        return None
    ends = text[0] + text[-1]
    kind = "interval" if len(pieces) == 2 and ends in ("[)", "(]", "[]") else "tuple"
    return Shape(kind, tuple(_row_of([_enclosed(piece) or Shape("one", text=piece)]) for piece in pieces), ends=ends)


def _inequality(text: str) -> Shape | None:
    r"""The interval of x < 3, 1 \le x < 2 and the like; None for any other text."""
    pieces = [piece.strip() for piece in _RELATION.split(text)]
    if len(pieces) not in (3, 5) or "," in text or "=" in text:
        return None
    if len(pieces) == 3:
        left, sign, right = pieces
        if re.fullmatch(_NAME, right) and not re.fullmatch(_NAME, left):
            left, sign, right = right, _turned(sign), left
        name = left
        low, high = ("-\\infty", right) if sign in ("<", r"\le") else (right, r"\infty")
        closed = sign in (r"\le", r"\ge")
        ends = ("(" if high == right else "[("[not closed]) + (")" if low == right else "])"[not closed])
    else:
        low, first, name, last, high = pieces
        if first in (">", r"\ge"):
            low, first, last, high = high, _turned(last), _turned(first), low
        if first not in ("<", r"\le") or last not in ("<", r"\le"):
            return None
        ends = ("[" if first == r"\le" else "(") + ("]" if last == r"\le" else ")")
    if not re.fullmatch(_NAME, name):
        return None
    kind = "tuple" if ends == "()" else "interval"
    return Shape(kind, (Shape("one", text=low), Shape("one", text=high)), ends=ends, name=name)


def _turned(sign: str) -> str:
    return {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}[sign]


def assigned(text: str) -> str:
    """What follows the last equals sign of "x = 5" or "m + n = 26 + 7 = 33"; the text itself where it has none."""
    if text.count("=") == 1:
        match = _ASSIGNED.fullmatch(text)
        if match:
            return match[1].strip()
        left, _, right = text.partition("=")
        return text if re.search(r"[a-zA-Z]", left) else right.strip()  # 26 + 7 = 33
    return text.rpartition("=")[2].strip() if "," not in text else text


def is_words(text: str) -> bool:
    """Whether a plain text is words: letters, spaces, hyphens, apostrophes, one word of two letters at least."""
    return bool(re.fullmatch(r"[^\W\d_]{2,}(?:[ '\-][^\W\d_]+)*", bare(text))) and "\\" not in text
