"""A model's weights under their Hugging Face names, read one tensor at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mvjax.errors import UserError

DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read when asked for, and may be read again."""

    shape: tuple[int, ...]
    """Its shape."""
    dtype: np.dtype
    """Its element type; bfloat16 is `ml_dtypes.bfloat16`."""
    read: Callable[[], np.ndarray]
    """Reads it: a new array of that shape and type."""

    @property
    def nbytes(self) -> int:
        """Size in bytes once read."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


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
    return {
        name: LazyTensor(tuple(array.shape), np.dtype(array.dtype), lambda array=array: np.asarray(array))
        for name, array in tensors.items()
    }


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model as Hugging Face writes it: configuration and named tensors."""

    config: dict[str, Any]
    """Keys of Hugging Face's `config.json`. Loaded ones always carry `vocab_size`, `head_dim`, `num_key_value_heads`,
    `tie_word_embeddings`, `rope_theta` and `rope_scaling` (None where plain), whichever version wrote the file."""
    tensors: Mapping[str, np.ndarray]
    """Tensors by Hugging Face name, in its layouts (projections [out, in]). `lm_head.weight` is absent where tied."""
    source: Path | None = None
    """Where it was loaded from."""
    generation: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Keys of `generation_config.json`; empty where the source has none."""

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

    def read() -> np.ndarray:
        array = entry.read()
        with np.errstate(over="ignore"):
            converted = array.astype(dtype)
        if dtype == np.float16 and not np.array_equal(np.isfinite(converted), np.isfinite(array)):
            raise UserError(f"{name} has values beyond float16's range (65504): convert to bfloat16 or float32")
        return converted

    return LazyTensor(entry.shape, dtype, read)
