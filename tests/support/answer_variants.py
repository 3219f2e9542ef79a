"""Other ways of writing an answer that are right, and answers near it that are wrong, made by rule and by sympy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

import sympy
from latex2sympy2_extended import latex2sympy

FRACTION = re.compile(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}")
INTEGER = re.compile(r"-?\d+")
GROUP = re.compile(r"(\\left)?\s*(?P<open>[(\[]|\\\{)(?P<inside>.*?)(\\right)?\s*(?P<close>[)\]]|\\\})")


def value(answer: str) -> sympy.Expr | None:
    """An answer that is one expression, as sympy has it; None for any other."""
    if re.search(r"\\text|\\mbox|,|=|\\begin|\\cup|\\pm|\\circ|\\%|\$|_|\d\s*\\frac|\\\\|\^\\", answer):
        return None
    try:
        found = latex2sympy(answer, is_real=True)
    except Exception:  # the parser has many of its own
        return None
    return found if isinstance(found, sympy.Expr) else None


def parts(answer: str) -> tuple[str, list[str], str] | None:
    """Brackets and elements of a tuple, a set, an interval, or (no brackets) a list."""
    if re.search(r"\\begin|\\cup|\\text|\\!|\$|=|\d,\d{3}(?!\d)", answer) or "," not in answer:
        return None
    match = GROUP.fullmatch(answer.strip())
    if match and not re.search(r"[()\[\]]", match["inside"].replace(r"\left", "").replace(r"\right", "")):
        return match["open"], [text.strip() for text in match["inside"].split(",")], match["close"]
    return None if match or re.search(r"[()\[\]]", answer) else ("", [text.strip() for text in answer.split(",")], "")


def rewritings(answer: str) -> Iterator[tuple[str, str]]:
    """(rule, text) of texts that say the same."""
    if r"\frac{" in answer:
        yield "dfrac", answer.replace(r"\frac{", r"\dfrac{")
        yield "tfrac", answer.replace(r"\frac{", r"\tfrac{")
    if match := re.fullmatch(rf"(-?){FRACTION.pattern}", answer):
        sign, top, bottom = match[1], int(match[2]), int(match[3])
        yield "slash", f"{sign}{top}/{bottom}"
        yield "not reduced", rf"{sign}\frac{{{3 * top}}}{{{3 * bottom}}}"
        left = bottom
        for prime in (2, 5):
            while left % prime == 0:
                left //= prime
        if left == 1 and bottom <= 1000:
            yield "decimal", sign + format(float(Fraction(top, bottom)), ".10f").rstrip("0")
    if INTEGER.fullmatch(answer):
        number = int(answer)
        yield "decimal", f"{number}.0"
        yield "quotient", rf"\frac{{{2 * number}}}{{2}}"
        if abs(number) >= 1000:
            yield "separators", f"{number:,}"
            yield "separators", f"{number:,}".replace(",", "{,}")
    if re.fullmatch(r"-?\d+\.\d+", answer):
        exact = Fraction(answer)
        yield "fraction", rf"\frac{{{exact.numerator}}}{{{exact.denominator}}}"
    if match := re.fullmatch(r"(\d+)\\sqrt\{(\d+)\}", answer):
        yield "under the root", rf"\sqrt{{{int(match[1]) ** 2 * int(match[2])}}}"
        yield "power", rf"{match[1]} \cdot {match[2]}^{{1/2}}"
    if match := re.fullmatch(r"\\text\{\(?(.*?)\)?\}", answer):
        yield "words", match[1]
        yield "words", rf"\textbf{{{match[1]}}}"
    if match := re.fullmatch(r"(-?\d+)\^\{?\\circ\}?", answer):
        yield "degrees", match[1]
        yield "degrees", rf"{match[1]} \text{{ degrees}}"
    if "pmatrix" in answer:
        yield "bmatrix", answer.replace("pmatrix", "bmatrix")
    if found := parts(answer):
        opening, elements, closing = found
        if opening in ("", r"\{") and len(elements) > 1:
            yield "order", opening + ", ".join(reversed(elements)) + closing
        if opening:
            yield "spaces", rf"\left{opening} {' , '.join(elements)} \right{closing}"
        if (opening, closing) in {("(", "]"), ("[", ")"), ("[", "]")} and len(elements) == 2:
            low, high = elements
            first = "<" if opening == "(" else r"\le"
            last = "<" if closing == ")" else r"\le"
            if low.endswith("infty"):
                yield "inequality", f"x {last} {high}"
            elif high.endswith("infty"):
                yield "inequality", f"{low} {first} x"
            else:
                yield "inequality", f"{low} {first} x {last} {high}"
    expression = value(answer)
    if expression is not None and not expression.is_Rational and not expression.has(sympy.Float):
        if expression.is_Add:
            yield "reordered", " + ".join(f"({sympy.latex(term)})" for term in reversed(expression.args))
        yield "sum", sympy.latex(expression + 3) + " - 3"
        for rule, change in (("expanded", sympy.expand), ("factored", sympy.factor), ("together", sympy.together)):
            changed = change(expression)
            if changed != expression:
                yield rule, sympy.latex(changed)
        yield "halves", rf"\frac{{{sympy.latex(sympy.expand(2 * expression))}}}{{2}}"


def perturbations(answer: str) -> Iterator[tuple[str, str]]:
    """(rule, text) of texts near an answer that say something else."""
    seen = set()
    for rule, text in _changes(answer):
        if text != answer and text not in seen and not _same(text, answer):
            seen.add(text)
            yield rule, text


def _changes(answer: str) -> Iterator[tuple[str, str]]:
    plain = "\\text" not in answer and "begin" not in answer
    if plain and not re.search(r"[,=]|\\cup|\\pm", answer) and re.search(r"\d|[a-z]", answer):
        yield "sign", answer[1:] if answer.startswith("-") else f"-{answer}"
        yield "symbol", rf"{answer}\pi" if not re.search(r"\\circ|[%$_]", answer) else answer
        if "\\circ" not in answer and "\\$" not in answer and "_" not in answer and "\\%" not in answer:
            yield "nesting", rf"\sqrt{{{answer}}}"
            yield "nesting", rf"({answer})^2"
    for place in [match.start() for match in re.finditer(r"(?<=[\w})\s])[+-](?=[\s\w\\])", answer)]:
        yield "operator", answer[:place] + ("-" if answer[place] == "+" else "+") + answer[place + 1 :]
    for match in re.finditer(r"\d", answer):
        yield "digit", answer[: match.start()] + str((int(match[0]) + 1) % 10) + answer[match.end() :]
    if match := re.search(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", answer):
        swapped = rf"\frac{{{match[2]}}}{{{match[1]}}}"
        yield "operator", answer[: match.start()] + swapped + answer[match.end() :]
        product = rf"{match[1]} \cdot {match[2]}"
        if re.fullmatch(r"\d+", match[1]) and re.fullmatch(r"\d+", match[2]):
            yield "operator", answer[: match.start()] + product + answer[match.end() :]
    if r"\sqrt{" in answer:
        yield "nesting", answer.replace(r"\sqrt{", "{", 1)
        yield "nesting", answer.replace(r"\sqrt{", r"\sqrt[3]{", 1)
    if r"\pi" in answer:
        yield "symbol", answer.replace(r"\pi", "")
    if plain and (match := re.search(r"(?<![\\a-zA-Z{])([a-z])(?![a-zA-Z])", answer)) and match[1] not in "i":
        yield "symbol", answer.replace(match[1], "y" if match[1] != "y" else "z")
    if (found := parts(answer)) and found[0] not in ("", r"\{"):
        opening, elements, closing = found
        yield "order", opening + ",".join(reversed(elements)) + closing
        if len(elements) == 2 and "\\infty" not in answer:
            yield "nesting", {"(": "[", "[": "("}[opening] + ",".join(elements) + closing
        yield "dropped", opening + ",".join(elements[:-1]) + closing
    elif found:
        yield "dropped", found[0] + ",".join(found[1][:-1]) + found[2]
        yield "added", found[0] + ",".join([*found[1], "17"]) + found[2]
    if "pmatrix" in answer:
        rows = re.sub(r"\\(begin|end)\{pmatrix\}", "", answer).split(r"\\")
        yield "order", r"\begin{pmatrix}" + r" \\ ".join(reversed(rows)) + r"\end{pmatrix}"
    if match := re.fullmatch(r"\\text\{(\w+)\}", answer):
        yield "symbol", rf"\text{{not {match[1]}}}"
        yield "symbol", rf"\text{{{match[1][:-1]}}}"


def _same(one: str, other: str) -> bool:
    """Whether a change has changed nothing."""
    if re.sub(r"\s", "", one) == re.sub(r"\s", "", other):
        return True
    first, second = (parts(text) for text in (one, other))
    if first and second and (first[0], first[2]) == (second[0], second[2]):
        if first[0] in ("", r"\{"):
            return sorted(first[1]) == sorted(second[1])
        return len(first[1]) == len(second[1]) and all(
            a == b or _same(a, b) for a, b in zip(first[1], second[1], strict=True)
        )
    if re.fullmatch(r"-?0*\.?0+(\^.*)?", other) and re.fullmatch(r"[-(]*(\\sqrt)?[{(]*0+[})]*(\^2|\\pi|\^.*)?", one):
        return True
    left, right = value(one), value(other)
    if left is None or right is None:
        return False
    try:
        return bool(sympy.simplify(left - right) == 0)
    except Exception:
        return False
