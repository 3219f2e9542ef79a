"""Labels and names of siblings in a path: "path 2", "case 1", "step S3", "part 1.2". English nouns only."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from mvjax.curator.checks.views import View, quotation

_PATHS = (
    "path|branch|thread|case|sub-?case|step|sub-?step|part|sub-?part|sub-?task|task|sub-?problem|sub-?goal|goal|"
    "outline|scenario|option|section|strand|track|stage|item|alternative|possibility|approach|method|phase|question|"
    "sub-?question|problem|objective|segment|portion|route|strategy|point"
)
"""What a path may be called, whatever the problem is about."""
_OBJECTS = "equation|eq|eqn|formula|lemma|claim|fact|table|figure|identity|inequality|result|conclusion|condition"
"""What a path may number."""
_WORDS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
_ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4, "v": 5, "vi": 6, "vii": 7, "viii": 8}
_MARK = rf"S?\d+(?:\.\d+)*|\([a-hivx\d]{{1,4}}\)|[IVX]{{1,4}}\b|[A-H]\b|[b-h]\)|(?:{'|'.join(_WORDS)})\b"
_MENTION = re.compile(
    rf"\b(?P<noun>(?i:{_PATHS}|{_OBJECTS}))(?i:e?s)?\.?(?:[ ~]+|-(?=\d))(?:#|no\.? *|number +)?(?P<mark>{_MARK})"
    rf"(?![\w%$]|\.\d| *[×*/+=])"
)
"""A noun with a number, letter or word."""
_NOUNS = frozenset(
    ending
    for noun in f"{_PATHS}|{_OBJECTS}".replace("sub-?", "").split("|")
    for word in (noun, f"sub{noun}")
    for ending in (word, f"{word}s", f"{word}es")
)
_STEP = re.compile(r"(?<![\w\\])S(\d+(?:\.\d+)*)(?![\w^({]|\s*=)")
"""A label of the summary tree."""
_USED = re.compile(
    r"\b(?:from|by|using|use[sd]?|with|as(?: in)?|like|see|cf\.?|per|via|recall|than|(?:result|value|answer|outcome|"
    r"output|total) (?:of|to)|(?:found|obtained|computed) in)\s+(?:the\s+)?$",
    re.IGNORECASE,
)
"""Before a label that is used, not merely mentioned."""


def labels(view: View, siblings: Sequence[View], known: str) -> list[str]:
    """The labels of siblings that a path mentions, as quotations."""
    return list(dict.fromkeys(_labels(view, siblings, known)))


def _labels(view: View, siblings: Sequence[View], known: str) -> Iterator[str]:
    for sentence in view.sentences:
        if not sentence.words.isdisjoint(_NOUNS):
            for match in _MENTION.finditer(sentence.text):
                if _is_of_sibling(match, view, siblings, known):
                    yield quotation(sentence.text, match.start(), match.end())
        if "S" in sentence.text:
            for match in _STEP.finditer(sentence.text):
                if _is_step_of_sibling(match[1], view, siblings, known):
                    yield quotation(sentence.text, match.start(), match.end())


def _is_of_sibling(match: re.Match, view: View, siblings: Sequence[View], known: str) -> bool:
    noun, mark, ordinal = match["noun"], match["mark"], _ordinal(match["mark"])
    if ordinal is None or _is_own(view, noun, mark):
        return False
    written = re.compile(rf"\b{re.escape(noun)}s?\.?[\s~]+{re.escape(mark)}(?!\w|\.\d)", re.IGNORECASE)
    named = any(written.search(sibling.goal) for sibling in siblings)
    if written.search(known) and not (
        named and _USED.search(match.string, 0, match.start()) and not _is_told(match, known)
    ):
        return False
    if re.fullmatch(_OBJECTS, noun, re.IGNORECASE):
        return named or any(_defines(sibling, noun, mark) for sibling in siblings)
    return named or ordinal in {sibling.number for sibling in siblings}


def _is_step_of_sibling(mark: str, view: View, siblings: Sequence[View], known: str) -> bool:
    name = rf"\bS{re.escape(mark)}\b(?!\.\d)"
    own = re.compile(rf"(?:^|\n)\W*{name}\W|{name}\s*(?:[:=]|is\b|be\b|denote)")
    if re.search(name, f"{known}\n{view.goal}") or own.search(view.text):
        return False
    return int(mark.split(".")[0]) in {sibling.number for sibling in siblings} or any(
        re.search(name, sibling.goal) for sibling in siblings
    )


def _ordinal(mark: str) -> int | None:
    """The number of a path that a mark may mean: its last part."""
    bare = mark.strip("()").lower()
    if digits := re.fullmatch(r"s?(?:\d{1,9}\.)*(\d{1,9})", bare):
        return int(digits[1])
    letter = ord(bare) - ord("a") + 1 if len(bare) == 1 else None
    return _WORDS.get(bare) or _ROMAN.get(bare) or letter


def _is_own(view: View, noun: str, mark: str) -> bool:
    """Whether the label is the path's own: in its goal, or of a part that the path makes itself."""
    if re.search(rf"\b{re.escape(noun)}s?\.?[\s~]+{re.escape(mark)}(?!\w|\.\d)", view.goal, re.IGNORECASE):
        return True
    if view.divided and noun.lower() != "path":
        return True
    head = rf"(?:^|[.!?:;]\s+|\n)\W*(?:{re.escape(noun)}\s+(?:\d+|[IVX]+|[A-H]|\w+)\s*(?:[:.–—-]|\))|\d\))\s"
    return re.search(head, view.text, re.IGNORECASE) is not None


def _defines(view: View, noun: str, mark: str) -> bool:
    """Whether a path puts the mark behind one of its formulas, or names what the noun and the mark name."""
    bare = re.escape(mark.strip("()"))
    defined = rf"\({bare}\)\s*(?:$|\n)|\\tag\{{{bare}\}}|\b{re.escape(noun)}\.?\s*\(?{bare}\)?\s*[:.]"
    return re.search(defined, view.text, re.IGNORECASE) is not None


def _is_told(match: re.Match, known: str) -> bool:
    """Whether the label follows the same words in what every path sees."""
    before = match.string[: match.start()].split()[-2:]
    return bool(before) and " ".join([*before, match[0]]).lower() in " ".join(known.split()).lower()
