"""The final answer of a response: in a box, after "####", after "the answer is", or what its end holds."""

from __future__ import annotations

import re
from typing import NamedTuple

BOXES = 16
"""The number of boxes of a response, counted from its end, that are looked at."""
LONGEST = 2_000
"""Characters of an answer at most."""
TAIL = 20_000
"""Characters at the end of a response in which an answer that is not boxed is looked for."""
GAP = 40
"""Characters at most between boxes that state one answer together."""

_BOX = re.compile(r"\\f?box(?:ed)?\s*(?:\{|(?=[\w]))")
_THOUGHT = re.compile(r"</think>", re.IGNORECASE)
_MARKERS = re.compile(r"<\|[^|<>]{0,40}\|>|</?(?:Think|Parallel|Goal|Outline|Path|Conclusion|s|answer)>", re.IGNORECASE)
_HASHES = re.compile(r"^[ \t]*####[ \t]*(?P<answer>\S[^\n]*)", re.MULTILINE)
_STATED = re.compile(
    r"\banswer(?:\s+(?:to|of|for)\s[^\n.:]{0,80}?)?(?:\*\*|__)?\s*(?::|=|\b(?:is|are|was|would be|must be|should be)\b)"
    r"(?:\*\*|__)?\s*(?:(?:therefore|thus|then|hence|simply|just|equal to|exactly)\b,?\s*)?:?[ \t]*(?:\*\*|__)?",
    re.IGNORECASE,
)
_REASON = re.compile(r",?\s(?:because|since|which)\s|,?\s\(?i\.e\b|,\s(?:as|so)\s|\s\([a-z][a-z -]*\)$")
_SENTENCE = re.compile(r"(?<!\bno)(?<!\\)[.!?](?=\s|$)|\n", re.IGNORECASE)
_NUMBER = r"[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))"
_LAST_NUMBER = re.compile(rf"[-−]?\$?{_NUMBER}(?:/\d+)?%?")
_LETTER = re.compile(r"\(([A-J])\)|\b(?:option|choice)(?:\s+is)?\s+\**([A-J])\b")
_MATHS = re.compile(r"\$\$(.{1,2000}?)\$\$|\$([^$\n]{1,2000})\$|\\\((.{1,2000}?)\\\)|\\\[(.{1,2000}?)\\\]", re.DOTALL)


class Found(NamedTuple):
    """The final answer of a response."""

    text: str
    """As the response writes it; "" where there is none."""
    how: str
    """boxed, stated (after "####" or "the answer is") or last (what the end holds)."""
    boxes: tuple[str, ...] = ()
    """Where boxes that follow each other closely end the response, all of these."""


def last_letter(response: str) -> str:
    """The letter from A to J that the end of a response names in brackets or as its choice; "" where it names none."""
    named = [match[1] or match[2] for match in _LETTER.finditer(response[-TAIL:])]
    return named[-1] if named else ""


def find(response: str) -> Found:
    """The final answer of a response. What follows </think> comes first, where an answer is boxed or stated there."""
    parts = _THOUGHT.split(response)
    for part in (parts[-1], response) if len(parts) > 1 else (response,):
        found = _find(part, last=False)
        if found.text:
            return found
    return _find(parts[-1], last=True)


def _find(text: str, last: bool) -> Found:
    if boxes := _boxes(text):
        group = [boxes[-1]]
        for earlier in reversed(boxes[:-1]):
            between = text[earlier[1] : group[0][0]]
            if len(between) > GAP or "\n\n" in between or re.search(r"[.!?]\s", between):
                break
            group.insert(0, earlier)
        return Found(boxes[-1][2], "boxed", tuple(box[2] for box in group) if len(group) > 1 else ())
    last = last and not _BOX.search(text)  # one that is not closed, or too long: there is no answer
    tail = _MARKERS.sub("", text[-TAIL:])
    if hashes := list(_HASHES.finditer(tail)):
        return Found(_cleaned(hashes[-1]["answer"]), "stated")
    for match in reversed(list(_STATED.finditer(tail))):
        if answer := _sentence(tail[match.end() : match.end() + LONGEST]):
            return Found(answer, "stated")
    return Found(_end(tail), "last") if last else Found("", "last")


def _boxes(text: str) -> list[tuple[int, int, str]]:
    """Start, end and contents of the last boxes of a text; an empty one, or one that is not closed, is none."""
    found: list[tuple[int, int, str]] = []
    for match in list(_BOX.finditer(text))[-BOXES:]:
        if not match[0].endswith("{"):
            one = re.compile(r"-?\d+|\w").match(text, match.end())
            if one:
                found.append((match.start(), one.end(), one[0]))
            continue
        depth = 1
        for place in range(match.end(), min(len(text), match.end() + LONGEST)):
            character = text[place]
            if character in "{}" and text[place - 1] != "\\":
                depth += 1 if character == "{" else -1
            if not depth:
                inside = text[match.end() : place].strip()
                if inside and not _BOX.search(inside):
                    found.append((match.start(), place + 1, inside))
                break
    return found


def _sentence(text: str) -> str:
    """The sentence that a text begins with; full stops in formulas and brackets are none."""
    text = text.lstrip()
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\[", r"\]"), (r"\(", r"\)")):
        if text.startswith(opening):
            end = text.find(closing, len(opening))
            inside = text[len(opening) : end]
            # "$18.00 and $3": a dollar sign that closes nothing is money.
            if end > 0 and (opening != "$" or "\n" not in inside) and not re.fullmatch(r"[\d.,]+\s+[a-z].*", inside):
                rest = _REASON.split(_SENTENCE.split(text[end + len(closing) :], maxsplit=1)[0], maxsplit=1)[0]
                return _cleaned(text[: end + len(closing)] + rest)
            break
    if text.startswith(r"\begin{"):
        end = text.find(r"\end{")
        if end > 0:
            return _cleaned(_SENTENCE.split(text[end:], maxsplit=1)[0] and text[: text.find("}", end) + 1])
    return _cleaned(_SENTENCE.split(text, maxsplit=1)[0])


def _end(text: str) -> str:
    """What the last lines of a text hold: a short line, the last formula, the last number."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if not lines:
        return ""
    last = lines[-1]
    formula = not re.search(r"(?<!\\)\b(?!or\b|and\b)[a-zA-Z]{2,}", last)
    if len(last) <= 60 and (formula or (len(last.split()) <= 3 and "=" not in last)):
        return _cleaned(last)
    formulas = [next(filter(None, match.groups()), "") for match in _MATHS.finditer(last)]
    if formulas:
        return _cleaned(formulas[-1])
    for line in reversed(lines):
        if numbers := [number for number in _LAST_NUMBER.findall(line) if re.search(r"\d", number)]:
            return _cleaned(numbers[-1])
    return ""


def _cleaned(text: str) -> str:
    text = text.strip().strip("*_`").strip()
    if "$" not in text:
        text = _REASON.split(text, maxsplit=1)[0]
    return text[:LONGEST].rstrip(" .,;:").strip("*_`").strip()
