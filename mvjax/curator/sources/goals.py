"""Goals: from the sentence that finds a result, what is to be found, without the result."""

from __future__ import annotations

import re
from collections.abc import Set
from fractions import Fraction

from mvjax.curator.sources.solution import Sentence
from mvjax.curator.text.arithmetic import NUMBER, numbers_in, parse_number

_ANNOTATION = re.compile(r"<<([^<>]*)>>")
_LITERAL = re.compile(rf"\s*\$?\s*(?:{NUMBER.pattern})(?:/\d+)?(?:\s*%)?")
_TRAILING = re.compile(r"[\s\d.,$+*/x×X÷()=%−–-]+$")
_CONNECTIVE = re.compile(
    r"^(?:(?:so|thus|therefore|hence|then|next|also|and|but|firstly|secondly|thirdly|(?:first|second|third)(?=,)|"
    r"finally|lastly|now|meanwhile|in addition|additionally|after that|afterwards?|on the other hand|step \d+:?|"
    r"we know(?: that)?|we can (?:see|calculate)(?: that)?|(?:this|that|it) means(?: that)?)\b[\s,:]*)+",
    re.IGNORECASE,
)
"""Words at the head of a sentence that tie it to the one before it."""
_CLAUSE = re.compile(
    r"^(?:if|since|because|as|when|while|given|knowing|considering|out of|of the)\b[^,]*(?:,[^,]*)*?,\s+(?:then |so )?",
    re.IGNORECASE,
)
"""A subordinate clause at the head of a sentence."""
_COPULA = re.compile(r"\s+(?:is|are|was|were|equals|will be|would be|comes to|come to|amounts? to)$", re.IGNORECASE)
_NAMED = re.compile(r"^(?:(?:the|his|her|their|its|each|one|total|a|an)\s|\w+(?:'s|’s|s'|s’)\s)", re.IGNORECASE)
_VAGUE = re.compile(r"^(?:he|she|they|there|this|that|we|you|i|his|her|their)\b|\b(?:it|its|them)\b", re.IGNORECASE)
"""A clause that does not say whom or what it is about."""
_NO_NOUN = frozenset(
    """of in for on at by per after before each left more less fewer and or to from with when a an the is are was were
    will would that which who because since if so total altogether every during this as he she they it his her their its
    than remaining away over also being have has had can must""".split()  # noqa: SIM905
)
"""Words that end the name of what is counted."""
_SO = re.compile(r"(?:,? so that|,? so|,? because|, and|;)\s+", re.IGNORECASE)
_FRAGMENT = re.compile(
    r"(?:which|who|leaving|or|making|for a|giving|with|a total|because|costing|totaling)\b", re.IGNORECASE
)
"""Beginnings that are no sentence by themselves."""
_LOWER = frozenset(("the", "his", "her", "their", "its", "a", "an", "each", "total", "one"))
"""Words that lose their capital inside a sentence."""


def standing_alone(text: str) -> str:
    """A sentence without the words that tie it to the one before it."""
    return capital(_CONNECTIVE.sub("", text, count=1))


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def goals(sentence: Sentence, barred: Set[Fraction], limit: int = 24) -> list[str]:
    """What the sentence finds, as short lines, the best first; none where the sentence cannot be cut so.

    Args:
      sentence: its last annotated calculation gives the result.
      barred: values that a goal must not mention.
      limit: most words of a goal.
    """
    fit = (text for text in _candidates(sentence) if len(text.split()) <= limit and not numbers_in(text) & barred)
    return list(dict.fromkeys(fit))


def result_phrase(sentence: Sentence) -> str:
    """The sentence's result with its currency or noun, such as "$14" or "46 legs"."""
    left, right, expression = _split(sentence)
    if expression is None:
        last = sentence.calculations[-1]
        return last.written.strip()
    literal = _LITERAL.match(right)
    value = (literal[0] if literal else sentence.calculations[-1].written).strip().replace(" ", "")
    if left.rstrip().endswith("$") and not value.startswith("$"):
        value = f"${value}"
    noun = [] if value.startswith("$") or not literal else _noun(right[literal.end() :])
    return " ".join([value, *noun])


def _split(sentence: Sentence) -> tuple[str, str, str | None]:
    """Text left and right of the last annotation, and the annotation's calculation."""
    matches = list(_ANNOTATION.finditer(sentence.raw))
    if not matches:
        return sentence.text, "", None
    last = matches[-1]
    left = _ANNOTATION.sub("", sentence.raw[: last.start()])
    return " ".join(left.split()), " ".join(sentence.raw[last.end() :].split()), last[1].rsplit("=", 1)[0]


def _candidates(sentence: Sentence):
    left, right, expression = _split(sentence)
    if expression is None:
        return
    literal = _LITERAL.match(right)
    tail = right[literal.end() :] if literal else right
    money = left.endswith("$") or right.startswith("$")
    percent = bool(literal and literal[0].rstrip().endswith("%"))
    before = left.rstrip("$ ")
    shown = before.endswith("=")
    if shown:
        before = _without_expression(before.rstrip("= "), expression)
    named = before.rstrip(" $(")[-1:] in ("=", ":")
    before = before.rstrip(" =$(:,")
    noun = _noun(tail)
    tail = re.split(r"[,;:!?(]|[.](?=\s|$)|\b(?:because|since|so|which|leaving|but)\b", tail)[0].strip()
    tail = re.sub(r"\s[-+*/=×÷–].*|[=*×÷].*", "", tail).strip()
    clean = standing_alone(before)
    asked = "how much" if money else "what percent" if percent else "how many" if noun else "how much"
    stated = re.match(r"(.*?)\b(?:because|since|as)$", clean)
    if stated:
        # "The record is 1,148 because 287 x 4 = 1,148": the result comes first.
        for number in NUMBER.finditer(stated[1]):
            if parse_number(number[0]) == sentence.calculations[-1].value:
                start, rest = stated[1][: number.start()], stated[1][number.end() :]
                asked = "how much" if start.endswith("$") else "how many" if _noun(rest) else "how much"
                yield _joined(start.rstrip(" $"), asked, rest.strip(" %,"))
    else:
        for start in _starts(clean):
            yield f"{start} = {asked} {tail}".rstrip() + "?" if named else _joined(start, asked, tail)
    if shown and not named:
        yield f"{asked.capitalize()} {' '.join([*noun, 'is'])} {expression.strip()}?"


def _starts(clean: str) -> list[str]:
    """Beginnings of a goal, cut out of what comes before the calculation: short ones that name their subject first."""
    clause = standing_alone(_CLAUSE.sub("", clean, count=1))
    after_so = standing_alone(_SO.split(clean)[-1])
    after_comma = standing_alone(clean.rsplit(", ", 1)[-1])
    named = [text for text in (after_so, clause) if len(text.split()) > 1 and not _VAGUE.search(text)]
    starts = [*named, clean, clause, after_so, after_comma]
    return [text for text in starts if text and not _FRAGMENT.match(text)]


def _joined(start: str, asked: str, tail: str) -> str:
    copula = _COPULA.search(start)
    if copula and not tail and len(start.split()) > 2 and _NAMED.match(start):
        first, rest = start[: copula.start()].split(" ", 1)
        return f"Find {first.lower() if first.lower() in _LOWER else first} {rest}."
    return f"{capital(start)} {asked} {tail}".rstrip() + "?"


def _without_expression(text: str, expression: str) -> str:
    """Cut the calculation that the text ends with: from the first operand of the last run that has them in order."""
    operands = [parse_number(match[0]) for match in NUMBER.finditer(expression)]
    places = [(match.start(), parse_number(match[0])) for match in NUMBER.finditer(text)]
    values = [value for _, value in places]
    for first in range(len(values) - len(operands), -1, -1):
        if operands and values[first : first + len(operands)] == operands:
            text = text[: places[first][0]].rstrip(" $(")
            # "She paid 1/3 * 30 = 30 / 3 = $10": an earlier form of the same calculation goes too.
            return _TRAILING.sub("", text) if re.search(r"[\d)]\s*=$", text) else text
    return _TRAILING.sub("", text)


def _noun(tail: str) -> list[str]:
    """Up to three words that name what is counted."""
    words = []
    found = re.match(r"(?:[\sA-Za-z'-]|[.](?=[a-z]))*", tail)
    for word in (found[0] if found else "").split()[:3]:
        if word.lower() in _NO_NOUN or not tail[:1].isspace():
            break
        words.append(word)
    return words
