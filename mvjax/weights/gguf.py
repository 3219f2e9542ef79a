"""GGUF files: metadata, and tensors that are dequantised (by the `gguf` package) on reading.

Some architectures have the rows of Q and K in another order there, rotary pairs beside each other and not half a head
apart; `unpermuted_tensor` undoes it.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Shaped

from mvjax.errors import UserError
from mvjax.numbered_files import NUMBERED, set_of
from mvjax.weights.checkpoint import LazyTensor, counted, listed, stored
from mvjax.weights.gguf_header import Header, is_gguf, read_header

PLAIN = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
QUANTISED = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")
COUNT, NUMBER, TOTAL = "split.count", "split.no", "split.tensors.count"
"""Keys of a split model: parts, number of this one from 0, tensors in all parts."""
PIECE = re.compile(r"-split-[a-z]+|[.-]part-?\d+of\d+|\.gguf\.\d+|\.part\d+", re.I)
"""How the pieces of a file are named that was cut without regard to its content."""


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
    """Open a GGUF file, or a model that is split into several, given any part; tensors are dequantised when asked for.

    Raises `UserError` for a truncated file, a storage type that is not supported, or parts that are absent.
    """
    header = read_header(path)
    if (count := header.metadata.get(COUNT, 1)) < 2:
        return GGUFModel(path, header.metadata, read_tensors(path, header))
    parts = find_parts(path, header, count)
    tensors: dict[str, LazyTensor] = {}
    for file, part in parts:
        entries = read_tensors(file, part)
        if twice := sorted(tensors.keys() & entries.keys()):
            raise UserError(f"{file}: {counted(twice)} in another part too: {listed(twice)}; fetch all parts again")
        tensors |= entries
    total = header.metadata.get(TOTAL, len(tensors))
    if total != len(tensors):
        files = listed([file.name for file, _ in parts])
        raise UserError(f"{path}: its parts {files} hold {len(tensors)} tensors, not {total}: they belong to different "
                        "models; fetch all parts again")  # fmt: skip
    return GGUFModel(path, parts[0][1].metadata, tensors)


def find_parts(path: Path, header: Header, count: int) -> list[tuple[Path, Header]]:
    """The files and headers of a split model in the order of its parts, whatever the numbers in the files' names.

    Parts lie beside the one that is given: files of the same name with another number, or, where it bears no number,
    GGUF files that are split into as many parts.
    """
    beside = set_of(path)
    found: dict[int, tuple[Path, Header]] = {}
    for file in beside.values() or sorted(path.parent.glob("*.gguf")):
        if not beside and not is_gguf(file):
            continue
        part = header if file == path else read_header(file)
        if part.metadata.get(COUNT, 1) != count:
            if not beside:
                continue
            raise UserError(f"{file} is no part of a model in {count} parts, as {path.name} is: fetch it again")
        number = part.metadata.get(NUMBER, 0)
        if number in found:
            raise UserError(
                f"{file} and {found[number][0].name} are both part {number + 1} of {count}: fetch the parts again"
            )
        found[number] = file, part
    if absent := [number for number in range(count) if number not in found]:
        match = NUMBERED.fullmatch(path.name)
        names = [
            f"{match['name']}-{n + 1:05d}-of-{count:05d}{match['suffix']}" if match else str(n + 1) for n in absent
        ]
        raise UserError(
            f"{path} is part {header.metadata.get(NUMBER, 0) + 1} of a model in {count} parts; absent beside it: "
            f"{listed(names)}; fetch {'them' if names[1:] else 'it'} into the same directory"
        )
    return [found[number] for number in range(count)]


def read_tensors(path: Path, header: Header) -> dict[str, LazyTensor]:
    """The tensors of one file, not read yet."""
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
            piece = PIECE.search(path.name)
            way = "it is one piece of a file that was cut up, join the pieces with cat" if piece else "fetch it again"
            raise UserError(f"{path} is truncated: {size} bytes, {info.name} ends at {end}; {way}")
        plain = PLAIN.get(kind.name)
        dtype = np.dtype(np.float32) if plain is None else plain
        decode = None if plain is not None else functools.partial(dequantised, kind)
        # A quantised vector is one row of blocks: no block begins at each of its elements.
        in_rows = len(info.shape) > 1 or plain is not None
        tensors[info.name] = stored(path, info.offset, end - info.offset, info.shape, dtype, decode, in_rows=in_rows)
    return tensors


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
