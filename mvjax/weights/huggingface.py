"""Hugging Face model directories: config.json, generation_config.json, safetensors in one file or in shards."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mvjax.errors import UserError
from mvjax.weights.checkpoint import Checkpoint, LazyTensor, LazyTensors, counted, lazily, listed
from mvjax.weights.tensor_file import read_tensor_file, write_tensor_file

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_SHARD_BYTES = 5 * 10**9


def is_huggingface(path: Path) -> bool:
    """Whether a directory holds safetensors under the usual names."""
    return (path / SINGLE).is_file() or (path / INDEX).is_file()


def read_huggingface(path: Path) -> Checkpoint:
    """Open a Hugging Face directory; tensors are read when asked for.

    Raises `UserError` for damaged or absent files.
    """

    return with_configs(path, read_shards(path) if (path / INDEX).is_file() else read_tensor_file(path / SINGLE)[0])


def with_configs(path: Path, tensors: Mapping[str, LazyTensor]) -> Checkpoint:
    """The tensors of a directory with its config.json, and its generation_config.json where it has one."""
    generation = path / "generation_config.json"
    return Checkpoint(
        config=read_json(path / "config.json"),
        tensors=LazyTensors(tensors),
        source=path,
        generation=read_json(generation) if generation.is_file() else {},
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; `UserError` where the file is absent or holds something else."""
    if not path.is_file():
        raise UserError(f"{path} is missing: the directory is no complete model")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is no valid JSON ({error}): fetch it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object: fetch it again")
    return value


def read_shards(path: Path) -> dict[str, LazyTensor]:
    """Tensors of the shards that the index lists."""
    where = path / INDEX
    places = read_json(where).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise UserError(f"{where} has no weight_map: fetch it again")
    files = sorted(set(places.values()))
    if outside := [file for file in files if Path(file).name != file]:
        raise UserError(f"{where} names a file outside its directory: {outside[0]}")
    if absent := [file for file in files if not (path / file).is_file()]:
        raise UserError(f"{where} lists {len(absent)} shard(s) that are absent: {listed(absent)}; fetch them")
    shards = {file: read_tensor_file(path / file)[0] for file in files}
    if missing := [name for name, file in places.items() if name not in shards[file]]:
        raise UserError(
            f"{where}: {counted(missing)} not in the shard it names: {listed(missing)}; fetch the model again"
        )
    return {name: shards[file][name] for name, file in places.items()}


def write_huggingface(
    directory: Path,
    checkpoint: Checkpoint,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Callable[[str, int], None] | None = None,
) -> None:
    """Write a checkpoint into an existing directory, in files of at most `max_shard_bytes` (or one tensor) each.

    One tensor is in memory at a time. Not atomic: `mvjax.models.save_checkpoint` is.
    """
    write_configs(directory, checkpoint)
    shards = split(lazily(checkpoint.tensors), max_shard_bytes)
    metadata = {"format": "pt"}  # transformers asks for it
    if len(shards) == 1:
        write_tensor_file(directory / SINGLE, shards[0], metadata, progress)
        return
    places = {}
    for i, shard in enumerate(shards, start=1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        write_tensor_file(directory / file, shard, metadata, progress)
        places |= dict.fromkeys(shard, file)
    write_json(directory / INDEX, {"metadata": {"total_size": checkpoint.nbytes}, "weight_map": places})


def write_configs(directory: Path, checkpoint: Checkpoint) -> None:
    """Write config.json and generation_config.json."""
    config = checkpoint.config
    write_json(directory / "config.json", config)
    keys = ("bos_token_id", "eos_token_id", "pad_token_id")
    generation = checkpoint.generation or {key: config[key] for key in keys if config.get(key) is not None}
    write_json(directory / "generation_config.json", generation)


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def split(entries: dict[str, LazyTensor], most: int) -> list[dict[str, LazyTensor]]:
    """Tensors in their order, in groups of at most `most` bytes; a larger tensor stands alone."""
    shards: list[dict[str, LazyTensor]] = [{}]
    size = 0
    for name, entry in entries.items():
        if shards[-1] and size + entry.nbytes > most:
            shards.append({})
            size = 0
        shards[-1][name] = entry
        size += entry.nbytes
    return shards
