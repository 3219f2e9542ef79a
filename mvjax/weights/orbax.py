"""Model directories whose tensors are an Orbax PyTree checkpoint: config.json beside `tensors/`.

The tree is flat, tensors by Hugging Face name, so any program that knows Orbax can restore it.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import json
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mvjax.errors import UserError
from mvjax.storage import StoragePath
from mvjax.weights.checkpoint import Checkpoint, LazyTensor, lazily
from mvjax.weights.huggingface import with_configs, write_configs

TENSORS = "tensors"
CHUNK = 16 * 2**20
"""Most bytes of a tensor that are stored, and so read, as one."""


def read_orbax(path: Path) -> Checkpoint:
    """Open an Orbax model directory; tensors are read when asked for. Raises `UserError` for a damaged one."""
    return with_configs(path, read_tree(StoragePath(str(path / TENSORS))))


def read_tree(where: StoragePath) -> dict[str, LazyTensor]:
    """The lazy tensors of an Orbax checkpoint, local or in a bucket. Raises `UserError` for a damaged one."""
    import orbax.checkpoint as ocp
    from etils import epath

    local = where.local
    try:
        path = epath.Path(str(where) if local is None else local.absolute())
        # Of the handler, not of a Checkpointer, which warns where a state of training lacks metadata of its own.
        metadata = ocp.PyTreeCheckpointHandler().metadata(path)
        settings = json.loads((where / "_METADATA").read_text())
        # Rows are asked for tensor by tensor.
        opened = functools.lru_cache(maxsize=1)(functools.partial(open_array, where, settings))
        return {name: stored_leaf(where, opened, name, leaf) for name, leaf in metadata.tree.items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{where} is no complete Orbax checkpoint: save it again") from error


def stored_leaf(where: StoragePath, opened: Callable[[str, int], Any], name: str, leaf: Any) -> LazyTensor:
    """The lazy tensor of a leaf; `leaf` is Orbax's metadata of it, `opened` is `open_array` for its checkpoint."""
    shape, dtype = tuple(leaf.shape), np.dtype(leaf.dtype)
    # A chunk is decoded whole: those that one row touches are kept for the rows that follow it.
    chunk = leaf.storage.chunk_shape if leaf.storage and leaf.storage.chunk_shape else shape
    cached = math.prod((*chunk[:1], *shape[1:])) * dtype.itemsize

    def read(part: Any) -> np.ndarray:
        try:
            return opened(name, cached)[part].read().result()
        except (ValueError, KeyError, FileNotFoundError) as error:
            raise UserError(f"{where}: tensor {name} cannot be read: the checkpoint is damaged") from error

    in_rows = (lambda start, stop: read(slice(start, stop))) if shape else None
    return LazyTensor(shape, dtype, lambda: read(...), in_rows)


def open_array(where: StoragePath, settings: dict[str, Any], name: str, cached: int) -> Any:
    """A tensor of an Orbax checkpoint as TensorStore opens it, with `cached` bytes of decoded chunks kept."""
    import tensorstore

    base = f"{where}/" if where.local is None else f"file://{where.local.absolute()}/"
    files: Any = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
    if not settings.get("use_ocdbt"):
        files = f"{base}{name}/"
    driver = "zarr3" if settings.get("use_zarr3") else "zarr"
    # Where chunks of zeros are stored like others, one that is absent is damage.
    absent = not settings.get("store_array_data_equal_to_fill_value")
    spec = {"driver": driver, "kvstore": files, "fill_missing_data_reads": absent}
    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": cached}})
    return tensorstore.open(spec, read=True, context=context).result()


def write_orbax(directory: Path, checkpoint: Checkpoint, *, progress: Callable[[str, int], None] | None = None) -> None:
    """Write a checkpoint into an existing directory, one tensor in memory at a time.

    Not atomic: `mvjax.models.save_checkpoint` is. Raises `OSError` if the disk is full.
    """
    import orbax.checkpoint as ocp

    write_configs(directory, checkpoint)
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=lazy_registry(progress))
    tree = {name: NamedTensor(name, entry) for name, entry in lazily(checkpoint.tensors).items()}
    # Orbax logs a failing write with its whole traceback; the error itself is raised as well.
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        ocp.Checkpointer(handler).save((directory / TENSORS).absolute(), args=ocp.args.PyTreeSave(tree))
    except ValueError as error:
        if "No space left" in str(error) or "RESOURCE_EXHAUSTED" in str(error):  # TensorStore has its own errors
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory)) from error
        raise
    finally:
        logger.setLevel(level)


class NamedTensor:
    """A leaf of the tree that Orbax saves: a lazy tensor under its name."""

    def __init__(self, name: str, entry: LazyTensor):
        self.name, self.entry = name, entry
        self.shape, self.dtype, self.nbytes = entry.shape, entry.dtype, entry.nbytes
        self.size = int(np.prod(entry.shape, dtype=np.int64))


def lazy_registry(progress: Callable[[str, int], None] | None) -> Any:
    """Orbax type handlers that save lazy leaves as NumPy arrays, each read only when the one before it is written."""
    import jax
    from orbax.checkpoint import type_handlers

    chunked = type_handlers.SaveArgs(chunk_byte_size=CHUNK)

    class LazyHandler(type_handlers.NumpyHandler):
        async def serialize(self, values, infos, args=None):
            for i, leaf in enumerate(values):
                futures = await super().serialize([leaf.entry.read()], [infos[i]], [chunked])
                for future in futures:
                    await asyncio.to_thread(future.result)
                if progress:
                    progress(leaf.name, leaf.nbytes)
            return []

    return type_handlers.create_type_handler_registry(
        (NamedTensor, LazyHandler()), (jax.Array, type_handlers.ArrayHandler())
    )
