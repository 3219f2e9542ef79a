"""Wordings by which a path leans on another one, or on something said before it that it cannot see. English only."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from mvjax.curator.checks.leads import PLACES, first_word, goes_on, lead
from mvjax.curator.checks.phrases import FORWARD, GIVEN, RULES, Rule
from mvjax.curator.checks.values import values_in
from mvjax.curator.checks.views import Sentence, View, content, distinctive, quotation, stem
from mvjax.curator.text import sentences

_BREAK = re.compile(r"[,;:.!?](?=\s|$)|\s[–—-]\s")
_OPERATION = re.compile(r"=|[-+*/×÷·^]\s*[$£€(]*\d")
_LIKE = frozenset(("similarly", "likewise", "analogously", "correspondingly", "same", "identical"))
_OPENING = frozenset(place for place, rule in enumerate(RULES) if rule.where == "opening")
_NAMED = frozenset(place for place, rule in enumerate(RULES) if rule.where == "named")
_WORDS = frozenset().union(*(rule.words for rule in RULES))
_TRIGGERS = {word: [place for place, rule in enumerate(RULES) if word in rule.words] for word in _WORDS}
"""Places of the rules that a word may make match."""


def references(view: View, siblings: Sequence[View], known: str) -> list[str]:
    """The words by which a path leans on a sibling or on what it cannot see, as quotations."""
    reader = _Reader(view, siblings, distinctive(view, siblings), f"{known}\n{view.goal}")
    return [words for sentence in view.spoken for words in reader.leaning(sentence)]


@dataclass(frozen=True)
class _Reader:
    """Reads the sentences of one path."""

    view: View
    siblings: Sequence[View]
    names: frozenset[str]
    """Words by which a sibling can be named."""
    known: str
    """What the path sees, its own goal included."""

    @cached_property
    def naming(self) -> frozenset[str]:
        """The words of the path whose stems are `names`."""
        words = frozenset().union(*(sentence.words for sentence in self.view.spoken))
        return frozenset(word for word in words if stem(word) in self.names)

    @cached_property
    def seen(self) -> str:
        """What the path sees, in small letters."""
        return self.known.lower()

    @cached_property
    def told(self) -> tuple[str, ...]:
        """The sentences of what the path sees, in small letters."""
        return tuple(said.lower() for said in sentences.split(self.known))

    @cached_property
    def statements(self) -> tuple[frozenset[str], ...]:
        """What those of them that are no questions are about."""
        return tuple(content(said) for said in self.told if "?" not in said)

    def leaning(self, sentence: Sentence) -> Iterator[str]:
        """The first words of a sentence that lean on a sibling, if any do."""
        opens = sentence.index <= self.view.opening
        for place in self.rules(sentence, opens):
            match = RULES[place].pattern.search(sentence.lowered)
            if match and self.leans(RULES[place], match, sentence, opens):
                yield quotation(sentence.text, match.start(), match.end())
                return
        if opens and (begin := lead(sentence.text)) and self.elsewhere(begin, sentence):
            start = sentence.text.find(begin)
            yield quotation(sentence.text, start, start + len(begin), words=0)

    def rules(self, sentence: Sentence, opens: bool) -> list[int]:
        """Places of the rules that may match."""
        found = {place for word in sentence.words & _WORDS for place in _TRIGGERS[word]}
        if opens:
            found |= _OPENING
        if opens or not self.naming.isdisjoint(sentence.words):
            found |= _NAMED
        return sorted(found)

    def leans(self, rule: Rule, match: re.Match, sentence: Sentence, opens: bool) -> bool:
        """Whether a match leans on a sibling where it is."""
        words = match[0].strip(" ,.:;")
        if (rule.where != "likeness" and " " in words and words in self.seen) or FORWARD.search(sentence.text):
            return False
        if rule.where == "opening":
            return opens
        if rule.where == "anywhere":
            return opens or not self.has_parts(match[0], sentence)
        clause = _clause(sentence.text, match.start())
        named = self.names_sibling(clause, match[0], sentence)
        if rule.where == "named":
            return named
        if rule.where == "pointer" and (GIVEN.search(sentence.text) or self.sees(clause, sentence)):
            return False
        return opens or named or (rule.where == "likeness" and self.closer(sentence))

    def names_sibling(self, clause: str, wording: str, sentence: Sentence) -> bool:
        """Whether a clause names a sibling: it has a word of a sibling's goal that no other sentence of the path has,
        it calculates nothing, and nothing that all paths see says it with the same wording."""
        about = content(clause) & self.names
        found = {word for word in about if self.view.mentions[word] == (word in sentence.content)}
        if not found or _OPERATION.search(clause):
            return False
        wording = wording.lower()
        return not any(wording in said and content(said) & found for said in self.told)

    def elsewhere(self, begin: str, sentence: Sentence) -> bool:
        """Whether what a path begins with is mere reasoning that goes on from something, or names a sibling."""
        if any(character.isdigit() for character in begin) or begin.lower().strip() in self.seen:
            return False
        if goes_on(begin, self.view.goal_content):
            return True
        if len(begin.split()) > 6 or first_word(begin) in PLACES or not self.names_sibling(begin, begin, sentence):
            return False
        about = content(begin)
        theirs, others = about & self.names, about - self.names
        return not any(theirs & content(said) and others & content(said) for said in self.told)

    def has_parts(self, words: str, sentence: Sentence) -> bool:
        """Whether the path has parts of its own that the words may mean."""
        if self.view.divided:
            return True
        noun = re.escape(words.split()[-1].removesuffix("s").removesuffix("e"))
        own = re.compile(
            rf"\b{noun}(?:e?s\b|e?\s+(?:\d|[ivx]+\b|[a-d]\b))|\b(?:one|first|either)\s+{noun}", re.IGNORECASE
        )
        return any(own.search(earlier.text) for earlier in self.view.spoken[: sentence.index])

    def sees(self, clause: str, sentence: Sentence) -> bool:
        """Whether the path has said itself, or sees, what a clause points at."""
        numbers = {value for value in values_in(clause) if value > 12}
        earlier = self.view.spoken[: sentence.index]
        if numbers and numbers & values_in("\n".join([self.seen, *(own.text for own in earlier)])):
            return True
        about = content(clause)
        return bool(about) and any(about <= words for words in self.statements)

    def closer(self, sentence: Sentence) -> bool:
        """Whether a sentence is worded more like a sibling's than like what the path itself said before."""
        theirs = max((_likeness(sentence, said) for other in self.siblings for said in other.spoken), default=0.0)
        if theirs < 0.5:
            return False
        mine = max((_likeness(sentence, said) for said in self.view.spoken[: sentence.index]), default=0.0)
        return theirs > mine + 0.2


def _clause(text: str, place: int) -> str:
    """The part of a sentence, between commas and the like, that has a place."""
    start = max((match.end() for match in _BREAK.finditer(text, 0, place)), default=0)
    end = _BREAK.search(text, place)
    return text[start : end.start() if end else len(text)]


def _likeness(sentence: Sentence, other: Sentence) -> float:
    """Share of the sentence's words that the other one has."""
    if not sentence.content or sentence.words & other.words & _LIKE:
        return 0.0
    return len(sentence.content & other.content) / len(sentence.content)
