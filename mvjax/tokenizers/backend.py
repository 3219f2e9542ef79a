"""What a vocabulary must be able to do, whatever file it came from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class ControlToken:
    """A token that text alone can never become: special tokens, control tags."""

    id: int
    """Its id."""
    text: str
    """Its literal, for example "<|im_end|>"."""
    special: bool = True
    """False for added tokens that the file does not call special but that the chat template uses as structure."""
    lstrip: bool = False
    """White space to its left belongs to it."""
    rstrip: bool = False
    """White space to its right belongs to it."""


class Backend(Protocol):
    """A vocabulary and its way to cut text.

    `encode` is plain: no control token, ever. `start` says that the text is the start of a document, where some
    vocabularies (`prefix_space`) put a space before the first word; elsewhere they must not.
    """

    size: int
    """Number of ids: the largest id in use, plus one."""
    prefix_space: bool
    """The vocabulary puts a space before text at the start of a document."""
    controls: tuple[ControlToken, ...]
    """Tokens that text must not become."""

    def encode(self, text: str, *, start: bool) -> list[int]: ...

    def pieces(self) -> list[bytes]:
        """The bytes of every id, in order."""
        ...

    def find(self, text: str) -> int | None:
        """The id of the token that is literally `text`, or None."""
        ...

    def with_controls(self, texts: tuple[str, ...]) -> "Backend":
        """The same vocabulary with these tokens as control tokens: those it has keep their ids, others are appended."""
        ...

    def save(self, directory: Path) -> None:
        """Writes the vocabulary's own files."""
        ...

    def settings(self) -> dict[str, Any]:
        """What tokenizer_config.json must say for the vocabulary to be read back."""
        ...


BYTE_OF_CHARACTER: dict[str, int] = {}
"""GPT-2's table: the printable character that stands for each byte in a byte-level vocabulary."""


def _fill() -> None:
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    BYTE_OF_CHARACTER.update({chr(byte): byte for byte in printable})
    BYTE_OF_CHARACTER.update({chr(256 + i): byte for i, byte in enumerate(others)})


_fill()


def byte_level_bytes(piece: str) -> bytes:
    """The bytes that a piece of a byte-level vocabulary stands for."""
    try:
        return bytes([BYTE_OF_CHARACTER[character] for character in piece])
    except KeyError:  # not written in the alphabet: a literal
        return piece.encode()


def metaspace_bytes(piece: str) -> bytes:
    """The bytes that a piece of a SentencePiece-like vocabulary stands for: "▁" is a space, "<0x0A>" a byte."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        try:
            return bytes([int(piece[3:5], 16)])
        except ValueError:
            pass
    return piece.replace("\u2581", " ").encode()
