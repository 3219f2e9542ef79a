"""GGUF files: metadata, and tensors that are dequantised (by the `gguf` package) on reading.

Some architectures have the rows of Q and K in another order there, rotary pairs beside each other and not half a head
apart; `unpermuted_tensor` undoes it.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Shaped

from mvjax.errors import UserError
from mvjax.weights.checkpoint import LazyTensor, counted, stored
from mvjax.weights.gguf_header import read_header

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
    import gguf

    header = read_header(path)
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
        plain = PLAIN.get(kind.name)
        dtype = np.dtype(np.float32) if plain is None else plain
        decode = None if plain is not None else functools.partial(dequantised, kind)
        # A quantised vector is one row of blocks: no block begins at each of its elements.
        in_rows = len(info.shape) > 1 or plain is not None
        tensors[info.name] = stored(path, info.offset, end - info.offset, info.shape, dtype, decode, in_rows=in_rows)
    return GGUFModel(path, header.metadata, tensors)


def dequantised(kind: Any, raw: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers, float32 of a shape, that blocks of a storage type hold."""
    import gguf

    return gguf.quants.dequantize(raw.reshape(*shape[:-1], -1), kind).reshape(shape)


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
