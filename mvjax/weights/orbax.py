"""Model directories whose tensors are an Orbax PyTree checkpoint: config.json beside `tensors/`.

The tree is flat, tensors by Hugging Face name, so any program that knows Orbax can restore it.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mvjax.errors import UserError
from mvjax.weights.checkpoint import Checkpoint, LazyTensor, lazily
from mvjax.weights.huggingface import with_configs, write_configs

TENSORS = "tensors"
CHUNK = 16 * 2**20
"""Most bytes of a tensor that are stored, and so read, as one."""


def is_orbax(path: Path) -> bool:
    """Whether a directory was written by `write_orbax`."""
    return (path / TENSORS).is_dir()


def read_orbax(path: Path) -> Checkpoint:
    """Open an Orbax model directory; tensors are restored when asked for. Raises `UserError` for a damaged one."""
    return with_configs(path, lambda: read_tree((path / TENSORS).absolute()))


def read_tree(where: Path) -> dict[str, LazyTensor]:
    """The lazy tensors of an Orbax checkpoint."""
    import orbax.checkpoint as ocp

    checkpointer = ocp.PyTreeCheckpointer()
    try:
        metadata = checkpointer.metadata(where).item_metadata
        if metadata is None:
            raise ValueError("without metadata")
        leaves = metadata.tree
        rows = row_readers(where)
        return {
            name: LazyTensor(
                tuple(leaf.shape), np.dtype(leaf.dtype), restorer(checkpointer, where, name, leaf), rows(name, leaf)
            )
            for name, leaf in leaves.items()
        }
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{where} is no complete Orbax checkpoint: save it again") from error


def restorer(checkpointer: Any, where: Path, name: str, leaf: Any) -> Callable[[], np.ndarray]:
    import jax
    import orbax.checkpoint as ocp

    def read() -> np.ndarray:
        arguments = ocp.args.PyTreeRestore(
            item={name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)},
            restore_args={name: ocp.RestoreArgs(restore_type=np.ndarray)},
            partial_restore=True,
        )
        try:
            return checkpointer.restore(where, args=arguments)[name]
        except (ValueError, KeyError, FileNotFoundError) as error:
            raise UserError(f"{where}: tensor {name} cannot be read: the checkpoint is damaged") from error

    return read


def row_readers(where: Path) -> Callable[[str, Any], Callable[[int, int], np.ndarray] | None]:
    """A function (name, metadata) -> reader of rows; it gives None where the checkpoint is not in the OCDBT format."""
    import tensorstore

    settings = json.loads((where / "_METADATA").read_text(encoding="utf-8"))
    driver = "zarr3" if settings.get("use_zarr3") else "zarr"

    @functools.lru_cache(maxsize=1)  # rows are asked for tensor by tensor
    def opened(name: str, cached: int) -> Any:
        store = {"driver": "ocdbt", "base": f"file://{where}/", "path": f"{name}/"}
        context = tensorstore.Context({"cache_pool": {"total_bytes_limit": cached}})
        return tensorstore.open({"driver": driver, "kvstore": store}, read=True, context=context).result()

    def reader(name: str, leaf: Any) -> Callable[[int, int], np.ndarray] | None:
        if not settings.get("use_ocdbt") or not leaf.shape or leaf.storage is None or not leaf.storage.chunk_shape:
            return None
        # A chunk is decoded whole: those that one row touches are kept for the rows that follow it.
        band = (leaf.storage.chunk_shape[0], *leaf.shape[1:])
        cached = int(np.prod(band, dtype=np.int64)) * np.dtype(leaf.dtype).itemsize

        def rows(start: int, stop: int) -> np.ndarray:
            try:
                return opened(name, cached)[start:stop].read().result()
            except (ValueError, KeyError, FileNotFoundError) as error:
                raise UserError(f"{where}: tensor {name} cannot be read: the checkpoint is damaged") from error

        return rows

    return reader


def write_orbax(directory: Path, checkpoint: Checkpoint, *, progress: Callable[[str, int], None] | None = None) -> None:
    """Write a checkpoint into an existing directory, one tensor in memory at a time.

    Not atomic: `mvjax.weights.save_checkpoint` is. Raises `OSError` if the disk is full.
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
