"""How a text gives a symbol or a quantity its meaning: patterns."""

from __future__ import annotations

import re

_GREEK = (
    "alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau|phi|varphi|chi|psi|"
    "omega|Gamma|Delta|Theta|Lambda|Xi|Sigma|Phi|Psi|Omega|ell"
)
_LETTER = (
    rf"(?:\\(?:{_GREEK})|[A-Za-z]{{2,12}}(?=_)|[A-Z]{{2,4}}(?![A-Za-z])|[A-Z][a-z]+(?:[A-Z][a-z]+)+|[A-Za-z]\d|"
    rf"[A-Za-zΑ-Ωα-ωϕϑ])"
)
_SUB = r"(?:_(?:\{[^{}\n]{1,12}\}|[A-Za-z0-9]{1,12})|[₀-₉]+)?"
_SYMBOL = rf"(?<![A-Za-z\\_{{'’^.-])(?P<symbol>{_LETTER}{_SUB})(?![A-Za-z_'’])(?!-[A-Za-z])"
_ARGUMENT = r"(?:\([^()\n]{1,12}\))?"
_FEW = r"(?: [\w'’-]+){0,6}? "
USE = re.compile(rf"(?<![A-Za-z\\_'’])(?P<symbol>{_LETTER}{_SUB})(?![A-Za-z_'’])(?!-[a-z])")
"""A symbol, wherever it stands: a letter, a Greek one, a letter or short word with a subscript, an abbreviation."""
STRONG = tuple(
    re.compile(pattern)
    for pattern in (
        rf"\b(?i:let|set|put|write|writing|define|defining|denote|take|introduce|suppose|assume|fix|choose|abbreviate)"
        rf"{_FEW}{_SYMBOL}{_ARGUMENT}(?=\s*(?:=|:=|≔|(?:be|denotes?|represents?|stands?|equals?|for|as|to|means?|the|with)\b|"
        rf"[,.(]))",
        rf"[a-z], {_SYMBOL},? (?:(?:is|are|equals?)\b|=)",
        rf"{_SYMBOL} is \$?-?\d",
        rf"\b(?i:call|calling|name|label|denote|denoting|mark|abbreviate|write|refer to|express|designate)\b[^.;\n]{{0,60}}?"
        rf"\b(?:as|by|with|it|this|that|amount|number|value|total|sum|quantity|result|count|figure|length|distance|cost|time|"
        rf"area|simply|just) {_SYMBOL}(?=\s*(?:[.,;:)]|$|(?:from|and|so|for|here)\b))",
        rf"{_SYMBOL}{_ARGUMENT}\s*(?::=|≔|(?:denotes?|means|represents?|representing|denoting|stands? for|standing for|"
        rf"is defined|designates?|will denote|will be|shall be|being|is (?:the|this|that|our|its|equal|short))\b)",
        rf"\b(?:called|named|labell?ed|denoted|designated|abbreviated|written|say) (?:by |as |with )?{_SYMBOL}",
        rf"\b(?:number|value|amount|total|sum|quantity|count|figure|length|distance|result|unknown|variable|constant),? \(?"
        rf"(?:say |called )?{_SYMBOL}(?=\s*(?:[,.)]|(?:from|hereafter)\b))",
    )
)
"""A symbol gets its meaning in words, or by a sign that does nothing else."""
MEANING = re.compile(
    r"(?i:\b(?:let|set|put|writ|defin|deno|take|introduc|suppos|assum|fix|choos|abbrev|call|name|label|mark|refer|express|"
    r"designat|represent|stand|mean|will|shall|being|say|number|value|amount|total|sum|quantity|count|figure|length|distance|"
    r"result|unknown|variable|constant))|\b(?:is|are|equals?)\b|:=|≔|[a-z], "
)
"""Something of this stands where a symbol gets its meaning so."""
EQUATION = (re.compile(rf"(?:^|[\s,;:({{]){_SYMBOL}{_ARGUMENT}\s*(?:=|≈|≡|∈|\\in\b)(?!=)", re.MULTILINE),)
"""A symbol alone on the left of an equation."""
BOUND = tuple(
    re.compile(pattern)
    for pattern in (
        rf"\b(?i:any|all|some|each|every|integers?|numbers|points?|angles?|variables?|unknowns?|functions?|primes?|digits?|"
        rf"where|an?(?: \w+){{1,3}}) {_SYMBOL}",
        rf"{_SYMBOL}\s*(?:∈|\\in\b)",
        rf"\({_SYMBOL}, \w+\)\s*(?:in\b|∈|\\in\b|such that)",
        rf"\(\w+, {_SYMBOL}\s*\)\s*(?:in\b|∈|\\in\b|such that)",
        rf"\\(?:sum|prod|int|lim)\w*_\{{?\s*{_SYMBOL}",
    )
)
"""A symbol that is bound: it needs no meaning from elsewhere."""
GENEROUS = (
    re.compile(
        rf"\b(?i:for|radius|height|base|width|length|side|vertex|sets?|matrix|vectors?|events?|roots?|with|over|as|by|its|"
        rf"their) {_SYMBOL}"
    ),
    re.compile(
        rf"{_SYMBOL}\s*(?:=|≈|≡|≤|<|>|≥|\\le|\\ge|be\b|,?\s*(?:is|are)\b(?! (?:then |now |also |again |not |to be )?"
        rf"\w+(?:ed|er|en)\b))"
    ),
    re.compile(rf"(?:=|≤|<|≥|>)\s*{_SYMBOL}(?=\s*(?:$|[.,;\n]))", re.MULTILINE),
)
"""Where a text may bring in a symbol, read generously."""
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
        rf"\b(?i:call|calling|name|naming|dub|term|label|labelling|christen|nickname) [\w'’]+{_FEW}(?:as )?(?:the |an? |our )?"
        rf"{_NAME}{_STOP}",
        rf"\b(?i:refer(?:red)? to|write|known|described) (?:[\w'’]+ ){{0,4}}?as (?:the |an? |our )?{_NAME}{_STOP}",
        rf"\b(?i:define|defining|denote|introduce) (?:the|a|an|our) {_NAME} (?:as|to be|by|of|with|=|:=|here)\b",
        rf"\b(?i:so-called|what (?:we|i) call) (?:the |an? )?{_NAME}",
    )
)
"""A quantity gets a name."""
NAMING = frozenset(
    "call calling name naming dub term label labelling christen nickname refer referred write known described define defining "
    "denote introduce so".split()
)
"""One of these words stands where a quantity gets a name."""
