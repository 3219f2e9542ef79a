"""Random transcripts: nested blocks of every legal shape, as string tokens in which the tags stand alone.

`transcripts()` is a hypothesis strategy; `random_transcript(random.Random(seed).randint)` needs no hypothesis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from mvjax.language.tags import TAGS, TEXT

WORDS = ("alpha", "beta", "gamma", "delta", "eps", "zeta")


@dataclass(frozen=True)
class TreeConfig:
    """How large and how wild the transcripts are."""

    max_depth: int = 3
    """Nesting of blocks; 0: none."""
    max_paths: int = 4
    max_blocks: int = 2
    """Blocks in one body."""
    max_words: int = 4
    """Words in a piece of text."""
    merged_labels: bool = True
    """Whether a label and its ":" may be one token, "1:"."""
    engine_output: bool = False
    """Also what only an engine makes: abandoned and cancelled blocks, outlines without labels, text in the map, and
    labels that hold blanks."""


def random_transcript(choose: Callable[[int, int], int], config: TreeConfig = TreeConfig()) -> list[str]:
    """The tokens of one response; `choose(low, high)` picks an integer, both ends included."""
    writer = _Writer(choose, config)
    if choose(0, 1):
        writer.tag("<Think>")
        writer.body("", 0)
        writer.tag("</Think>")
    writer.body("", 0)
    return writer.tokens


@st.composite
def transcripts(draw, config: TreeConfig = TreeConfig()) -> list[str]:
    """Strategy for `random_transcript`."""
    return random_transcript(lambda low, high: draw(st.integers(low, high)), config)


def token_facts(tokens: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes int8[T], colons bool[T] and separators bool[T] of string tokens."""
    codes_T = np.array([TAGS.index(token) if token in TAGS else TEXT for token in tokens], np.int8)
    colon_T = np.array([":" in token for token in tokens], bool)
    return codes_T, colon_T, np.array([token == "\n" for token in tokens], bool)


class _Writer:
    def __init__(self, choose: Callable[[int, int], int], config: TreeConfig):
        self.choose, self.config, self.tokens = choose, config, []

    def tag(self, tag: str) -> None:
        self.tokens += [tag, "\n"]

    def line(self) -> None:
        n_words = self.choose(1, self.config.max_words)
        self.tokens += [" " + WORDS[self.choose(0, len(WORDS) - 1)] for _ in range(n_words)] + ["\n"]

    def loose(self) -> bool:
        """Whether to do here what only an engine does."""
        return self.config.engine_output and self.choose(0, 3) == 0

    def head(self, label: str) -> None:
        if self.loose():
            pieces = ("1 ", "a", " ", "\t", "2.", " b", "\r")
            self.tokens += [*(pieces[self.choose(0, 6)] for _ in range(self.choose(0, 4))), ":"]
            return
        if self.config.merged_labels and self.choose(0, 1):
            self.tokens.append(f"{label}:")
        else:
            self.tokens += [*label, ":"]

    def body(self, label: str, depth: int) -> None:
        n_blocks = self.choose(0, self.config.max_blocks) if depth < self.config.max_depth else 0
        for _ in range(n_blocks):
            if self.choose(0, 1):
                self.line()
            self.block(label, depth)
        if self.choose(0, 1) or not n_blocks:
            self.line()

    def block(self, label: str, depth: int) -> None:
        prefix = f"{label}." if label else ""
        n_outlines = self.choose(1, self.config.max_paths)
        n_paths = n_outlines
        self.tag("<Parallel>")
        if self.loose():
            if self.choose(0, 1):  # no map at all
                return self.tag("</Parallel>")
            n_paths = self.choose(0, n_outlines)
            n_outlines = max(n_paths, self.choose(0, n_outlines))
        self.tag("<Goal>")
        for k in range(1, n_outlines + 1):
            if self.loose():
                self.line()
            self.tag("<Outline>")
            if not self.loose():
                self.head(f"{prefix}{k}")
            self.line()
            self.tag("</Outline>")
        self.tag("</Goal>")
        for k in range(1, n_paths + 1):
            self.tag("<Path>")
            self.head(f"{prefix}{k}")
            self.body(f"{prefix}{k}", depth + 1)
            self.tag("</Path>")
        if n_paths:
            self.tag("<Conclusion>")
            self.line()
            self.tag("</Conclusion>")
            if self.loose():
                self.line()
        self.tag("</Parallel>")
