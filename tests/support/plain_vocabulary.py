"""A tokenizer for vocabularies of tests: a table of bytes, with the tables of `VocabularyTables` made from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mvjax.language.tags import TAGS
from mvjax.tokenizers.tables import VocabularyTables


class PlainVocabulary:
    """Ids 0 to 11 are the control tags; the others are the pieces given, "\\n", ":" and "." among them."""

    def __init__(self, pieces: Sequence[bytes], eos_ids: Sequence[int] = ()):
        self.pieces = [*(tag.encode() for tag in TAGS), *pieces]
        self.eos_ids = tuple(eos_ids)

    def token_bytes(self, token: int) -> bytes:
        return self.pieces[token]

    def decode(self, tokens: Iterable[int]) -> str:
        return b"".join(self.pieces[token] for token in tokens).decode("utf-8", errors="replace")

    def id_of(self, piece: bytes) -> int:
        return self.pieces.index(piece)

    def spelt(self, text: str) -> list[int]:
        """Ids of a text: the one that is all of it, else letter by letter."""
        if text.encode() in self.pieces:
            return [self.id_of(text.encode())]
        return [self.id_of(letter.encode()) for letter in text]

    def tables(self) -> VocabularyTables:
        return VocabularyTables(
            codes=np.array([n if n < len(TAGS) else -1 for n in range(len(self.pieces))], np.int8),
            colon=np.array([b":" in piece for piece in self.pieces]),
            newline=np.array([b"\n" in piece for piece in self.pieces]),
            separator_id=self.pieces.index(b"\n"),
            colon_id=self.pieces.index(b":"),
            dot_id=self.pieces.index(b"."),
            number_ids=(),
            tag_ids=tuple(range(len(TAGS))),
            eos_ids=self.eos_ids,
        )
