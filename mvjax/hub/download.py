"""From a name to files on this machine: the path itself, or what is needed of a repository of the hub or a bucket."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from mvjax.errors import UserError
from mvjax.hub.bucket import check_commit, model_copy
from mvjax.hub.cache import hub_cache
from mvjax.hub.choose import ADAPTERS, SMALL, Kind, choose_files, some
from mvjax.hub.faults import explained
from mvjax.hub.names import HubName, address_of, as_written, parse_name, path_of
from mvjax.storage import UnreachableError


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
    address: str = ""
    """Of the bucket that it is read from; "": it was no address."""

    @property
    def pinned(self) -> str:
        """The name with the commit, in words for a record or a model card; the path or address where it is none of the
        hub."""
        return f"{self.repository}@{self.commit}" if self.repository else self.address or str(self.path)


def resolve(name: str | os.PathLike, kind: Kind = "model", *, cache: str = "", commit: str = "") -> Source:
    """A model, a tokenizer or an adapter by its name: a local path first, then the hub, or a bucket.

    Only needed files are downloaded, into huggingface_hub's cache, which also answers where the hub is not reached
    (HF_HUB_OFFLINE). Of a bucket the safetensors stay there: what is needed of them is read when it is needed.

    Args:
      name: a path, OWNER/NAME[@REVISION], hf://OWNER/NAME[@REVISION][/FILE], or the address of a directory or a file in
        gs:// or s3://.
      kind: what is needed; a configuration or a tokenizer comes without safetensors.
      cache: directory of the cache; "": that of the command (`hub.cache.NAMED`), else as HF_HUB_CACHE and HF_HOME say,
        for buckets `storage.cache_directory`.
      commit: read this one, whatever the revision is by now.
    Raises:
      UserError: gated, absent, no such revision, unreachable and not cached, nothing in it that can be used; or the
        address of a page.
    """
    text = as_written(name)
    if (place := address_of(text)) is not None:
        repository, there = check_commit(place, commit)
        return Source(model_copy(place, kind, cache), text, repository, there, address=str(place))
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
def local_path(name: str | os.PathLike, kind: Kind = "model", *, cache: str = "") -> Path: ...
@overload
def local_path(name: None, kind: Kind = "model", *, cache: str = "") -> None: ...
def local_path(name: str | os.PathLike | None, kind: Kind = "model", *, cache: str = "") -> Path | None:
    """The path of `resolve`, for verbs; what came from the hub is said aloud on standard error. None stays None."""
    if name is None:
        return None
    source = resolve(name, kind, cache=cache)
    if source.repository:
        print(f"{source.name}: {source.pinned}", file=sys.stderr)
    return source.path


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

    kind, cache = "dataset" if name.dataset else "model", hub_cache(cache)

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
