"""Hugging Face model directories: config.json, generation_config.json, safetensors in one file or in shards."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Any

from mvjax.errors import UserError, caution
from mvjax.numbered_files import absent_names, numbered_sets
from mvjax.placeholders import refuse_placeholder
from mvjax.storage import StoragePath
from mvjax.weights.checkpoint import Checkpoint, LazyTensor, LazyTensors, counted, lazily, listed
from mvjax.weights.tensor_file import read_tensor_file, write_tensor_file

SINGLE, INDEX, SUFFIX = "model.safetensors", "model.safetensors.index.json", ".safetensors"
MAX_SHARD_BYTES = 5 * 10**9
AT_ONCE = 8
"""Headers that are read at the same time."""


def is_huggingface(names: Iterable[str]) -> bool:
    """Whether a directory with files of these names holds safetensors under the usual ones."""
    files = [PurePath(name) for name in names]
    return any(file.name in (SINGLE, INDEX) for file in files) or bool(numbered_sets(files, SUFFIX))


def read_huggingface(path: Path, weights: StoragePath | None = None) -> Checkpoint:
    """Open a Hugging Face directory; tensors are read when asked for.

    The single file comes first, as in `transformers`, then the shards that an index lists, then shards without one.
    Raises `UserError` for damaged or absent files; warns where other weights lie beside those that are read.

    weights: where the safetensors are; None: in `path`, with the small files.
    """
    place = weights or StoragePath(str(path))
    names = place.files()
    shards = numbered_sets([place / name for name in names], SUFFIX)
    if SINGLE in names:
        others = [INDEX] * (INDEX in names) + [file.name for files in shards.values() for file in files.values()]
        if others:
            caution(
                f"{place}: {SINGLE} is read, as transformers does; {listed(others)} beside it "
                f"{'are' if others[1:] else 'is'} ignored: delete what is out of date"
            )
        tensors = read_tensor_file(place / SINGLE)[0]
    else:
        tensors = read_shards(path, place, names) if INDEX in names else read_numbered(place, shards)
    return dataclasses.replace(with_configs(path, tensors), source=path if place.local else str(place))


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
        refuse_placeholder(path)
        raise UserError(f"{path} is no valid JSON ({error}): fetch it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object: fetch it again")
    return value


def read_shards(path: Path, place: StoragePath, names: Sequence[str]) -> dict[str, LazyTensor]:
    """Tensors of the shards that the index lists: all that they hold, as `transformers` loads them.

    path: directory with the index. place, names: the one with the shards, and its files.
    """
    where = place / INDEX
    places = read_json(path / INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise UserError(f"{where} has no weight_map: fetch it again")
    files = sorted(set(places.values()))
    if outside := [file for file in files if Path(file).name != file]:
        raise UserError(f"{where} names a file outside its directory: {outside[0]}")
    if absent := [file for file in files if file not in names]:
        sets = numbered_sets([PurePath(name) for name in names], SUFFIX)
        whole = [numbered for (_, count), numbered in sets.items() if len(numbered) == count]
        found = listed([file.name for file in whole[0].values()]) if whole else ""
        hint = f", or delete the index if {found} are the model" if whole else ""
        raise UserError(f"{where} lists {len(absent)} shard(s) that are absent: {listed(absent)}; fetch them{hint}")
    shards = dict(zip(files, read_tensor_files([place / file for file in files]), strict=True))
    tensors = {name: entry for file in files for name, entry in shards[file].items()}
    if missing := [name for name in places if name not in tensors]:
        raise UserError(f"{where}: {counted(missing)} in none of its shards: {listed(missing)}; fetch the model again")
    if moved := [name for name, file in places.items() if name not in shards[file]]:
        caution(f"{where} is out of date: {counted(moved)} read from another shard than it names: {listed(moved)}")
    return tensors | {name: shards[file][name] for name, file in places.items() if name in shards[file]}


def read_tensor_files(files: Sequence[StoragePath]) -> list[dict[str, LazyTensor]]:
    """Tensors of each file."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [tensors for tensors, _ in pool.map(read_tensor_file, files)]


def read_numbered(place: StoragePath, sets: dict[tuple[str, int], dict[int, StoragePath]]) -> dict[str, LazyTensor]:
    """Tensors of numbered shards that no index lists."""
    whole = {key: files for key, files in sets.items() if not absent_names(*key, files, SUFFIX)}
    if not whole:
        (name, count), files = max(sets.items(), key=lambda item: len(item[1]))
        absent = absent_names(name, count, files, SUFFIX)
        raise UserError(
            f"{place} has no {INDEX}, and {len(absent)} of its {count} shards are absent: {listed(absent)}; fetch them"
        )
    if len(whole) > 1:
        names = [next(iter(files.values())).name for files in whole.values()]
        raise UserError(f"{place} has no {INDEX} but several whole sets of shards: {listed(names)}; keep one of them")
    ((_, count), files), *_ = whole.items()
    caution(f"{place} has no {INDEX}: its {count} shards are read as they are")
    tensors: dict[str, LazyTensor] = {}
    for entries in read_tensor_files([files[number] for number in sorted(files)]):
        if twice := sorted(tensors.keys() & entries.keys()):
            raise UserError(f"{place}: {counted(twice)} in two of its shards: {listed(twice)}; fetch the model again")
        tensors |= entries
    return tensors


def write_huggingface(
    directory: Path,
    checkpoint: Checkpoint,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Callable[[str, int], None] | None = None,
    finished: Callable[[Path], None] = lambda path: None,
) -> None:
    """Write a checkpoint into an existing directory, in files of at most `max_shard_bytes` (or one tensor) each.

    One tensor is in memory at a time. Not atomic: `mvjax.models.save_checkpoint` is.

    finished: called with each file of tensors when it is complete; may move it elsewhere.
    """
    write_configs(directory, checkpoint)
    shards = split(lazily(checkpoint.tensors), max_shard_bytes)
    metadata = {"format": "pt"}  # transformers asks for it
    if len(shards) == 1:
        write_tensor_file(directory / SINGLE, shards[0], metadata, progress)
        return finished(directory / SINGLE)
    places = {}
    for i, shard in enumerate(shards, start=1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        write_tensor_file(directory / file, shard, metadata, progress)
        finished(directory / file)
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
