"""A path as the checks of independence read it: sentences, words, and what sets it apart from its siblings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from mvjax.curator import sentences
from mvjax.curator.transcript import Block, Body

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_HEADING = re.compile(r"[*#_]+[^.!?]{0,80}[.:]?[*_]*[.:]?|[^.!?=]{0,60}:")
_LETTERS = frozenset("BCDEFGHJKLMNOPQRSTUVWXYZbcdefghjklmnopqruvwxyz")
"""Letters that name something, wherever they stand."""
_NAME_A = re.compile(r"[a-z] A\b")
_STOP = frozenset(
    """the and for are was were has have had been being this that these those there here with from into onto over under
    than then them they their its his her hers she you our ours your yours who whom which what when where why how not
    but nor yet all any each every both few more most some such only own same too very can could will would shall should
    may might must let lets one two three four five six seven eight nine ten does did done doing get gets got give gives
    given giving make makes made take takes taken use uses used using find finds found finding compute computes computed
    calculate calculates calculated determine determines determined evaluate value values result results number numbers
    many much case cases part parts path paths step steps above below before after again also now next just already
    earlier previously similarly likewise because since therefore thus hence about between out off per equal equals
    total answer answers problem question follow follows following first second third last other others know known
    need needs want wants show shows shown determine verify check examine consider apply solve establish derive count
    analyze analyse work prove identify list estimate express simplify substitute convert compare describe obtain choose
    write plan test look decide handle treat expand factor state confirm complete calculation computation finding""".split()  # noqa: SIM905
)


def stem(word: str) -> str:
    """A word without its possessive or plural ending, in small letters."""
    word = re.sub(r"['’]s?$", "", word.lower())
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    return word


@dataclass(frozen=True)
class Sentence:
    """One sentence of a path."""

    text: str
    index: int
    """Its place in the path, from 0."""

    @cached_property
    def words(self) -> frozenset[str]:
        """All words, in small letters."""
        return frozenset(word.lower() for word in _WORD.findall(self.text))

    @cached_property
    def content(self) -> frozenset[str]:
        """Stems of the words that say what the sentence is about."""
        return content(self.text)


def content(text: str) -> frozenset[str]:
    """Stems of a text's words that say what it is about."""
    words = {stem(word) for word in _WORD.findall(text) if word.lower() not in _STOP and (len(word) > 2 or word in _LETTERS)}
    return frozenset(words | {"a"} if " A" in text and _NAME_A.search(text) else words)


@dataclass(frozen=True)
class View:
    """One path of a block."""

    number: int
    """From 1."""
    goal: str
    text: str
    """All that it says, nested blocks included."""
    spoken: tuple[Sentence, ...]
    """Sentences that it says itself: its lines and the conclusions of its blocks, not what their paths say."""
    divided: bool
    """Whether it holds a block."""

    @cached_property
    def goal_content(self) -> frozenset[str]:
        """Stems of the goal's words."""
        return content(self.goal)

    @cached_property
    def opening(self) -> int:
        """Place of the last sentence that opens the path: a heading, or a word or two, opens it with the sentence after."""
        first = self.spoken[0].text if self.spoken else ""
        return int(bool(_HEADING.fullmatch(first)) or (0 < len(first.split()) <= 3 and not re.search(r"\d", first)))

    def before(self, sentence: Sentence) -> tuple[Sentence, ...]:
        """The sentences before one of its own."""
        return self.spoken[: sentence.index]


def views(block: Block) -> tuple[View, ...]:
    """The paths of a block."""
    return tuple(
        View(
            number,
            path.goal,
            "\n".join(all_lines(path.body)),
            tuple(_spoken(path.body)),
            any(isinstance(entry, Block) for entry in path.body),
        )
        for number, path in enumerate(block.paths, 1)
    )


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


def _spoken(body: Body) -> Iterator[Sentence]:
    index = 0
    for entry in body:
        for text in sentences.split(entry if isinstance(entry, str) else entry.conclusion):
            if text.strip():
                yield Sentence(text.strip(), index)
                index += 1


def distinctive(view: View, siblings: Sequence[View]) -> frozenset[str]:
    """Stems in the siblings' goals that are not in the path's own goal: words by which a sibling can be named."""
    theirs = frozenset().union(*(sibling.goal_content for sibling in siblings))
    return theirs - view.goal_content
