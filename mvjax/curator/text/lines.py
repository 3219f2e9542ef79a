"""Reading texts line by line, no line twice: what comes before a block comes before all later ones too."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar

T = TypeVar("T")
LINES, LONGEST = 8192, 2000
"""The most lines that each reader remembers, and the most characters of one."""


def by_line(read: Callable[[str], frozenset[T]]) -> Callable[[str], frozenset[T]]:
    """A reader of texts, made of a reader of lines: it finds what `read` finds in any of a text's lines."""
    remembered = lru_cache(maxsize=LINES)(read)

    @wraps(read)
    def whole(text: str) -> frozenset[T]:
        lines = text.split("\n")
        found = [remembered(line) if len(line) <= LONGEST else read(line) for line in lines]
        return found[0].union(*found[1:])

    return whole
