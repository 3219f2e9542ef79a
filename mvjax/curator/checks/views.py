"""A path as the checks of independence read it: sentences, words, and what sets it apart from its siblings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import count, groupby
from typing import cast

from mvjax.curator.text import sentences
from mvjax.curator.text.transcript import Block, Body

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_PLAIN_WORD = re.compile(r"[a-z]+")
_HEADING = re.compile(r"[*#_]+[^.!?]{0,80}[.:]?[*_]*[.:]?|[^.!?=]{0,60}:")
_LETTERS = frozenset("BCDEFGHJKLMNOPQRSTUVWXYZbcdefghjklmnopqruvwxyz")
"""Letters that name something, wherever they occur."""
_NAME_A = re.compile(r"[a-z] A\b")
_STOP = frozenset(
    """the and for are was were has have had been being this that these those there here with from into onto over
    under than then them they their its his hers her she you our ours your yours who whom which what when where
    why how not but nor yet all any each every both few more most some such only own same too very can could will
    would shall should may might must let lets one two three four five six seven eight nine ten does did done
    doing get gets got give gives given giving make makes made take takes taken use uses used using find finds
    found finding compute computes computed calculate calculates calculated determine determines determined
    evaluate value values result results number numbers many much case cases part parts path paths step steps
    above below before after again also now next just already earlier previously similarly likewise because since
    therefore thus hence between about out off per equal equals total answer answers problem question follow
    follows following first second third last other others know known need needs want wants show shows shown
    verify check examine consider apply solve establish derive count analyze analyse work prove identify list
    estimate express simplify substitute convert compare describe obtain choose write plan test look decide handle
    treat expand factor state confirm complete calculation computation""".split()  # noqa: SIM905
)
"""Words that say nothing of the problem."""


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """A word without its possessive or plural ending, in small letters."""
    word = re.sub(r"['’]s?$", "", word.lower())
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def content(text: str) -> frozenset[str]:
    """Stems of the words that say what a text is about."""
    words = {
        stem(word) for word in _WORD.findall(text) if word.lower() not in _STOP and (len(word) > 2 or word in _LETTERS)
    }
    return frozenset(words | {"a"} if " A" in text and _NAME_A.search(text) else words)


@dataclass(frozen=True)
class Sentence:
    """One sentence of a path."""

    text: str
    index: int
    """Its place among those that the path says itself, from 0; -1: a path of a nested block says it."""

    @cached_property
    def lowered(self) -> str:
        """The text in small letters, each in its place."""
        lowered = self.text.lower()
        if len(lowered) == len(self.text):
            return lowered
        return "".join(small if len(small := letter.lower()) == 1 else letter for letter in self.text)

    @cached_property
    def words(self) -> frozenset[str]:
        """All runs of Latin letters, in small letters."""
        return frozenset(_PLAIN_WORD.findall(self.lowered))

    @cached_property
    def stems(self) -> frozenset[str]:
        """Stems of `words`."""
        return frozenset(map(stem, self.words))

    @cached_property
    def content(self) -> frozenset[str]:
        """Stems of the words that say what the sentence is about."""
        return content(self.text)


@dataclass(frozen=True)
class View:
    """One path of a block."""

    number: int
    """From 1."""
    goal: str
    sentences: tuple[Sentence, ...]
    """All that it says, nested blocks included, in order."""
    divided: bool
    """Whether it holds a block."""

    @cached_property
    def text(self) -> str:
        """All that it says, a sentence a line."""
        return "\n".join(sentence.text for sentence in self.sentences)

    @cached_property
    def spoken(self) -> tuple[Sentence, ...]:
        """What it says itself: its lines and the conclusions of its blocks, not what their paths say."""
        return tuple(sentence for sentence in self.sentences if sentence.index >= 0)

    @cached_property
    def goal_content(self) -> frozenset[str]:
        """Stems of the words that say what the goal is about."""
        return content(self.goal)

    @cached_property
    def mentions(self) -> Counter[str]:
        """In how many of the sentences that it says itself each stem occurs."""
        return Counter(word for sentence in self.spoken for word in sentence.content)

    @cached_property
    def opening(self) -> int:
        """Place of the last sentence that opens the path: a heading, or a word or two, opens it with the one after."""
        first = self.spoken[0].text if self.spoken else ""
        return int(bool(_HEADING.fullmatch(first)) or (0 < len(first.split()) <= 3 and not re.search(r"\d", first)))


def views(block: Block) -> tuple[View, ...]:
    """The paths of a block."""
    made = []
    for number, path in enumerate(block.paths, 1):
        divided = any(isinstance(entry, Block) for entry in path.body)
        made.append(View(number, path.goal, tuple(_sentences(path.body)), divided))
    return tuple(made)


def distinctive(view: View, siblings: Sequence[View]) -> frozenset[str]:
    """Stems in the siblings' goals that are not in the path's own goal: words by which a sibling can be named."""
    theirs = frozenset().union(*(sibling.goal_content for sibling in siblings))
    return theirs - view.goal_content


def all_lines(body: Body) -> Iterator[str]:
    """Every text in a body: lines, goals, paths and conclusions of nested blocks."""
    for entry in body:
        if isinstance(entry, str):
            yield entry
        else:
            yield from (path.goal for path in entry.paths)
            for path in entry.paths:
                yield from all_lines(path.body)
            yield entry.conclusion


def quotation(text: str, start: int, end: int, words: int = 5) -> str:
    """The words at a place of a text, with a few around them, in one line."""
    before, after = text[:start].split(), text[end:].split()
    shown = [*before[max(0, len(before) - words) :], *text[start:end].split(), *after[:words]]
    left, right = ("... " if len(before) > words else "", " ..." if len(after) > words else "")
    return f'"{left}{" ".join(shown)}{right}"'


def _sentences(body: Body) -> Iterator[Sentence]:
    index = count()
    for is_line, entries in groupby(body, lambda entry: isinstance(entry, str)):
        if is_line:
            yield from (Sentence(said, next(index)) for said in _split(cast(Iterable[str], entries)))
            continue
        for block in cast(Iterable[Block], entries):
            inside = all_lines(tuple(line for path in block.paths for line in (path.goal, *path.body)))
            yield from (Sentence(said, -1) for said in _split(inside))
            yield from (Sentence(said, next(index)) for said in _split((block.conclusion,)))


def _split(lines: Iterable[str]) -> list[str]:
    return [said for sentence in sentences.split("\n".join(lines)) if (said := " ".join(sentence.split()))]
