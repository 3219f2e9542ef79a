"""How a text gives a symbol or a quantity its meaning."""

from __future__ import annotations

import re
from dataclasses import dataclass

_GREEK = (
    "alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau|phi|varphi|"
    "chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Sigma|Phi|Psi|Omega|ell"
)
_LETTER = (
    rf"(?:\\(?:{_GREEK})|[A-Za-z]{{2,12}}(?=_)|[A-Z]{{2,4}}(?![A-Za-z])|[A-Z][a-z]+(?:[A-Z][a-z]+)+|[A-Za-z]\d|"
    rf"[A-Za-zΑ-Ωα-ωϕϑ])"
)
_SUB = r"(?:_(?:\{[^{}\n]{1,12}\}|[A-Za-z0-9]{1,12})|[₀-₉]+)?"
_PLAIN = "[A-Za-z][a-z]+(?![A-Za-z_])"
SYMBOL = re.compile(rf"{_PLAIN}|(?<![A-Za-z\\_'’])(?P<symbol>{_LETTER}{_SUB})(?![A-Za-z_'’])(?!-[a-z])")
"""A letter, a Greek one, a letter or short word with a subscript, an abbreviation, wherever it occurs.

A plain word matches too, without the group `symbol`: so it is passed over at once, not letter by letter.
"""


@dataclass(frozen=True)
class Meaning:
    """A way to give a symbol its meaning."""

    before: re.Pattern
    """What ends where the symbol begins."""
    after: re.Pattern
    """What begins where the symbol ends."""

    def stands(self, text: str, begin: int, start: int, end: int) -> bool:
        """Whether a symbol at `start` to `end` gets its meaning so; `begin`: where its line begins."""
        return self.after.match(text, end) is not None and self.before.search(text, begin, start) is not None


def _meaning(before: str, after: str) -> Meaning:
    return Meaning(re.compile(rf"(?:{before})\Z", re.MULTILINE), re.compile(after, re.MULTILINE))


_ANY = r"(?<![{^.\-])"
_ARGUMENT = r"(?:\([^()\n]{1,12}\))?"
_FEW = r"(?: [\w'’-]+,?){0,6}? "
STRONG = (
    _meaning(
        rf"\b(?i:let|set|put|write|writing|define|defining|denote|introduce|suppose|assume|abbreviate){_FEW}",
        rf"{_ARGUMENT}\s*(?:=|:=|≔|(?:be|denotes?|represents?|stands?|equals?|for|as|to|means?|the|with|and)\b|[,.(])",
    ),
    _meaning(rf"\b(?i:take|fix|choose|pick){_FEW}", rf"{_ARGUMENT}\s*(?:=|:=|≔|(?:to be|as|such|with|so that)\b)"),
    _meaning(
        r"\b(?i:call|calling|name|label|denote|denoting|mark|abbreviate|write|refer to|express|"
        r"designate)\b[^.;\n]{0,60}?\b(?:as|by|with|it|this|that|amount|number|value|total|sum|quantity|result|count|"
        r"figure|length|distance|cost|time|area|simply|just) ",
        r"\s*(?:[.,;:)]|$|(?:from|and|so|for|here)\b)",
    ),
    _meaning(
        r"(?<![-+*/×·=<>(] )(?<![{^.\-+*/×·])",
        rf"{_ARGUMENT}\s*(?::=|≔|is \$?-?\d|(?:denotes?|means|represents?|representing|denoting|stands? for|standing "
        rf"for|is defined|designates?|will denote|will be|shall be|being|is (?:the|this|that|our|its|equal|"
        rf"short))\b)",
    ),
    _meaning(r"[a-z], ", r",? (?:(?:is|are|equals?)\b|=)"),
    _meaning(r"\b(?:called|named|labell?ed|denoted|designated|abbreviated|written|say) (?:by |as |with )?", ""),
    _meaning(
        r"\b(?:number|value|amount|total|sum|quantity|count|figure|length|distance|result|unknown|variable|"
        r"constant),? \(?(?:say |called )?",
        r"\s*(?:[,.)]|(?:from|hereafter)\b)",
    ),
)
"""In words, or by a sign that does nothing else."""
EQUATION = (_meaning(r"^|[\s,;:({]", rf"{_ARGUMENT}\s*(?:=(?!=)|≈|≡|∈|\\in\b)"),)
"""Alone on the left of an equation."""
BOUND = (
    _meaning(
        r"\b(?i:any|all|some|each|every|integers?|numbers|points?|angles?|variables?|unknowns?|functions?|primes?|"
        r"digits?|where|an?(?: \w+){1,3}) ",
        "",
    ),
    _meaning(_ANY, r"\s*(?:∈|\\in\b)"),
    _meaning(r"[A-Za-z]\(", r"\)\s*="),
    _meaning(r"\b(?i:for|when|if|where|with|as|provided|unless) ", r"\s*(?:=|≠|<|>|≤|≥|→|\\(?:ge|le|to|neq)\b)"),
    _meaning(
        r"\b(?i:equations?|functions?|polynomials?|curves?|inequality|inequalities|parabola|quadratic|solve|solving|"
        r"factor|factoring|(?:graph|roots?|derivative) of)\b[^.;\n]{0,30}?",
        "",
    ),
    _meaning(r"\(", r", \w+\)\s*(?:in\b|∈|\\in\b|such that)"),
    _meaning(r"\(\w+, ", r"\s*\)\s*(?:in\b|∈|\\in\b|such that)"),
    _meaning(r"\\(?:sum|prod|int|lim)\w*_\{?\s*", ""),
)
"""By binding it: it needs no meaning from elsewhere."""
GENEROUS = (
    _meaning(
        r"\b(?i:for|radius|height|base|width|length|side|vertex|sets?|matrix|vectors?|events?|roots?|with|over|as|by|"
        r"its|their) ",
        "",
    ),
    _meaning(
        _ANY,
        r"\s*(?:=|≈|≡|be\b|,?\s*(?:is|are)\b(?! (?:then |now |also |again |not |to be )?\w+(?:ed|"
        r"er|en)\b))",
    ),
    _meaning(r"(?:=|≤|<)\s*", r"\s*(?:$|[.,;]|[<≤])"),
)
"""In ways that may do so, read generously."""
RECALLED = re.compile(r"\b(?:formula|theorem|law|identity|standard form|general form|definition)\b", re.IGNORECASE)
"""A sentence that recalls what is known anyway."""
FORMULA = re.compile(r"\b(?:rule|equation|inequality|pattern|form|expansion|expression)\b", re.IGNORECASE)
"""A sentence that may."""
_NAME_WORD = (
    r"(?!(?:the|an?|this|that|number|value|amount|quantity|result|total|sum|figure|one|it|and)\b)[A-Za-z][a-z-]{2,}"
)
_NAME = rf"[\"“'«‘]?(?P<name>{_NAME_WORD}(?: {_NAME_WORD}){{0,2}})[\"”'»’]?"
_STOP = r"(?=\s*(?:[.,;:)]|$|(?:for|from|and|here|below)\b))"
NAMED = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        rf"\b(?i:call|calling|name|naming|dub|term|label|labelling|christen|nickname) [\w'’]+{_FEW}(?:as )?[\"“']?"
        rf"(?:the |an? |our )?{_NAME}{_STOP}",
        rf"\b(?i:refer(?:red)? to|write|known|described) (?:[\w'’]+ ){{0,4}}?as (?:the |an? |our )?{_NAME}{_STOP}",
        rf"\b(?i:define|defining|denote|introduce) (?:the|a|an|our) {_NAME} (?:as|to be|by|of|with|=|:=|here)\b",
        rf"\b(?i:so-called|what (?:we|i) call) (?:the |an? )?{_NAME}",
    )
)
"""A quantity gets a name."""
NAMING = frozenset(
    """call called calling name naming dub term label labelling christen nickname refer referred write known described
    define defining denote introduce""".split()  # noqa: SIM905
)
"""One of these words is used where a quantity gets a name."""
