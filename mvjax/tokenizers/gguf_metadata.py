"""The key-value header of a GGUF file, vocabularies included.

Only the header is read: a few hundred milliseconds for 50,000 tokens, where a reader that maps the whole file takes
seconds. The layout is that of the GGUF specification, versions 2 and 3, little endian.
"""

import struct
from pathlib import Path
from typing import Any, BinaryIO

from mvjax.errors import UserError
from mvjax.numbered_files import set_of
from mvjax.placeholders import refuse_placeholder

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LONGEST = 1 << 31


def vocabulary_metadata(path: Path) -> dict[str, Any]:
    """The key-value header that holds the vocabulary: of a split model, given any part, that of its first part.

    Raises `UserError` as `read_metadata`, and where the first part is absent.
    """
    data = read_metadata(path)
    if not data.get("split.no"):
        return data
    for file in set_of(path).values() or sorted(path.parent.glob("*.gguf")):
        if file != path:
            other = read_metadata(file)
            if other.get("split.count") == data.get("split.count") and not other.get("split.no"):
                return other
    raise UserError(
        f"{path}: is part {data['split.no'] + 1} of a split model, whose first part, with the vocabulary, is absent "
        "beside it; fetch it into the same directory"
    )


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The key-value header of a GGUF file.

    Args:
        path: the file.
    Returns:
        The values by key; arrays are lists, strings are str.
    Raises:
        UserError: no such file, not a GGUF file, an unknown version, or cut short.
    """
    try:
        with open(path, "rb") as file:
            return _Header(file, Path(path)).read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None


class _Header:
    def __init__(self, file: BinaryIO, path: Path):
        self.file, self.path = file, path

    def read(self) -> dict[str, Any]:
        if self.file.read(4) != b"GGUF":
            refuse_placeholder(self.path)
            raise UserError(f"{self.path}: not a GGUF file; give a .gguf, a .model or a directory with tokenizer.json")
        version = self._scalar("I")
        if version not in (2, 3):
            raise UserError(
                f"{self.path}: GGUF version {version} is not supported (2 and 3 are); convert the file again"
            )
        _, entries = self._scalar("Q"), self._scalar("Q")
        return {self._string(): self._value(self._scalar("I")) for _ in range(entries)}

    def _take(self, count: int) -> bytes:
        data = self.file.read(count) if count < _LONGEST else b""
        if len(data) != count:
            raise UserError(f"{self.path}: cut short inside its header, or damaged; fetch the file again")
        return data

    def _scalar(self, letter: str) -> Any:
        return struct.unpack("<" + letter, self._take(struct.calcsize(letter)))[0]

    def _string(self) -> str:
        return self._take(self._scalar("Q")).decode("utf-8", errors="replace")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            element, count = self._scalar("I"), self._scalar("Q")
            if element in _SCALARS:
                letter = _SCALARS[element]
                return list(struct.unpack(f"<{count}{letter}", self._take(count * struct.calcsize(letter))))
            return [self._value(element) for _ in range(count)]
        if kind not in _SCALARS:
            raise UserError(f"{self.path}: unknown value type {kind} in its header; the file is damaged or too new")
        return self._scalar(_SCALARS[kind])
