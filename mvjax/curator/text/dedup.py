"""When two texts are the same problem, whatever their letter case, LaTeX delimiters and spaces that part no words."""

from __future__ import annotations

import hashlib
import re
import unicodedata

_DELIMITERS = re.compile(r"\$|\\[()\[\],;:! ]")
_IDLE_SPACE = re.compile(r" (?=\W)|(?<=\W) ")


def normalised(text: str) -> str:
    """A text without what may differ between two copies of the same problem."""
    text = _DELIMITERS.sub("", unicodedata.normalize("NFKC", text)).casefold()
    return _IDLE_SPACE.sub("", " ".join(unicodedata.normalize("NFKC", text).split())).rstrip(".")


def digest(*texts: str) -> bytes:
    """Hash of normalised texts; equal for the same ones. 16 bytes."""
    whole = "\0".join(map(normalised, texts))
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).digest()[:16]


def share(text: str, salt: str = "") -> float:
    """A number from 0 to 1 that only depends on a normalised text and a salt, spread evenly over texts."""
    return int.from_bytes(digest(salt, text)[:8]) / 2**64
