"""One safetensors file: an 8-byte header length, a JSON header, then the tensors' bytes.

Written here, not by the `safetensors` package, because that one wants all tensors in memory at once; read here because
a truncated file then gets an error that says so, and bfloat16 needs no other framework.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from mvjax.errors import UserError
from mvjax.placeholders import LARGEST, placeholder_of
from mvjax.storage import CutShort, StoragePath
from mvjax.weights.checkpoint import LazyTensor, stored

DTYPE_NAMES = {
    **{f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    **{f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "BOOL": np.dtype(np.bool_),
}
NAME_OF_DTYPE = {dtype: name for name, dtype in DTYPE_NAMES.items()}
LARGEST_HEADER = 100_000_000


def read_tensor_file(path: StoragePath | Path) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """Lazy tensors and metadata of a safetensors file, of which the header is read.

    Raises `UserError` if it is truncated or not such a file.
    """
    place = StoragePath(str(path))
    try:
        length = int.from_bytes(place.read_bytes(0, 8), "little")
        header = json.loads(place.read_bytes(8, 8 + length) if length <= LARGEST_HEADER else b"")
        metadata = header.pop("__metadata__", {})
        entries, end = {}, 8 + length
        for name, fields in header.items():
            if fields["dtype"] not in DTYPE_NAMES:
                raise UserError(f"{place}: {name} has element type {fields['dtype']}, which is not supported")
            begin, stop = (8 + length + offset for offset in fields["data_offsets"])
            shape, dtype = tuple(fields["shape"]), DTYPE_NAMES[fields["dtype"]]
            entries[name] = stored(place, begin, stop - begin, shape, dtype)
            if entries[name].nbytes != stop - begin or begin < 8 + length or min(shape, default=0) < 0:
                raise damaged(place)
            end = max(end, stop)
    except (CutShort, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(place) from error
    if not place.has_byte(end - 1):
        raise UserError(f"{place} is truncated: {place.size()} bytes of {end}; fetch it again")
    return entries, metadata


def damaged(place: StoragePath) -> UserError:
    """The error for what is no safetensors file: what it is instead, where that is known."""
    start = place.read_bytes(0, LARGEST) if place.has_byte(LARGEST - 1) else place.read_bytes()
    return UserError(placeholder_of(place, start) or f"{place} is truncated or no safetensors file: fetch it again")


def write_tensor_file(
    path: str | os.PathLike,
    tensors: Mapping[str, LazyTensor],
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> None:
    """Write tensors to a safetensors file, one in memory at a time.

    `progress(name, bytes)` is called after each. Not atomic: see `mvjax.files`. Raises `UserError` for an element type
    that the format lacks, `OSError` if the disk is full.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, entry in tensors.items():
        if entry.dtype not in NAME_OF_DTYPE:
            raise UserError(f"{name} has element type {entry.dtype}, which safetensors cannot hold")
        span = [offset, offset + entry.nbytes]
        header[name] = {"dtype": NAME_OF_DTYPE[entry.dtype], "shape": list(entry.shape), "data_offsets": span}
        offset += entry.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, entry in tensors.items():
            array = np.asarray(entry.read(), order="C")
            if array.shape != entry.shape or array.dtype != entry.dtype:
                raise ValueError(f"{name} was announced as {entry.dtype}{entry.shape}, is {array.dtype}{array.shape}")
            file.write(array.reshape(-1).view(np.uint8).data)
            del array  # before the next one is read
            if progress:
                progress(name, entry.nbytes)
