"""The header of a GGUF file: key-value metadata and the list of tensors.

Read here in a tenth of a second; the `gguf` package's reader makes an array of every token of the vocabulary, which
takes seconds. Layout: the GGUF specification, versions 2 and 3, little endian.
"""

from __future__ import annotations

import dataclasses
import mmap
import struct
from pathlib import Path
from typing import Any

from mvjax.errors import UserError
from mvjax.placeholders import placeholder

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
LONGEST_ARRAY = 4096
MOST_DIMENSIONS = 8


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """A tensor's entry in the header."""

    name: str
    """Its name in the file, as `blk.0.attn_q.weight`."""
    shape: tuple[int, ...]
    """Its shape, rows first (the file lists the fastest axis first)."""
    kind: int
    """Number of its storage type (`gguf.GGMLQuantizationType`)."""
    offset: int
    """Where its bytes begin, from the start of the file."""


@dataclasses.dataclass(frozen=True)
class Header:
    """What comes before the weights."""

    metadata: dict[str, Any]
    """Values by key. Arrays of more than 4096 elements (vocabularies) are left out."""
    tensors: tuple[TensorInfo, ...]
    """The tensors in the order of the file."""


def is_gguf(path: Path) -> bool:
    """Whether a file begins like a GGUF file."""
    with open(path, "rb") as file:
        return file.read(4) == MAGIC


def read_header(path: Path) -> Header:
    """The header of a GGUF file. Raises `UserError` where it is no such file, of another version, cut or damaged."""
    if not is_gguf(path):
        raise UserError(placeholder(path) or f"{path} is no GGUF file")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return Cursor(data).header(path)
        except (struct.error, IndexError, KeyError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is truncated or damaged in its header: fetch it again") from error


class Cursor:
    """Reads the header's items one after the other."""

    def __init__(self, data: mmap.mmap):
        self.data, self.at = data, len(MAGIC)

    def header(self, path: Path) -> Header:
        version = self.scalar("<I")
        if version not in VERSIONS:
            swapped = "; it is written for machines of the other byte order" if version & 0xFFFF == 0 else ""
            raise UserError(f"{path}: GGUF version {version} is not supported (2 and 3 are){swapped}")
        tensors, pairs = self.scalar("<Q"), self.scalar("<Q")
        metadata = {}
        for _ in range(pairs):
            key = self.string()
            value = self.value(self.scalar("<I"))
            if value is not None:
                metadata[key] = value
        infos = [self.tensor() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise IndexError("alignment")
        start = -(-self.at // alignment) * alignment
        return Header(metadata, tuple(dataclasses.replace(info, offset=start + info.offset) for info in infos))

    def scalar(self, form: str) -> Any:
        value = struct.unpack_from(form, self.data, self.at)[0]
        self.at += struct.calcsize(form)
        return value

    def skip(self, length: int) -> int:
        """Move on by `length` bytes; returns where they begin."""
        begin = self.at
        if length > len(self.data) - begin:
            raise IndexError("beyond the end of the file")
        self.at += length
        return begin

    def string(self) -> str:
        begin = self.skip(self.scalar("<Q"))
        return self.data[begin : self.at].decode("utf-8")

    def value(self, kind: int) -> Any:
        """A metadata value; None for a long array, which is passed over."""
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            return self.scalar(SCALARS[kind])
        inner, length = self.scalar("<I"), self.scalar("<Q")
        if inner == ARRAY:
            raise KeyError("array of arrays")
        if length <= LONGEST_ARRAY:
            return [self.value(inner) for _ in range(length)]
        if inner == STRING:
            for _ in range(length):
                self.skip(self.scalar("<Q"))
        else:
            self.skip(length * struct.calcsize(SCALARS[inner]))
        return None

    def tensor(self) -> TensorInfo:
        """A tensor's entry, its offset counted from the start of the weights."""
        name, dimensions = self.string(), self.scalar("<I")
        if dimensions > MOST_DIMENSIONS:
            raise IndexError("too many dimensions")
        shape = tuple(self.scalar("<Q") for _ in range(dimensions))[::-1]
        return TensorInfo(name, shape, self.scalar("<I"), self.scalar("<Q"))
