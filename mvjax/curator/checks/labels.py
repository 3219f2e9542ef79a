"""Labels and names of siblings in a path: "path 2", "case 1", "step S3", "part 1.2". English nouns only."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from mvjax.curator.checks.views import View
from mvjax.curator.checks.wording import quotation

_PATHS = (
    "path|branch|thread|case|sub-?case|step|sub-?step|part|sub-?part|sub-?task|task|sub-?problem|sub-?goal|goal|outline|"
    "scenario|option|section|strand|track|stage|item|alternative|possibility|approach|method|phase|question|sub-?question|"
    "problem|objective|segment|portion|route|strategy|point"
)
"""What a path may be called, whatever the problem is about."""
_OBJECTS = "equation|eq|eqn|formula|lemma|claim|fact|table|figure|identity|inequality|result|conclusion|condition"
"""What a path may number."""
_WORDS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
_ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4, "v": 5, "vi": 6, "vii": 7, "viii": 8}
_MARK = rf"S?\d+(?:\.\d+)*|\([a-hivx\d]{{1,4}}\)|[IVX]{{1,4}}\b|[A-H]\b|[b-h]\)|(?:{'|'.join(_WORDS)})\b"
_MENTION = re.compile(
    rf"\b(?P<noun>(?i:{_PATHS}|{_OBJECTS}))(?P<plural>(?i:e?s)?)\.?(?:[\s~]+|-(?=\d))(?:#|no\.?\s*|number\s+)?(?P<mark>{_MARK})(?![\w%$]|\.\d|\s*[×*/+=])"
)
"""A noun with a number, letter or word."""
_STEP = re.compile(r"(?<![\w_\\])S(\d+(?:\.\d+)*)(?![\w_^({]|\s*=)")
"""A label of the summary tree."""
_USED = re.compile(
    r"(?i)\b(?:from|by|using|use[sd]?|with|as(?: in)?|like|see|cf\.?|per|via|recall|than|result of|value of|answer (?:to|of)|"
    r"outcome of|output of|total of|found in|obtained in|computed in)\s+(?:the\s+)?$|'s (?:result|value|answer|total|outcome)"
)
"""Before a label that is used, not merely mentioned."""


def labels(view: View, siblings: Sequence[View], known: str) -> list[str]:
    """The labels of siblings that a path mentions, as quotations."""
    return list(dict.fromkeys(_labels(view, siblings, known)))


def _labels(view: View, siblings: Sequence[View], known: str) -> Iterator[str]:
    for match in _MENTION.finditer(view.text):
        noun = _noun(match["noun"])
        ordinal = _ordinal(match["mark"])
        if ordinal is None or _is_own(view, noun, match):
            continue
        written = re.compile(rf"\b{re.escape(match['noun'])}s?\.?[\s~]+{re.escape(match['mark'])}(?![\w]|\.\d)", re.IGNORECASE)
        named = any(written.search(sibling.goal) for sibling in siblings)
        if written.search(known) and not (
            named and _USED.search(view.text[max(0, match.start() - 24) : match.start()])
            and not _same_words(match, view, known)
        ):  # fmt: skip
            continue
        is_object = re.fullmatch(_OBJECTS, noun) is not None
        if is_object and not (named or any(_defines(sibling, match) for sibling in siblings)):
            continue
        if not is_object and not named and ordinal not in {sibling.number for sibling in siblings}:
            continue
        yield quotation(view.text, match.start(), match.end())
    for match in _STEP.finditer(view.text):
        name = re.compile(rf"\bS{re.escape(match[1])}\b(?!\.\d)")
        defined = re.search(rf"(?:^|\n)\W*{name.pattern}\W|{name.pattern}\s*(?:[:=]|is\b|be\b|denote)", view.text)
        if name.search(known) or name.search(view.goal) or defined:
            continue
        top = int(match[1].split(".")[0])
        if top in {sibling.number for sibling in siblings} or any(name.search(sibling.goal) for sibling in siblings):
            yield quotation(view.text, match.start(), match.end())


def _noun(text: str) -> str:
    return text.lower().replace("-", "")


def _ordinal(mark: str) -> int | None:
    """The number of a path that a mark may mean: its last part."""
    bare = mark.strip("()").lower()
    if bare in _WORDS:
        return _WORDS[bare]
    digits = re.fullmatch(r"s?(?:\d+\.)*(\d+)", bare)
    if digits:
        return int(digits[1])
    if bare in _ROMAN:
        return _ROMAN[bare]
    return ord(bare) - ord("a") + 1 if len(bare) == 1 else None


def _is_own(view: View, noun: str, match: re.Match) -> bool:
    """Whether the label is the path's own: in its goal, or of a part that the path makes itself."""
    mark = re.escape(match["mark"])
    stem = re.escape(match["noun"])
    if re.search(rf"\b{stem}s?\.?[\s~]+{mark}(?!\w|\.\d)", view.goal, re.IGNORECASE):
        return True
    if view.divided and not noun.startswith("path"):
        return True
    heads = re.compile(rf"(?:^|[.!?:;]\s+|\n)\W*(?:{stem}\s+(?:\d+|[IVX]+|[A-H]|\w+)\s*(?:[:.–—-]|\))|\d\))\s", re.IGNORECASE)
    return heads.search(view.text) is not None


def _defines(view: View, match: re.Match) -> bool:
    """Whether a path puts the mark behind one of its formulas, or names what the noun and the mark name."""
    mark = re.escape(match["mark"].strip("()"))
    return (
        re.search(rf"\({mark}\)\s*(?:$|\n)|\\tag\{{{mark}\}}|\b{re.escape(match['noun'])}\.?\s*\(?{mark}\)?\s*[:.]", view.text, re.IGNORECASE)
        is not None
    )


def _same_words(match: re.Match, view: View, known: str) -> bool:
    """Whether the label stands behind the same words in what every path sees."""
    before = view.text[: match.start()].split()[-2:]
    return bool(before) and " ".join([*before, match[0]]).lower() in " ".join(known.split()).lower()
