"""Branches that come as text, by address, as something that the live tree can draw."""

from __future__ import annotations

import re

from mvjax.display.live_tree import LiveTree, SegmentTokens
from mvjax.language.tags import TAGS

TAG = re.compile("(" + "|".join(map(re.escape, TAGS)) + ")")


class BranchTexts:
    """Takes the events of branches (`delta.branch` of a chat's stream). Pieces of text stand in for tokens.

    Attributes:
        tokens: what `LiveTree.render` draws.
    """

    def __init__(self):
        self.tokens = SegmentTokens()
        self._pieces = list(TAGS)
        self._numbers = {"": 0}

    def add(self, address: str, event: str, text: str) -> None:
        """An event. Paths of a block start in order, so that their numbers rise."""
        number = self._numbers.setdefault(address, len(self._numbers))
        parent = self._numbers.get(address.rpartition("/")[0], 0) if address else -1
        if event == "start":
            self.tokens.add(number, parent, [])
        if text:
            self.tokens.add(number, parent, [self._token(piece) for piece in TAG.split(text) if piece])

    def view(self, width: int) -> LiveTree:
        """What draws them, this number of columns wide."""
        return LiveTree(self._text, lambda token: token if token < len(TAGS) else None, width)

    def _token(self, piece: str) -> int:
        if piece in TAGS:
            return TAGS.index(piece)
        self._pieces.append(piece)
        return len(self._pieces) - 1

    def _text(self, tokens: list[int]) -> str:
        return "".join(self._pieces[token] for token in tokens)
