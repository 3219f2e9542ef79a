"""Symbols and named quantities that a path uses though only a sibling defines them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from mvjax.curator.checks.definitions import (
    BOUND,
    EQUATION,
    FORMULA,
    GENEROUS,
    NAMED,
    NAMING,
    RECALLED,
    STRONG,
    SYMBOL,
    Meaning,
)
from mvjax.curator.checks.views import View, quotation
from mvjax.curator.text.lines import by_line

MOST = 12
"""Places at which a definition of a symbol is looked for: the first ones."""
REACH = 120
"""Characters before a symbol in which the words that define it are looked for."""
_MARKUP = re.compile(
    r"[\\$*`](?:(?<=\\)(?:[()\[\]]|left|right|(?:mathrm|text|mathbf|boldsymbol)\b)|(?<=[$*`])[$*`]{0,2}(?=\S)|"
    r"(?<=\S[$`])|(?<=\*)\*)"
)
_ARTICLES = frozenset(("a", "A", "I"))
_UNITS = frozenset("mgshlLtVWACKNJF")
_FIXED = frozenset(("e", "i", "π", "\\pi", "\\ell"))
_SIGN_BEFORE, _SIGN_AFTER = re.compile(r"[+*/^×·=<>]\s*$"), re.compile(r"\s*[+*/^×·=<>]")
_TIMES_BEFORE = re.compile(r"[\d)%](?:\s?[A-Za-z/]+){0,3}\s*$")
_TIMES_AFTER = re.compile(r"\s?[\d(.$]|\s[a-z]+ \d|\s[A-Z]")
_PER = re.compile(r"[a-z]/$")
_AMOUNT, _OPERATED = re.compile(r"\d\s?$"), re.compile(r"\s*[-+*×·<>|(]")

Places = Mapping[str, Sequence[tuple[int, int]]]


class Symbols:
    """The symbols of a path."""

    def __init__(self, view: View):
        self.view = view
        self.text = _plain(view.text)
        self._defined: dict[tuple[str, tuple[Meaning, ...]], bool] = {}

    @cached_property
    def places(self) -> Places:
        """Where each symbol is."""
        return _places(self.text)

    @cached_property
    def names(self) -> frozenset[str]:
        """Names that it gives to quantities, in small letters."""
        naming = (sentence.text for sentence in self.view.sentences if not sentence.words.isdisjoint(NAMING))
        text = "\n".join(naming)
        return frozenset(match["name"].lower() for pattern in NAMED for match in pattern.finditer(text))

    def defines(self, symbol: str, ways: tuple[Meaning, ...]) -> bool:
        """Whether the path gives a symbol its meaning in one of these ways."""
        if (symbol, ways) not in self._defined:
            self._defined[symbol, ways] = any(
                way.stands(self.text, max(self.text.rfind("\n", 0, start) + 1, start - REACH), start, end)
                for start, end in self.places[symbol][:MOST]
                for way in ways
            )
        return self._defined[symbol, ways]


def symbols(mine: Symbols, others: Sequence[Symbols], seen: str) -> list[str]:
    """Symbols and names that a path uses and only a sibling defines, as quotations.

    Args:
      seen: what every path sees, all goals included.
    """
    found = [*_foreign_symbols(mine, others, seen), *_foreign_names(mine, others, seen)]
    return [quotation(_line(mine.text, start), *_in_line(mine.text, start, end)) for start, end in found]


def _foreign_symbols(mine: Symbols, others: Sequence[Symbols], seen: str) -> Iterator[tuple[int, int]]:
    shared = {symbol: held for symbol in mine.places if (held := [other for other in others if symbol in other.places])}
    known = _known(seen) | _FIXED if shared else _FIXED
    for symbol, holders in shared.items():
        if symbol in known:
            continue
        places = mine.places[symbol]
        strong = any(other.defines(symbol, STRONG) for other in holders)
        if not strong and not any(other.defines(symbol, EQUATION) for other in holders):
            continue
        own = (STRONG, EQUATION, BOUND) if strong else (STRONG, EQUATION, BOUND, GENEROUS)
        if any(mine.defines(symbol, ways) for ways in own):
            continue
        if not _recalls(_line(mine.text, places[0][0]), generous=not strong):
            yield places[0]


def _foreign_names(mine: Symbols, others: Sequence[Symbols], seen: str) -> Iterator[tuple[int, int]]:
    for name in dict.fromkeys(name for other in others for name in sorted(other.names)):
        lowered = mine.text.lower()
        if name not in lowered or name in mine.names or re.search(rf"\b{re.escape(name)}", seen.lower()):
            continue
        use = re.search(rf"\b(?:the|this|that|our|its|by|[\"“])\s*{re.escape(name)}\b", lowered)
        if use:
            yield use.start(), use.end()


def _recalls(sentence: str, generous: bool) -> bool:
    """Whether a sentence recalls a formula: it says so; read generously, any equation of letters is one."""
    if RECALLED.search(sentence):
        return True
    return generous and (FORMULA.search(sentence) is not None or ("=" in sentence and len(_places(sentence)) >= 2))


def _places(text: str) -> Places:
    found: dict[str, list[tuple[int, int]]] = {}
    for match in SYMBOL.finditer(text):
        if match["symbol"] and _is_used(text, match):
            found.setdefault(_key(match["symbol"]), []).append(match.span("symbol"))
    return found


@by_line
def _known(seen: str) -> frozenset[str]:
    return frozenset(_places(_plain(seen)))


def _key(symbol: str) -> str:
    """A symbol without braces."""
    return symbol.replace("{", "").replace("}", "")


def _is_used(text: str, match: re.Match) -> bool:
    """Whether a letter is a symbol there, and no article, unit, times sign or initial."""
    symbol, start, end = match["symbol"], match.start(), match.end()
    if symbol in _ARTICLES:
        before = text[max(0, start - 3) : start]
        return _SIGN_BEFORE.search(before) is not None or _SIGN_AFTER.match(text, end) is not None
    if symbol in ("x", "X") and _TIMES_BEFORE.search(text[max(0, start - 30) : start]):
        return _TIMES_AFTER.match(text, end) is None
    if symbol in _UNITS:
        before = text[max(0, start - 3) : start]
        if _AMOUNT.search(before):
            return _OPERATED.match(text, end) is not None
        return _PER.search(before) is None
    return not (text[end : end + 1] == "." and text[end + 1 : end + 2].isalpha())


def _line(text: str, place: int) -> str:
    start = text.rfind("\n", 0, place) + 1
    end = text.find("\n", place)
    return text[start : end if end >= 0 else len(text)]


def _in_line(text: str, start: int, end: int) -> tuple[int, int]:
    begin = text.rfind("\n", 0, start) + 1
    return start - begin, end - begin


def _plain(text: str) -> str:
    """A text without the marks of formulas."""
    return _MARKUP.sub("", text) if any(mark in text for mark in "\\$*`") else text
