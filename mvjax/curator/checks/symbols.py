"""Symbols and named quantities that a path uses though only a sibling defines them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from mvjax.curator.checks.views import View
from mvjax.curator.checks.wording import quotation

_GREEK = (
    "alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau|phi|varphi|chi|psi|"
    "omega|Gamma|Delta|Theta|Lambda|Xi|Sigma|Phi|Psi|Omega|ell"
)
_LETTER = rf"(?:\\(?:{_GREEK})|[A-Za-z]{{2,12}}(?=_)|[A-Z]{{2,4}}(?![A-Za-z])|[A-Z][a-z]+(?:[A-Z][a-z]+)+|[A-Za-z]\d|[A-Za-zΑ-Ωα-ωϕϑ])"
_SUB = r"(?:_(?:\{[^{}\n]{1,12}\}|[A-Za-z0-9]{1,12})|[₀-₉]+)?"
_SYMBOL = rf"(?<![A-Za-z\\_{{'’^.-])(?P<symbol>{_LETTER}{_SUB})(?![A-Za-z_'’])(?!-[A-Za-z])"
_USE = re.compile(rf"(?<![A-Za-z\\_'’])(?P<symbol>{_LETTER}{_SUB})(?![A-Za-z_'’])(?!-[a-z])")
_MARKUP = re.compile(r"\\[()\[\]]|\\left|\\right|\\(?:mathrm|text|mathbf|boldsymbol)\b|[$*`]{1,3}(?=\S)|(?<=\S)[$`]|\*\*")
_FEW = r"(?:\s+[\w'’-]+){0,6}?\s+"
_STRONG = tuple(
    re.compile(pattern)
    for pattern in (
        rf"\b(?i:let|set|put|write|writing|define|defining|denote|take|introduce|suppose|assume|fix|choose|abbreviate){_FEW}{_SYMBOL}"
        rf"(?:\([^()\n]{{1,12}}\))?(?=\s*(?:=|:=|≔|be\b|denotes?\b|represents?\b|stands?\b|equals?\b|for\b|as\b|to\b|means?\b|the\b|,|\.|\(|with\b))",
        rf"[a-z], {_SYMBOL},?\s+(?:is\b|are\b|equals?\b|=)",
        rf"{_SYMBOL} is \$?-?\d",
        rf"\b(?i:call|calling|name|label|denote|denoting|mark|abbreviate|write|refer to|express|designate)\b[^.;\n]{{0,60}}?\b(?:as|by|with|it|this|that|amount|"
        rf"number|value|total|sum|quantity|result|count|figure|length|distance|cost|time|area|simply|just)\s+{_SYMBOL}(?=\s*(?:[.,;:)]|$|from\b|and\b|so\b|for\b|here\b))",
        rf"{_SYMBOL}(?:\([^()\n]{{1,12}}\))?\s*(?::=|≔|(?:denotes?|means|represents?|representing|denoting|stands? for|standing for|is defined|designates?|will denote|"
        rf"will be|shall be|being|is (?:the|this|that|our|its|equal|short))\b)",
        rf"\b(?:called|named|labell?ed|denoted|designated|abbreviated|written|say)\s+(?:by\s+|as\s+|with\s+)?{_SYMBOL}",
        rf"\b(?:number|value|amount|total|sum|quantity|count|figure|length|distance|result|unknown|variable|constant),?\s*\(?(?:say |called )?{_SYMBOL}(?=\s*(?:[,.)]|from\b|hereafter\b))",
    )
)  # fmt: skip
"""A symbol gets its meaning in words, or by a sign that does nothing else."""
_EQUATION = re.compile(rf"(?:^|[\s,;:({{]){_SYMBOL}(?:\([^()\n]{{1,12}}\))?\s*(?:=|≈|≡|∈|\\in\b)(?!=)", re.MULTILINE)
"""A symbol alone on the left of an equation."""
_BOUND = tuple(
    re.compile(pattern)
    for pattern in (
        rf"\b(?i:any|all|some|each|every|integers?|numbers|points?|angles?|variables?|unknowns?|functions?|primes?|digits?|"
        rf"where|an?(?: \w+){{1,3}})\s+{_SYMBOL}",
        rf"{_SYMBOL}\s*(?:∈|\\in\b)",
        rf"\({_SYMBOL}, \w+\)\s*(?:in\b|∈|\\in\b|such that)",
        rf"\(\w+, {_SYMBOL}\s*\)\s*(?:in\b|∈|\\in\b|such that)",
        rf"\\(?:sum|prod|int|lim)\w*_\{{?\s*{_SYMBOL}",
    )
)
"""A symbol that is bound: it needs no meaning from elsewhere."""
_OWN = (
    re.compile(rf"\b(?i:for|radius|height|base|width|length|side|vertex|sets?|matrix|vectors?|events?|roots?|with|over|as|by|its|their)\s+{_SYMBOL}"),
    re.compile(rf"{_SYMBOL}\s*(?:=|≈|≡|≤|<|>|≥|\\le|\\ge|be\b|,?\s*(?:is|are)\b(?!\s+(?:then |now |also |again |not |to be )?\w+(?:ed|er|en)\b))"),
    re.compile(rf"(?:=|≤|<|≥|>)\s*{_SYMBOL}(?=\s*(?:$|[.,;]|\n))", re.MULTILINE),
)
"""Where a path may bring in a symbol itself, read generously."""
_RECALLED = re.compile(r"\b(?:formula|theorem|law|identity|standard form|general form|definition)\b", re.IGNORECASE)
_FORMULA = re.compile(r"\b(?:formula|theorem|law|identity|rule|equation|definition|inequality|pattern|form|expansion|expression)\b", re.IGNORECASE)
_NAME_WORD = r"(?!(?:the|an?|this|that|number|value|amount|quantity|result|total|sum|figure|one|it|and)\b)[A-Za-z][a-z-]{2,}"
_NAME = rf"[\"“'«‘]?(?P<name>{_NAME_WORD}(?: {_NAME_WORD}){{0,2}})[\"”'»’]?"
_NAMED = tuple(
    re.compile(pattern)
    for pattern in (
        rf"\b(?i:call|calling|name|naming|dub|term|label|labelling|christen|nickname)\s+(?:it|this|that|them|these|those|the|our|such|[\w'’]+){_FEW}(?:as )?(?:the |an? |our )?{_NAME}(?=\s*(?:[.,;:)]|$|for\b|from\b|and\b|here\b|below\b))",
        rf"\b(?i:refer(?:red)? to|write|known|described)\s+(?:[\w'’]+ ){{0,4}}?as (?:the |an? |our )?{_NAME}(?=\s*(?:[.,;:)]|$|for\b|from\b|and\b|here\b|below\b))",
        rf"\b(?i:define|defining|denote|introduce)\s+(?:the|a|an|our) {_NAME}\s+(?:as|to be|by|of|with|=|:=|here)\b",
        rf"\b(?i:so-called|what (?:we|i) call)\s+(?:the |an? )?{_NAME}",
    )
)  # fmt: skip
"""A quantity gets a name."""
_ARTICLES = frozenset(("a", "A", "I"))
_UNITS = frozenset("m g s h l L t V W A C K N J F".split())
_FIXED = frozenset(("e", "i", "π", "\\pi", "\\ell"))


_TIMES = re.compile(r"[\d)%](?:\s?[A-Za-z/]+){0,3}\s*$")
_FACTOR = re.compile(r"\s?[\d(.$]|\s[a-z]+ \d|\s[A-Z]")
"""Before and after an x that means times."""


def symbols(view: View, siblings: Sequence[View], seen: str) -> list[str]:
    """Symbols and names that a path uses and only a sibling defines, as quotations.

    Args:
      seen: what every path sees, all goals included.
    """
    text = _plain(view.text)
    others = [_plain(sibling.text) for sibling in siblings]
    return [quotation(text, start, end) for start, end in (*_symbols(text, others, seen), *_names(text, others, seen))]


def _symbols(text: str, others: Sequence[str], seen: str) -> Iterator[tuple[int, int]]:
    used: dict[str, re.Match] = {}
    for match in _USE.finditer(text):
        symbol = _key(match["symbol"])
        if symbol not in used and _is_used(text, match):
            used[symbol] = match
    if not used:
        return
    strong = {key for other in others for key in _defined(other, _STRONG)} & used.keys()
    weak = {key for other in others for key in _defined(other, (_EQUATION,))} & used.keys() - strong
    if not strong and not weak:
        return
    plain = _plain(seen)
    known = {_key(match["symbol"]) for match in _USE.finditer(plain) if _is_used(plain, match)}
    named = _defined(text, (*_STRONG, *_BOUND, _EQUATION))
    brought = named | _defined(text, _OWN)
    for symbol, match in used.items():
        if symbol in known or symbol not in strong | weak or symbol in (named if symbol in strong else brought):
            continue
        if symbol in _FIXED or _in_formula(text, match, symbol in weak):
            continue
        yield match.start("symbol"), match.end("symbol")


def _names(text: str, others: Sequence[str], seen: str) -> Iterator[tuple[int, int]]:
    lowered, visible = text.lower(), seen.lower()
    for name in dict.fromkeys(name for other in others for name in _defined_names(other)):
        if name not in lowered or re.search(rf"\b{re.escape(name)}", visible):
            continue
        use = re.search(rf"\b(?:the|this|that|our|its|by|[\"“])\s*{re.escape(name)}\b", lowered)
        if use and name not in _defined_names(text):
            yield use.start(), use.end()


def _defined(text: str, patterns: Sequence[re.Pattern]) -> set[str]:
    """Symbols that one of the patterns defines in a text."""
    found = set()
    for pattern in patterns:
        for match in pattern.finditer(text):
            found.add(_key(match["symbol"]))
    return found


def _defined_names(text: str) -> set[str]:
    return {match["name"].lower() for pattern in _NAMED for match in pattern.finditer(text)}


def _key(symbol: str) -> str:
    """A symbol without braces."""
    return symbol.replace("{", "").replace("}", "")


def _is_used(text: str, match: re.Match) -> bool:
    """Whether a letter is a symbol there, and no article, unit, times sign or initial."""
    symbol, start, end = match["symbol"], match.start(), match.end()
    before, after = text[max(0, start - 3) : start], text[end : end + 3]
    operated = bool(re.search(r"[-+*/^×·=<>(|]\s*$", before) or re.match(r"\s*[-+*/^×·=<>)|(]", after))
    if symbol in _ARTICLES:
        return bool(re.search(r"[+*/^×·=<>]\s*$", before) or re.match(r"\s*[+*/^×·=<>]", after))
    if symbol in "xX" and _TIMES.search(text[max(0, start - 30) : start]) and _FACTOR.match(text[end : end + 30]):
        return False
    if symbol in _UNITS and re.search(r"\d\s?$", before):
        return operated and not re.match(r"\s*[/^)=²³]", after)
    return not re.match(r"\.[A-Za-z]", after)


def _in_formula(text: str, match: re.Match, generous: bool) -> bool:
    """Whether a symbol stands in a sentence that recalls a formula; read generously, any equation of letters is one."""
    start = max(text.rfind(mark, 0, match.start()) for mark in (". ", "\n", "; ")) + 1
    end = min((place for mark in (". ", "\n", "; ") if (place := text.find(mark, match.end())) >= 0), default=len(text))
    sentence = text[start:end]
    if _RECALLED.search(sentence):
        return True
    if not generous:
        return False
    return _FORMULA.search(sentence) is not None or "=" in sentence and len({_key(use["symbol"]) for use in _USE.finditer(sentence) if _is_used(sentence, use)}) >= 2


def _plain(text: str) -> str:
    """A text without the marks of formulas."""
    return _MARKUP.sub("", text) if "\\" in text or "$" in text or "*" in text or "`" in text else text
