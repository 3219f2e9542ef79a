"""Which files of a directory a use of a model needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from mvjax.errors import UserError
from mvjax.numbered_files import NUMBERED

Kind = Literal["model", "config", "tokenizer", "adapter"]
"""What is needed. A model's configuration and tokenizer come without weights, except from a GGUF file."""

INDEX = "model.safetensors.index.json"
SMALL = (
    *("config.json", "generation_config.json", INDEX, "adapter_config.json"),
    *("tokenizer.json", "tokenizer.model", "spiece.model", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json"),
    ".gitattributes",  # which all repositories have: one file at least
)
"""The files of a repository beside the weights that any use of a model needs."""
ADAPTERS = ("adapter.safetensors", "adapter_model.safetensors")
OTHERS = (".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx")
"""Suffixes of weights that are not read."""


def choose_files(names: Sequence[str], folder: Path, kind: Kind, path: str, written: str) -> list[str]:
    """The files of a repository that hold the weights; none for a tokenizer that has files of its own.

    Args:
      names: of all files.
      folder: where the small files are.
      path: a file or folder that the user named; "": none.
      written: how the user wrote the name.
    Raises:
      UserError: there is nothing that is read, or one of several has to be named.
    """
    head = f"{path}/" if path and not path.endswith(FILE_SUFFIXES) else ""
    if path and not head:
        chosen = [name for name in names if name == path or same_model(name, path)]
        if not chosen:
            raise UserError(f"{written}: the repository has no file {path}; it has {some(names)}")
        return chosen
    inside = [name for name in names if name.startswith(head) and "/" not in name.removeprefix(head)]
    small = [head + name for name in SMALL if head + name in inside] if head else []
    if kind == "adapter":
        chosen = [name for name in inside if name.endswith(ADAPTERS)][:1]
        if not chosen:
            raise UserError(f"{written}: holds no adapter ({' or '.join(ADAPTERS)}); it has {some(names)}")
        return small + chosen
    ggufs = [name for name in inside if name.endswith(".gguf")]
    whole = any(name.endswith(("tokenizer.json", ".model")) for name in inside)
    if kind == "tokenizer" and (whole or not ggufs):
        return small
    tensors = [name for name in inside if name.endswith(".safetensors") and not name.endswith(ADAPTERS)]
    if kind == "config" and (tensors or not ggufs):
        return small
    if kind == "model" and tensors:
        return small + of_index(tensors, folder / head, head)
    if ggufs and all(same_model(name, ggufs[0]) for name in ggufs):
        return ggufs
    if ggufs:
        name = written if "://" in written else f"hf://{written}"
        raise UserError(f"{written}: has several models; name one, as {name}/{ggufs[0]}")
    others = [name for name in inside if name.endswith(OTHERS)]
    hint = (
        f", only {some(others)}: use a revision or a repository with safetensors"
        if others
        else f"; it has {some(names)}"
    )
    raise UserError(f"{written}: holds no .safetensors or .gguf weights{hint}")


FILE_SUFFIXES = (".gguf", ".safetensors", ".json", ".model")


def same_model(one: str, other: str) -> bool:
    """Whether two GGUF files are parts of one model."""
    first, second = NUMBERED.fullmatch(one), NUMBERED.fullmatch(other)
    if first is None or second is None:
        return one == other
    return first.group("name", "count", "suffix") == second.group("name", "count", "suffix")


def of_index(tensors: Sequence[str], folder: Path, head: str) -> list[str]:
    """Of the safetensors files the one that holds all, else those that the index names, else all."""
    if f"{head}model.safetensors" in tensors:
        return [f"{head}model.safetensors"]
    try:
        shards = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError):
        return list(tensors)
    # An index that names none of them is left over from something else.
    return (
        [head + shard for shard in sorted(shards)] if {head + shard for shard in shards} & {*tensors} else list(tensors)
    )


def some(names: Sequence[str]) -> str:
    """A few of the names."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") or "no files"
