"""One way of writing what LaTeX, Unicode and plain text write in several."""

from __future__ import annotations

import re
import unicodedata

MARK = "\u2063"
"""Stands around words that LaTeX sets as text, such as units."""

_BREAK = "\ue000"
_SCALES = {"thousand": "e3", "million": "e6", "billion": "e9"}
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SIGNS = {
    "−": "-", "–": "-", "﹣": "-", "×": r"\cdot ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "⁄": "/",
    "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "∪": r"\cup ",
    "∈": r"\in ", "°": r"^\circ ", "′": "'", "’": "'", "“": '"', "”": '"', "θ": r"\theta ", "∅": r"\emptyset ",
    "≈": r"\approx ",
    "{,}": ",", r"\%": "%", r"\{": r"\lbrace ", r"\}": r"\rbrace ",
    r"\cdots": r"\ldots ", r"\neq": r"\ne", r"\leqslant": r"\le", r"\geqslant": r"\ge", r"\leq": r"\le",
    r"\geq": r"\ge", "<=": r"\le ", ">=": r"\ge ", r"\lt": "<", r"\gt": ">", r"\dfrac": r"\frac",
    r"\tfrac": r"\frac", r"\cfrac": r"\frac", r"\dbinom": r"\binom", r"\mid": "|", r"\vert": "|",
}  # fmt: skip
_TABLE = re.compile("|".join(sorted(map(re.escape, _SIGNS), key=len, reverse=True)))
_SIZES = re.compile(
    r"\\(?:left|right)(?![a-z])\.?|\\(?:big|Big|bigg|Bigg)[lrm]?(?![a-z])|\\(?:displaystyle|textstyle|limits)(?![a-z])"
)
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname|emph|rm|bf)\s*\*?\s*\{([^{}]*)\}")
_SPACES = re.compile(r"\\[,;:> ]|\\q?quad(?![a-z])|~|\\\n|\s+")
_SQRT = re.compile(r"\\sqrt\s*(\d|[a-zA-Z])")
_PLAIN_SQRT = re.compile(r"(?<![\\a-zA-Z])sqrt\s*(?:\(([^()]*)\)|(\d+))")


def plain(text: str) -> str:
    """A text in one way of writing: no math delimiters, sizes and currency signs, text between marks, fractions with
    braces."""
    text = re.sub(r"(?<=\d)(?=[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])", " ", text)
    text = re.sub(r"[⁰¹²³⁴-⁹⁻]+", lambda match: "^{" + match[0].translate(_SUPERSCRIPTS) + "}", text)
    text = re.sub(r"[₀-₉]+", lambda match: "_{" + match[0].translate(_SUBSCRIPTS) + "}", text)
    text = re.sub(r"√\s*(\d+|[a-zA-Z]|\([^()]*\))", lambda match: r"\sqrt{" + match[1].strip("()") + "}", text)
    text = unicodedata.normalize("NFKC", text)
    text = "".join(str(unicodedata.digit(c)) if not c.isascii() and c.isdecimal() else c for c in text)
    text = re.sub(r",\s*\\!\s*", ",", text)
    text = re.sub(r"\\\$|[$€£¥₹]|\\[()\[\]](?!\w*\s*pt)", " ", _newlines(text)).replace(r"\!", "")
    text = _SIZES.sub("", text)
    text = _TABLE.sub(lambda match: _SIGNS[match[0]], text)
    text = re.sub(r"\\times(?![a-z])", r"\\cdot ", text)
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![a-z])", f" {MARK}degrees{MARK}", text)
    for _ in range(2):
        text = _TEXT.sub(lambda match: f" {MARK}{match[1].strip()}{MARK} ", text)
    text = _SPACES.sub(" ", text).replace(_BREAK, r" \\ ")
    text = _PLAIN_SQRT.sub(lambda match: rf"\sqrt{{{match[1] or match[2]}}}", text)
    text = _SQRT.sub(r"\\sqrt{\1}", text)
    text = re.sub(r"(?<![\\a-zA-Z])pi(?![a-zA-Z])", r"\\pi ", text)
    text = re.sub(r"(?<![\\a-zA-Z])(?:infinity|inf|oo)(?![a-zA-Z])", r"\\infty ", text)
    text = re.sub(r"\s*\bpercent(?:age)?\b|\s+%", "%", text).replace("**", "^")
    text = re.sub(r"(?<=[\d)])\s*\*\s*(?=[\d(a-zA-Z\\])|(?<=[a-zA-Z}])\s*\*\s*(?=[\d(a-zA-Z\\])", r" \\cdot ", text)
    text = re.sub(r"(?<=\d) (thousand|million|billion)\b", lambda match: _SCALES[match[1]], text)
    text = re.sub(r"(?<=[)\]])\s*U\s*(?=[(\[])", r" \\cup ", text)
    text = _fractions(text)
    return " ".join(text.split()).strip(" ,;:*").rstrip(" .,;:*")


def _newlines(text: str) -> str:
    """LaTeX's line break as one character, so that its backslashes begin no other command."""
    return text.replace("\\\\", _BREAK)


def _fractions(text: str) -> str:
    r"""\frac43, \frac{270}7 and \frac1{x} with braces."""
    text = re.sub(r"\\frac\s*(\d)\s*(\d|[a-z])(?![a-z])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac\s*(\{[^{}]*\})\s*(\w)", r"\\frac\1{\2}", text)
    return re.sub(r"\\frac\s*(\w)\s*(\{)", r"\\frac{\1}\2", text)


def bare(text: str) -> str:
    """The words of a plain text without marks and spaces at the ends, in lower case."""
    return " ".join(text.replace(MARK, " ").split()).strip(" .,;:\"'").casefold()


def compact(text: str) -> str:
    """A plain text without spaces, to compare by."""
    text = text.replace(MARK, "").replace(r"\cdot ", r"\cdot")
    return re.sub(r"(?<![a-zA-Z])\s+|\s+(?![a-zA-Z])", "", text)
