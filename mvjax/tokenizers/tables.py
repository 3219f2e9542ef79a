"""What the interpreter must know about a vocabulary, as arrays: no text is ever decoded while generating."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int8


@dataclass(frozen=True)
class VocabularyTables:
    """Lookups over the ids of a vocabulary of V tokens."""

    codes: Int8[np.ndarray, " V"]
    """Ordinal of the control tag that the token is, or -1."""
    colon: Bool[np.ndarray, " V"]
    """The token's text contains ":" (a label ends there)."""
    newline: Bool[np.ndarray, " V"]
    """The token's text contains a newline (no label may)."""
    separator_id: int
    """The newline token, written after control tags."""
    colon_id: int
    """The ":" token that ends the label of a path."""
    dot_id: int
    """The "." token between the numbers of a label."""
    number_ids: tuple[tuple[int, ...], ...]
    """The tokens of "1", "2", ... "64"."""
    tag_ids: tuple[int, ...]
    """Ids of the twelve control tags, in their order."""
    eos_ids: tuple[int, ...]
    """Tokens that end a text; the first is the one that training data ends with."""
