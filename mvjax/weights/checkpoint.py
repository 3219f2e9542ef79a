"""A model's weights under their Hugging Face names, read one tensor at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mvjax.errors import UserError
from mvjax.storage import CutShort, StoragePath

DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}


CHUNK_BYTES = 16 * 2**20
"""Bytes that are in memory beside the result where rows are cut or converted as they are read."""


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read, whole or in part, when asked for, and may be read again."""

    shape: tuple[int, ...]
    """Its shape."""
    dtype: np.dtype
    """Its element type; bfloat16 is `ml_dtypes.bfloat16`."""
    read: Callable[[], np.ndarray]
    """Reads it: a new array of that shape and type."""
    read_rows: Callable[[int, int], np.ndarray] | None = None
    """Reads the rows [start, stop) of the first axis, one or more; None where it can only be read whole."""

    @property
    def nbytes(self) -> int:
        """Size in bytes once read."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def read_part(self, index: tuple[slice, ...]) -> np.ndarray:
        """The part that slices (of step 1) select, one for each of the first axes; axes that are not named are whole.

        Rows of the first axis are one read. Where other axes are cut too, rows are read a few at a time and cut: beside
        the part, no more than CHUNK_BYTES are in memory. What can only be read whole is read whole, then cut.
        """
        spans = [slice(*part.indices(size)) for part, size in zip(index, self.shape, strict=False)]
        if len(index) > len(self.shape) or any(part.step != 1 for part in spans):
            raise ValueError(f"{index} is no part of a tensor of shape {self.shape}")
        spans += [slice(0, size, 1) for size in self.shape[len(spans) :]]
        shape = tuple(max(part.stop - part.start, 0) for part in spans)
        if shape == self.shape:
            return self.read()
        if 0 in shape:
            return np.empty(shape, self.dtype)
        if self.read_rows is None:
            return self.read()[tuple(spans)].copy()
        if shape[1:] == self.shape[1:]:
            return self.read_rows(spans[0].start, spans[0].start + shape[0])
        columns = (slice(None), *spans[1:])
        return fill_rows(np.empty(shape, self.dtype), self, spans[0].start, lambda rows: rows[columns])


def fill_rows(
    out: np.ndarray, entry: LazyTensor, start: int, change: Callable[[np.ndarray], np.ndarray] = lambda rows: rows
) -> np.ndarray:
    """Fill an array with the rows of a tensor from `start` on, changed as they are read, CHUNK_BYTES at a time."""
    step = max(1, CHUNK_BYTES // max(1, entry.nbytes // entry.shape[0]))
    assert entry.read_rows is not None
    for i in range(0, len(out), step):
        out[i : i + step] = change(entry.read_rows(start + i, start + min(i + step, len(out))))
    return out


class LazyTensors(Mapping[str, np.ndarray]):
    """Name to array, where every look-up reads the array anew and nothing is kept."""

    def __init__(self, entries: Mapping[str, LazyTensor]):
        self.entries = dict(entries)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.entries[name].read()

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def lazily(tensors: Mapping[str, Any]) -> dict[str, LazyTensor]:
    """Shape, type and reader of each tensor, without reading the lazy ones. Takes NumPy and JAX arrays too."""
    if isinstance(tensors, LazyTensors):
        return dict(tensors.entries)
    return {name: lazy(array) for name, array in tensors.items()}


def lazy(array: Any) -> LazyTensor:
    """An array in memory, or on devices, as a lazy tensor."""
    in_rows = isinstance(array, np.ndarray) and array.ndim > 0
    return LazyTensor(
        tuple(array.shape),
        np.dtype(array.dtype),
        lambda: np.asarray(array),
        (lambda start, stop: array[start:stop].copy()) if in_rows else None,
    )


def stored(
    path: StoragePath | Path,
    begin: int,
    nbytes: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
    decode: Callable[[np.ndarray, tuple[int, ...]], np.ndarray] | None = None,
    *,
    in_rows: bool = True,
) -> LazyTensor:
    """The lazy tensor whose bytes begin at byte `begin` of a file or an object, row after row.

    decode: makes elements of a shape from their bytes, as uint8; None: they are stored as they are. in_rows: each row
    can be decoded alone.
    """

    place = StoragePath(str(path))

    def read(shape: tuple[int, ...], skip: int, nbytes: int) -> np.ndarray:
        # Read, not mapped: the array stays good when the file is replaced, and an I/O error is an exception.
        raw = np.empty(nbytes, np.uint8)
        try:
            place.read_into(raw.data, begin + skip)
        except CutShort as error:
            raise UserError(f"{place} was cut short while it was being read") from error
        return raw.view(dtype).reshape(shape) if decode is None else decode(raw, shape)

    def rows(start: int, stop: int) -> np.ndarray:
        row = nbytes // shape[0]
        return read((stop - start, *shape[1:]), start * row, (stop - start) * row)

    return LazyTensor(shape, dtype, lambda: read(shape, 0, nbytes), rows if in_rows and shape and shape[0] else None)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model as Hugging Face writes it: configuration and named tensors."""

    config: dict[str, Any]
    """Keys of Hugging Face's `config.json`. Those of `mvjax.models.load_checkpoint` always carry `vocab_size`,
    `head_dim`, `num_key_value_heads`, `tie_word_embeddings`, `rope_theta` and `rope_scaling` (None where plain)."""
    tensors: Mapping[str, np.ndarray]
    """Tensors by Hugging Face name, in its layouts (projections [out, in]). `lm_head.weight` is absent where tied."""
    source: Path | str | None = None
    """Where it was loaded from."""
    generation: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Keys of `generation_config.json`; empty where the source has none."""

    @property
    def dtype(self) -> str:
        """Name of the type of its weights: that of the embedding; where there are none, what the configuration says."""
        embedding = lazily(self.tensors).get("model.embed_tokens.weight")
        return self.config.get("torch_dtype") or "float32" if embedding is None else embedding.dtype.name

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.nbytes for entry in lazily(self.tensors).values())

    def astype(self, dtype: str) -> Checkpoint:
        """The same weights in "float32", "bfloat16" or "float16" ("keep": as they are), converted as they are read.

        Reading raises `UserError` where a finite weight does not fit float16.
        """
        if dtype == "keep":
            return self
        if dtype not in DTYPES:
            raise UserError(f"unknown weight type {dtype!r}: use one of {', '.join(DTYPES)} or keep")
        entries = {name: cast(name, entry, DTYPES[dtype]) for name, entry in lazily(self.tensors).items()}
        return dataclasses.replace(self, tensors=LazyTensors(entries), config={**self.config, "torch_dtype": dtype})


def cast(name: str, entry: LazyTensor, dtype: np.dtype) -> LazyTensor:
    """A lazy tensor converted on reading; integer tensors stay as they are."""
    if entry.dtype == dtype or entry.dtype.kind in "iub":
        return entry

    def converted(array: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            result = array.astype(dtype)
        if dtype == np.float16 and not np.array_equal(np.isfinite(result), np.isfinite(array)):
            raise UserError(f"{name} has values beyond float16's range (65504): convert to bfloat16 or float32")
        return result

    def rows(start: int, stop: int) -> np.ndarray:
        return fill_rows(np.empty((stop - start, *entry.shape[1:]), dtype), entry, start, converted)

    if entry.read_rows is None or not entry.shape[0]:
        return LazyTensor(entry.shape, dtype, lambda: converted(entry.read()))
    return LazyTensor(entry.shape, dtype, lambda: rows(0, entry.shape[0]), rows)


def counted(names: list[str]) -> str:
    """`1 tensor`, `2 tensors`."""
    return f"{len(names)} tensor{'s' if names[1:] else ''}"


def listed(names: list[str], most: int = 3) -> str:
    """The first names."""
    return ", ".join(names[:most]) + (", ..." if names[most:] else "")
