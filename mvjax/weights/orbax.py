"""Model directories whose tensors are an Orbax PyTree checkpoint: config.json beside `tensors/`.

The tree is flat, tensors by Hugging Face name, so any program that knows Orbax can restore it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mvjax.errors import UserError
from mvjax.weights.checkpoint import Checkpoint, LazyTensor, lazily
from mvjax.weights.huggingface import assemble, read_config, write_configs

TENSORS = "tensors"


def is_orbax(path: Path) -> bool:
    """Whether a directory was written by `write_orbax`."""
    return (path / TENSORS).is_dir()


def load_orbax(path: Path) -> Checkpoint:
    """Open an Orbax model directory; tensors are restored when asked for.

    Raises `UserError` for a damaged checkpoint, an unsupported architecture, missing tensors or wrong shapes.
    """
    import orbax.checkpoint as ocp

    config, where = read_config(path), (path / TENSORS).absolute()
    checkpointer = ocp.PyTreeCheckpointer()
    try:
        leaves = checkpointer.metadata(where).item_metadata.tree
        entries = {
            name: LazyTensor(tuple(leaf.shape), np.dtype(leaf.dtype), restorer(checkpointer, where, name, leaf))
            for name, leaf in leaves.items()
        }
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{where} is no complete Orbax checkpoint: save it again") from error
    return assemble(config, entries, path)


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


def write_orbax(directory: Path, checkpoint: Checkpoint, *, progress: Callable[[str, int], None] | None = None) -> None:
    """Write a checkpoint into an existing directory. Orbax takes the whole tree: the model is in memory once."""
    import orbax.checkpoint as ocp

    write_configs(directory, checkpoint)
    tree = {}
    for name, entry in lazily(checkpoint.tensors).items():
        tree[name] = entry.read()
        if progress:
            progress(name, entry.nbytes)
    try:
        ocp.PyTreeCheckpointer().save((directory / TENSORS).absolute(), tree)
    except ValueError as error:
        if "No space left" in str(error):  # TensorStore has its own errors
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory)) from error
        raise
