"""GGUF files: metadata, and tensors that are dequantised (by the `gguf` package) on reading.

Some architectures have the rows of Q and K in another order there, rotary pairs beside each other and not half a head
apart; `unpermuted_tensor` undoes it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Shaped

from mvjax.errors import UserError
from mvjax.weights.checkpoint import LazyTensor, counted
from mvjax.weights.gguf_header import Header, TensorInfo, read_header

PLAIN = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
QUANTISED = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")


@dataclasses.dataclass(frozen=True)
class GGUFModel:
    """A GGUF file, opened."""

    path: Path
    """Where it is."""
    metadata: dict[str, Any]
    """Values by key, as `Header.metadata`."""
    tensors: dict[str, LazyTensor]
    """Under their GGUF names. F32, F16 and BF16 keep their type, quantised tensors become float32."""


def read_gguf(path: Path) -> GGUFModel:
    """Open a GGUF file; tensors are dequantised when asked for.

    Raises `UserError` for a truncated file or a storage type that is not supported.
    """
    header = read_header(path)
    return GGUFModel(path, header.metadata, read_tensors(header, path))


def read_tensors(header: Header, path: Path) -> dict[str, LazyTensor]:
    """Lazy tensors under their GGUF names. `UserError` for a storage type not supported or bytes that are not there."""
    import gguf

    types = {kind.value: kind for kind in gguf.GGMLQuantizationType}
    names = {info.name: types[info.kind].name if info.kind in types else str(info.kind) for info in header.tensors}
    if unsupported := {name: kind for name, kind in names.items() if kind not in PLAIN and kind not in QUANTISED}:
        kinds, known = ", ".join(sorted(set(unsupported.values()))), ", ".join([*PLAIN, *QUANTISED])
        what = counted(list(unsupported))
        raise UserError(f"{path}: quantisation {kinds} ({what}) is not supported: use a file with {known}")
    size, tensors = path.stat().st_size, {}
    for info in header.tensors:
        kind = types[info.kind]
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        elements = int(np.prod(info.shape, dtype=object))
        if not info.shape or info.shape[-1] % block:
            raise UserError(f"{path}: tensor {info.name} has shape {info.shape}, no multiple of {kind.name}'s {block}")
        end = info.offset + elements // block * block_bytes
        if end > size:
            raise UserError(f"{path} is truncated: {size} bytes, {info.name} ends at {end}; fetch it again")
        tensors[info.name] = stored(path, info, kind, end - info.offset)
    return tensors


def stored(path: Path, info: TensorInfo, kind: Any, length: int) -> LazyTensor:
    """The lazy tensor of `length` bytes that a header describes."""
    import gguf

    def read(offset: int, length: int, shape: tuple[int, ...]) -> np.ndarray:
        raw = np.fromfile(path, dtype=np.uint8, count=length, offset=info.offset + offset)
        if raw.size != length:
            raise UserError(f"{path} was cut short while it was being read")
        if kind.name in PLAIN:
            return raw.view(PLAIN[kind.name]).reshape(shape)
        return gguf.quants.dequantize(raw.reshape(*shape[:-1], -1), kind).reshape(shape)

    def rows(start: int, stop: int) -> np.ndarray:
        row = length // info.shape[0]
        return read(start * row, (stop - start) * row, (stop - start, *info.shape[1:]))

    def whole() -> np.ndarray:
        return read(0, length, info.shape)

    dtype = PLAIN.get(kind.name, np.dtype(np.float32))
    # A quantised vector is one row of blocks: no block begins at each of its elements.
    in_rows = info.shape[0] > 0 and (len(info.shape) > 1 or kind.name in PLAIN)
    return LazyTensor(info.shape, dtype, whole, rows if in_rows else None)


def unpermuted_tensor(tensor: LazyTensor, heads: int) -> LazyTensor:
    """A lazy Q or K tensor in Hugging Face's order of rows."""
    read_rows = tensor.read_rows

    def rows(start: int, stop: int) -> np.ndarray:
        assert read_rows is not None
        # Rows change places within their head alone: whole heads are read, then cut.
        width = tensor.shape[0] // heads
        first, last = start // width, -(-stop // width)
        whole = unpermuted(read_rows(first * width, last * width), last - first)
        return whole[start - first * width :][: stop - start]

    in_rows = rows if read_rows else None
    return LazyTensor(tensor.shape, tensor.dtype, lambda: unpermuted(tensor.read(), heads), in_rows)


def unpermuted(rows: Shaped[np.ndarray, "NH *in"], heads: int) -> Shaped[np.ndarray, "NH *in"]:
    """Rows (or biases) of Q or K: rotary pairs (0, 1), (2, 3), ... become (0, H/2), (1, H/2 + 1), ..."""
    grouped = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return np.ascontiguousarray(grouped.swapaxes(1, 2).reshape(rows.shape))
