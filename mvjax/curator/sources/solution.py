"""Reading a GSM8K solution: sentences, their calculations, and which earlier results each sentence uses.

The solutions of GSM8K (arXiv 2110.14168) carry their calculations as `<<48/2=24>>24`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from dataclasses import dataclass
from fractions import Fraction

from mvjax.curator.text.arithmetic import NUMBER, agrees, evaluate, numbers_in

_ANNOTATION = re.compile(r"<<([^<>]*)>>")
_RESULT = re.compile(rf"\s*\$?\s*({NUMBER.pattern})%?")
# Possessive throughout: where a word may belong to several parts of a pattern, backtracking would take for ever.
_AMOUNT = rf"\$?+\s*+(?>{NUMBER.pattern})(?:\s*+%)?+"
_UNIT = r"(?:\s*+(?![xX]\b)[A-Za-z][A-Za-z.'’]*+(?:/[A-Za-z]++)?+){0,3}+"
_TERM = rf"\(*+{_AMOUNT}{_UNIT}\)*+\s*+"
_WRITTEN = re.compile(rf"(?=[\d$(.])((?:{_TERM}(?:[-+*/×÷xX−–]\s*+|(?=\()))++{_TERM})=\s*+({_AMOUNT}(?:/\d++)?+)")
"""A calculation that is in the text, with up to three words after each number: 3 cups * 2 = 6."""
_JOINED_BEFORE = re.compile(
    r"(?:[-+*/×÷=.,(\d%]|(?:\d|%|half|thirds?|quarters?|fifths?)\s+of|\b(?:x|times|per)|/\w+)\s*\$?\(*$", re.IGNORECASE
)
_JOINED_AFTER = re.compile(r"\s*(?:[-+*/×÷^(]|x\s*\d|\d|[.,]\d)", re.IGNORECASE)
_VARIABLE = re.compile(
    r"(?<![\w'’])\d*[A-WYZa-wyz](?![\w'’])\s*[=+*/]|[=+*/]\s*\d*[A-WYZa-wyz](?![\w'’.])"
    r"|\b\d+[xX]\b(?!\s*[\d$(.])|\b[xX]\s*[=+\-)]|[=(]\s*[xX]\b|\b[Ll]et [A-Za-z]\b"
)
"""Algebra: a single letter beside an operator, 3x, "let x be"; an x between numbers means times."""
_BACK = re.compile(
    r"^(?:so|thus|therefore|hence|then|that|this|these|those|they|it|its|their|each|similarly|likewise|which|now|"
    r"altogether|the (?:rest|remaining|other|total|difference|combined)|in (?:total|all)|all|both|combined|together|"
    r"afterwards?|after (?:that|this)|finally|if so)\b"
    r"|\b(?:the rest|the remaining|the remainder|the others?|another|similarly|likewise|the same|the former|"
    r"the latter|as well|this (?:means|is)|that (?:means|is)|those|these|twice that|"
    r"(?:that|this) (?:amount|number|many|much)|already|so far)\b",
    re.IGNORECASE,
)
"""Words that lean on the sentence before."""
_BACK_ALL = re.compile(
    r"\b(?:the rest|remaining|remainder|those|these|the others?|both|all (?:of them|three|four|five)|left over)\b",
    re.IGNORECASE,
)
"""Words that may lean on several sentences before."""


class Rejected(ValueError):
    """A problem that the curator leaves out. `reason` is a short, countable class; `detail` says where."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Calculation:
    """One annotated calculation of a sentence."""

    expression: str
    """Left of the equals sign."""
    written: str
    """The result as written."""
    value: Fraction
    """The result."""


@dataclass(frozen=True)
class Sentence:
    """One line of a solution."""

    raw: str
    """With annotations."""
    text: str
    """Without them, with a full stop."""
    calculations: tuple[Calculation, ...]
    """Verified by recomputing."""


@dataclass(frozen=True)
class Step:
    """A sentence that computes something, with the sentences before it that do not; or the sentences at the end."""

    sentences: tuple[Sentence, ...]
    """In the order of the solution; the last one computes."""
    results: frozenset[Fraction]
    """What later steps may use."""
    uses: frozenset[Fraction]
    """Every value that the text mentions other than as its own result."""
    refers_back: bool
    """Whether its wording leans on the sentence before it ("So", "this", ...)."""
    refers_to_all: bool
    """Whether its wording may lean on several before it ("the rest", "those", ...)."""


def read_sentence(raw: str) -> Sentence:
    """Parse and verify one line.

    Raises:
      Rejected: a wrong calculation, one that cannot be recomputed, or algebra.
    """
    raw = _annotate(raw.strip())
    text = " ".join(_ANNOTATION.sub("", raw).split())
    if _VARIABLE.search(text):
        raise Rejected("uses a variable", text)
    calculations = tuple(_annotated(match[1], raw, match) for match in _ANNOTATION.finditer(raw))
    if not calculations and "=" in text:
        raise Rejected("a calculation that cannot be read", text)
    for expression, written in _written(text):
        if not agrees(evaluate(expression), written):
            raise Rejected("wrong arithmetic", f"{expression} = {written}")
    return Sentence(raw, text if text.endswith((".", "!", "?", ":")) else f"{text.rstrip(' ,;')}.", calculations)


def _annotate(raw: str) -> str:
    """Annotate the calculations of a sentence that has them in its text only."""
    hidden = _ANNOTATION.sub(lambda match: "\0" * len(match[0]), raw)
    for match in reversed(list(_whole(hidden))):
        expression = _without_units(match[1])
        raw = f"{raw[: match.start(2)]}<<{expression}={match[2].strip()}>>{raw[match.start(2) :]}"
    return raw


def _annotated(content: str, raw: str, match: re.Match) -> Calculation:
    *left, written = content.split("=")
    try:
        value = evaluate(written)
        if not left:
            raise ValueError("no equals sign")
        for expression in left:
            if not agrees(evaluate(expression), written):
                raise Rejected("wrong arithmetic", f"<<{content}>>")
    except ValueError as error:
        if isinstance(error, Rejected):
            raise
        raise Rejected("a calculation that cannot be read", f"<<{content}>>") from error
    after = _RESULT.match(raw, match.end())
    if after and evaluate(after[1]) not in (value, value * 100) and "/" not in raw[match.end() : match.end() + 8]:
        raise Rejected("the text states another result", f"<<{content}>>{after[0]}")
    if not re.search(r"[-+*/x×÷^%(]", left[0].strip()[1:]) and evaluate(left[0]) == value:
        # <<5=5>> recomputes nothing; it is taken where the sentence itself has the calculation.
        shown = [expression for expression, result in _written(_ANNOTATION.sub("", raw)) if evaluate(result) == value]
        if not shown:
            raise Rejected("a result without its calculation", f"<<{content}>>")
        return Calculation(shown[-1], written, value)
    return Calculation(left[0], written, value)


def _written(text: str) -> list[tuple[str, str]]:
    """Calculations that are in the text itself, with their results."""
    return [(_without_units(match[1]), match[2]) for match in _whole(text)]


def _whole(text: str) -> Iterator[re.Match]:
    """Matches of calculations that can be read and are not cut out of a longer one."""
    for match in _WRITTEN.finditer(text):
        if _JOINED_BEFORE.search(text, 0, match.start()) or _JOINED_AFTER.match(text, match.end()):
            continue
        try:
            evaluate(_without_units(match[1]))
        except ValueError:
            continue
        yield match


def _without_units(expression: str) -> str:
    return " ".join(re.sub(r"(?![xX]\b)[A-Za-z][A-Za-z.'’-]*(?:/[A-Za-z]+)?", "", expression).split())


def read_steps(solution: str, question: str) -> list[Step]:
    """The steps of a solution (without its `####` line).

    A sentence without a calculation belongs to the step after it; those at the end are a step of their own. A number
    that such a sentence introduces (not in the question) counts as a result.

    Raises:
      Rejected: see read_sentence; or no calculation at all.
    """
    given = numbers_in(question)
    steps: list[Step] = []
    waiting: list[Sentence] = []
    for raw in filter(str.strip, solution.splitlines()):
        sentence = read_sentence(raw)
        waiting.append(sentence)
        if sentence.calculations:
            steps.append(_step(waiting, given))
            waiting = []
    if not steps:
        raise Rejected("no calculation", solution[:60])
    if waiting:
        # What follows the last calculation stays apart from it: it may compare results of several steps.
        steps.append(_step(waiting, given))
    return steps


def _step(sentences: list[Sentence], given: Set[Fraction]) -> Step:
    results: set[Fraction] = set()
    uses: set[Fraction] = set()
    for sentence in sentences:
        own = {calculation.value for calculation in sentence.calculations}
        for calculation in sentence.calculations:
            uses |= numbers_in(calculation.expression)
        rest = _ANNOTATION.sub(" \0", sentence.raw)
        rest = re.sub(r"\0\s*\$?[\d.,/]*\d%?", " ", rest).replace("\0", " ")
        mentioned = numbers_in(rest) - own
        if not sentence.calculations:
            results |= mentioned - given
        uses |= mentioned
        results |= own
        results |= {evaluate(c.written.replace("%", "")) / 100 for c in sentence.calculations if "%" in rest}
    first = sentences[0].text
    return Step(
        tuple(sentences),
        frozenset(results),
        frozenset(uses),
        refers_back=bool(_BACK.search(first)),
        refers_to_all=any(_BACK_ALL.search(sentence.text) for sentence in sentences),
    )


def dependencies(steps: list[Step], question: str) -> tuple[list[set[int]], list[set[int]]]:
    """For each step the earlier steps that it needs: (on any reading, for certain).

    A value that is in the question as well, or that several earlier steps have produced, may or may not come from
    each of them: such an edge is in the first graph only. The last step needs all others (it gives the answer).
    """
    given = numbers_in(question)
    possible: list[set[int]] = []
    certain: list[set[int]] = []
    for number, step in enumerate(steps):
        maybe: set[int] = set()
        surely: set[int] = set()
        for value in step.uses:
            producers = [earlier for earlier in range(number) if value in steps[earlier].results]
            maybe.update(producers)
            if len(producers) == 1 and value not in given and value not in step.results:
                surely.add(producers[0])
        if step.refers_back and number:
            maybe.add(number - 1)
            surely.add(number - 1)
        if number == len(steps) - 1 or step.refers_to_all:
            maybe.update(range(number))
            surely.update(range(number))
        possible.append(maybe)
        certain.append(surely)
    return possible, certain
