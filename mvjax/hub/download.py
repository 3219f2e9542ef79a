"""From a name to files on this machine: the path itself, or what is needed of a repository of the hub."""

from __future__ import annotations

import glob
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

from mvjax.errors import UserError
from mvjax.hub.faults import explained
from mvjax.hub.names import HubName, as_written, parse_name, path_of
from mvjax.numbered_files import NUMBERED
from mvjax.storage import UnreachableError

Kind = Literal["model", "tokenizer", "adapter"]

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


@dataclass(frozen=True)
class Source:
    """Where a model or data is, and where it is from."""

    path: Path
    """File or directory on this machine."""
    name: str
    """As it was written."""
    repository: str = ""
    """OWNER/NAME on the hub; "": it was a path."""
    commit: str = ""
    """The commit that was read."""
    files: tuple[str, ...] = ()
    """The files of the commit that were asked for."""

    @property
    def pinned(self) -> str:
        """The name with the commit, in words for a record or a model card; the path where it is none of the hub."""
        return f"{self.repository}@{self.commit}" if self.repository else str(self.path)


def resolve(name: str | os.PathLike, kind: Kind = "model", *, cache: str = "", commit: str = "") -> Source:
    """A model, a tokenizer or an adapter by its name: a local path first, then the hub.

    Only needed files are downloaded, into huggingface_hub's cache, which also answers where the hub is not reached
    (HF_HUB_OFFLINE).

    Args:
      name: a path, OWNER/NAME[@REVISION], or hf://OWNER/NAME[@REVISION][/FILE].
      kind: what is needed; a tokenizer comes without weights.
      cache: directory of the cache; "": as HF_HUB_CACHE and HF_HOME say.
      commit: read this one, whatever the revision is by now.
    Raises:
      UserError: gated, absent, no such revision, unreachable and not cached, nothing in it that can be used; or the
        address of a bucket or a page.
    """
    text = as_written(name)
    found = parse_name(text)
    if found is None:
        return Source(path_of(text), text)
    if found.dataset:
        raise UserError(f"{text}: a dataset, where a model is wanted")

    def choose(names: Sequence[str], folder: Path) -> list[str]:
        return choose_files(names, folder, kind, found.path, text)

    folder, commit, files = download_files(found, choose, SMALL, written=text, cache=cache, commit=commit)
    single = [file for file in files if file.endswith((".gguf", *ADAPTERS))]
    # A GGUF file or an adapter is named by its file, in several parts by the first; a directory by itself.
    path = folder / single[0] if single else folder / found.path
    small = [file for file in SMALL if file not in files and (folder / file).exists()]
    return Source(path, text, found.repository, commit, (*small, *files))


@overload
def local_path(name: str | os.PathLike, kind: Kind = "model") -> Path: ...
@overload
def local_path(name: None, kind: Kind = "model") -> None: ...
def local_path(name: str | os.PathLike | None, kind: Kind = "model") -> Path | None:
    """The path of `resolve`, for verbs; what came from the hub is said aloud on standard error. None stays None."""
    if name is None:
        return None
    source = resolve(name, kind)
    if source.repository:
        print(f"{source.name}: {source.pinned}", file=sys.stderr)
    return source.path


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
    if kind == "model" and tensors:
        return small + of_index(tensors, folder / head, head)
    if ggufs and all(same_model(name, ggufs[0]) for name in ggufs):
        return ggufs
    if ggufs:
        raise UserError(f"{written}: has several models; name one, as hf://{written.removeprefix('hf://')}/{ggufs[0]}")
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


def download_files(
    name: HubName,
    choose: Callable[[Sequence[str], Path], list[str]],
    first: Sequence[str],
    *,
    written: str,
    cache: str = "",
    commit: str = "",
) -> tuple[Path, str, list[str]]:
    """Some files of a repository: where they lie, the commit, and the names of the chosen ones.

    Args:
      choose: called with the names of all files and the directory of those in `first`; returns what else is wanted.
      first: files that are wanted in any case, where they are there.
      written: how the user wrote the name, for messages.
      cache, commit: as for `resolve`.
    Raises:
      UserError: see `resolve`.
    """
    import huggingface_hub
    from huggingface_hub import constants

    kind, cache = "dataset" if name.dataset else "model", cache or constants.HF_HUB_CACHE

    def fetch(revision: str, files: Sequence[str]) -> Path:
        patterns = [glob.escape(file) for file in files]
        return Path(
            huggingface_hub.snapshot_download(
                name.repository, repo_type=kind, revision=revision, cache_dir=cache, allow_patterns=patterns
            )
        )

    with explained(name, written, cache):
        # By its revision, so that the cache learns which commit that is and answers when the hub cannot.
        folder = fetch(commit or name.revision or constants.DEFAULT_REVISION, first)
        commit = folder.name
    reached = True
    try:
        with explained(name, written, cache):
            # Unlike a listing of the tree it fails at once where nothing answers.
            facts = huggingface_hub.HfApi().repo_info(name.repository, repo_type=kind, revision=commit)
            names = [file.rfilename for file in getattr(facts, "siblings", None) or ()]
    except UnreachableError:  # what the cache holds is all that there is
        reached = False
        names = [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
    partly = f"{written}: the hub is not reached, and the cache {cache} holds only a part of it"
    try:
        chosen = choose(sorted(names), folder)
    except UserError as error:
        raise error if reached else UserError(partly) from error
    if chosen and reached:
        with explained(name, written, cache):
            fetch(commit, chosen)
    if missing := [file for file in chosen if not (folder / file).exists()]:
        raise UserError(f"{written}: the repository lacks {some(missing)}" if reached else partly)
    return folder, commit, chosen
