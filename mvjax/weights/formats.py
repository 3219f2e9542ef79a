"""From any format that loads to any format that saves."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from mvjax.errors import UserError
from mvjax.files import atomic_directory
from mvjax.placeholders import refuse_placeholder
from mvjax.storage import StoragePath, linked
from mvjax.weights.bucket import write_to_bucket
from mvjax.weights.checkpoint import Checkpoint, listed
from mvjax.weights.gguf import GGUFModel, read_gguf
from mvjax.weights.gguf_header import is_gguf
from mvjax.weights.huggingface import MAX_SHARD_BYTES, is_huggingface, read_huggingface, write_huggingface

FORMATS = ("safetensors", "orbax")
KNOWN = "a Hugging Face directory with safetensors, a .gguf file or an Orbax directory written by mvjax"


PICKLES = ("*.bin", "*.pth", "*.pt", "*.ckpt", "*.msgpack", "*.h5", "*.onnx", "*.npz")
"""Weights in other programs' formats."""


def read_files(path: str | os.PathLike) -> Checkpoint | GGUFModel:
    """Open a model: a Hugging Face directory (sharded or not), a GGUF file (one or any of its parts) or an Orbax model
    directory.

    What is in the files, as it is there; tensors are read when asked for. Raises `UserError` where the path is none of
    these or is damaged.
    """
    path = Path(path)
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path} is a link to {os.readlink(path)}, which is absent: fetch the file again")
    if not path.exists():
        raise UserError(f"{path} does not exist: name {KNOWN}")
    if path.is_dir():
        weights = linked(path)
        if is_huggingface(weights.files()):
            return read_huggingface(path, weights)
        if (path / "tensors").is_dir():
            from mvjax.weights.orbax import read_orbax

            return read_orbax(path)
        raise UserError(f"{path} holds no weights in a format that mvjax reads{instead(path)}")
    if is_gguf(path):
        return read_gguf(path)
    refuse_placeholder(path)
    if path.suffix == ".safetensors":
        raise UserError(f"{path} is one file of a model: name its directory, {path.parent}")
    if any(path.match(pattern) for pattern in PICKLES):
        raise UserError(f"{path} is in a format that mvjax does not read: {pickle_hint(path.parent)}")
    raise UserError(f"{path} is of an unknown or damaged format: name {KNOWN}")


def run_instead(path: object) -> str:
    """The way out where a training run is named for a model."""
    return f": it is a training run; use mvjax export {path}, which makes weights of it"


def instead(path: Path) -> str:
    """What a directory without weights that can be read holds, and the way out."""
    if (path / "checkpoints").is_dir() or (path / "record" / "metadata").is_file():
        return run_instead(path)
    if inside := sorted(file.name for file in path.glob("*.gguf")):
        return f"; did you mean {path / inside[0]}?"
    if (path / "adapter_config.json").is_file():
        return ": it is a PEFT adapter, name the model that it belongs to"
    if others := sorted({file.name for pattern in PICKLES for file in path.glob(pattern)} - {"training_args.bin"}):
        return f", only {listed(others)}: {pickle_hint(path)}"
    links = sorted(file.name for file in path.iterdir() if file.is_symlink() and not file.exists())
    if links:
        return f": {listed(links)} {'lead' if links[1:] else 'leads'} nowhere; fetch the model again"
    if tensors := sorted(file.name for file in path.glob("*.safetensors")):
        return f": {listed(tensors)} bears no name of a whole model; rename it to model.safetensors if it is one"
    return f": name {KNOWN}"


def pickle_hint(path: Path) -> str:
    """How weights in another program's format become safetensors."""
    if (path / "params.json").is_file() and not (path / "config.json").is_file():
        return "this is Meta's own layout, fetch the same model in Hugging Face's (with config.json and safetensors)"
    return (
        "fetch the model's safetensors, or write them with transformers: python -c \"from transformers import "
        f"AutoModelForCausalLM as M; M.from_pretrained('{path}').save_pretrained('{path}')\""
    )


def write_files(
    path: str | os.PathLike | StoragePath,
    checkpoint: Checkpoint,
    format: str = "safetensors",
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Callable[[str, int], None] | None = None,
    beside: Callable[[Path], None] | None = None,
) -> None:
    """Write a model's directory, whole or not at all; a model that stood there before is replaced.

    In a bucket (`path` is an address) it appears file by file, as `bucket.write_to_bucket` says. `format` is
    "safetensors" or "orbax"; `progress(name, bytes)` is called as each tensor is written; `beside` writes what else
    belongs into the directory. Raises `UserError` where `path` holds something other than a model or the disk is full.
    """
    if format not in FORMATS:
        raise UserError(f"unknown format {format!r}: use one of {', '.join(FORMATS)}")
    place = StoragePath(str(path))
    if place.local is None:
        if format != "safetensors":
            raise UserError(f"{place}: models are written into buckets as safetensors, not as {format}")
        return write_to_bucket(place, checkpoint, max_shard_bytes=max_shard_bytes, progress=progress, beside=beside)
    path = place.local
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file: name a directory")
    if path.is_dir() and any(path.iterdir()) and not (path / "config.json").is_file():
        raise UserError(f"{path} holds files that are no model: name another directory")
    try:
        with atomic_directory(path) as directory:
            if format == "safetensors":
                write_huggingface(directory, checkpoint, max_shard_bytes=max_shard_bytes, progress=progress)
            else:
                from mvjax.weights.orbax import write_orbax

                write_orbax(directory, checkpoint, progress=progress)
            if beside is not None:
                beside(directory)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{path}: no space left on the disk, the model takes {checkpoint.nbytes / 1e6:,.0f} MB; nothing was "
            "changed, make room or name a place on another disk"
        ) from error
