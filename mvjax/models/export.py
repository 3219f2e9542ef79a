"""Weights from the devices into a model's directory, a tensor at a time; on several processes the first one writes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from mvjax.errors import UserError
from mvjax.hub.card import CARD
from mvjax.models.config import ModelConfig
from mvjax.models.families import find_family
from mvjax.models.sharded_loading import flattened
from mvjax.models.tensors import check_tensors, hf_names, is_stacked
from mvjax.models.transfer import chunk_bytes, compiler_options, padded, taker
from mvjax.storage import StoragePath
from mvjax.tokenizers import Tokenizer
from mvjax.weights.checkpoint import Checkpoint, LazyTensor, LazyTensors, lazily
from mvjax.weights.formats import write_files
from mvjax.weights.huggingface import MAX_SHARD_BYTES

MESSAGE_BYTES = 1024
"""Length of what the first process tells the others."""


def gathered(state: nnx.State | Mapping[tuple, jax.Array], config: ModelConfig) -> LazyTensors:
    """The parameters of a decoder of `config`, wherever they lie, as the tensors of a checkpoint.

    state: parameters, an NNX state or a dictionary by path. They are fetched when a tensor is read, one layer's at a
    time, and must still be there. Where they lie on several processes, all must read the same tensors in the same order
    (`save_checkpoint` does); each gets them whole.
    """
    entries = {}
    for path, array in flattened(state).items():
        stacked = is_stacked(path, config)
        for layer, name in enumerate(hf_names(path, config)):
            read = partial(fetch, array, layer if stacked else None)
            entries[name] = LazyTensor(tuple(array.shape[int(stacked) :]), np.dtype(array.dtype), read)
    return LazyTensors(entries)


def fetch(array: jax.Array, layer: int | None) -> np.ndarray:
    """An array, or a layer of it (along the first axis), in host memory; a few rows of each of its parts at a time."""
    lead, sharding = 0 if layer is None else 1, array.sharding
    alone = len(sharding.device_set) == 1
    if not alone and (not isinstance(sharding, NamedSharding) or (lead and padded(sharding, array.ndim)[0])):
        raise ValueError(f"cannot fetch an array that lies as {sharding}")
    shape, shard = array.shape[lead:], array.shape[lead:] if alone else sharding.shard_shape(array.shape)[lead:]
    blocks, rows = shape[0] // shard[0], shard[0]
    out = np.empty((blocks, rows, *shape[1:]), array.dtype)
    step = -(-rows // max(1, -(-out.nbytes // chunk_bytes(out.nbytes))))
    take = taker(None if alone else sharding, lead, (step, *shard[1:]), compiler_options())
    for start in range(0, rows, step):
        start = min(start, rows - step)
        chunk = take(array, np.array([layer, start][1 - lead :], np.int32))
        host = np.asarray(chunk) if chunk.is_fully_addressable else multihost_utils.process_allgather(chunk, tiled=True)
        out[:, start : start + step] = host.reshape(blocks, step, *shape[1:])
    return out.reshape(shape)


def save_checkpoint(
    path: str | os.PathLike | StoragePath,
    checkpoint: Checkpoint,
    format: str = "safetensors",
    *,
    tokenizer: Tokenizer | None = None,
    card: str = "",
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Callable[[str, int], None] | None = None,
) -> None:
    """Save a model, with its tokenizer and chat template, as a directory: whole or not at all.

    A model that stood there before is replaced. A directory in a bucket (an address) grows file by file, and is a model
    with the last one. Where there are several processes all call this, with tensors that
    `gathered` gives and in the format of safetensors: the first one writes, and all end alike.

    Args:
        format: "safetensors" or "orbax".
        card: text of the model card (`hub.card`); "": none is written.
        progress: called with name and bytes of each tensor as it is written.

    Raises `UserError` where the tensors are not those of the configuration, `path` holds something other than a model
    or the disk is full, else whatever a failed write raised: what `path` held is untouched then.
    """

    def write(tensors: Mapping[str, np.ndarray]) -> None:
        family = find_family(check_tensors(checkpoint).family)
        config = {"architectures": [family.architecture], **checkpoint.config}
        whole = dataclasses.replace(checkpoint, config=config, tensors=tensors)

        def beside(directory: Path) -> None:
            if tokenizer is not None:
                tokenizer.save(directory)
            if card:
                (directory / CARD).write_text(card, encoding="utf-8")

        write_files(path, whole, format, max_shard_bytes=max_shard_bytes, progress=progress, beside=beside)

    if jax.process_count() == 1:
        return write(checkpoint.tensors)
    left = lazily(checkpoint.tensors)

    def take(name: str) -> np.ndarray:
        return left.pop(name).read()

    error: Exception | None = None
    if jax.process_index() == 0:
        entries = {name: dataclasses.replace(entry, read=partial(take, name)) for name, entry in left.items()}
        try:
            write(LazyTensors(entries))
        except Exception as caught:  # the others wait for what is left to read, and for the outcome
            error = caught
    while left:
        take(next(iter(left)))
    agree(error)


def agree(error: Exception | None) -> None:
    """Raise on all processes what the first one has met; a UserError as such."""
    text = "" if error is None else f"{isinstance(error, UserError):d}{error or type(error).__name__}"
    sent = np.frombuffer(text.encode()[:MESSAGE_BYTES].ljust(MESSAGE_BYTES, b"\0"), np.uint8)
    text = multihost_utils.broadcast_one_to_all(sent).tobytes().rstrip(b"\0").decode(errors="replace")
    if error is not None:
        raise error
    if text:
        raise (UserError if text[0] == "1" else RuntimeError)(text[1:])
