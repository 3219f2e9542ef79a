"""A model's directory written into a bucket: a file at a time, what tells that it is complete last."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from mvjax.errors import UserError
from mvjax.storage import StoragePath, cache_directory, copy_file, copy_tree
from mvjax.weights.checkpoint import Checkpoint
from mvjax.weights.huggingface import INDEX, write_huggingface

MOST_BYTES = 2 * 10**9
"""Largest file of several tensors: it is in memory as a whole while it is sent."""
CONFIG = "config.json"
LAST = (CONFIG, INDEX)
"""Without these a directory is no model. They go first where another model stood there."""


def write_to_bucket(
    place: StoragePath,
    checkpoint: Checkpoint,
    *,
    max_shard_bytes: int,
    progress: Callable[[str, int], None] | None = None,
    beside: Callable[[Path], None] | None = None,
) -> None:
    """Write a model's directory as safetensors. One file at a time is on this machine, in the cache.

    A bucket has no atomic replacement: a model that stood there before is gone once this begins. What is cut off is no
    model, and the next attempt replaces it. Arguments as of `formats.write_files`.

    Raises:
        UserError: the directory holds something else, or the bucket cannot be written.
    """
    before = [*place.walk()]
    is_model = any(name.endswith((".safetensors", CONFIG)) for name in before)
    if before and (not is_model or any("/" in name for name in before)):  # a run has a config.json, too
        raise UserError(f"{place} holds files that are no model: name another directory")
    for name in sorted(before, key=lambda name: name not in LAST):  # a half-removed model is none
        (place / name).delete()
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="export-", dir=cache) as temporary:
        directory = Path(temporary)

        def send(path: Path) -> None:
            copy_file(StoragePath(str(path)), place / path.name)
            path.unlink()

        shard_bytes = min(max_shard_bytes, MOST_BYTES)
        write_huggingface(directory, checkpoint, max_shard_bytes=shard_bytes, progress=progress, finished=send)
        if beside is not None:
            beside(directory)
        copy_tree(StoragePath(temporary), place, last=lambda name: name in LAST)
