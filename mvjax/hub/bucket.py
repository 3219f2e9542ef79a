"""Models in buckets: what is small comes to this machine's cache, weights are read where they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mvjax.errors import UserError
from mvjax.hub.cache import bucket_cache
from mvjax.hub.choose import FILE_SUFFIXES, SMALL, Kind, choose_files
from mvjax.numbered_files import NUMBERED
from mvjax.storage import StoragePath, in_parallel, snapshot

ORIGIN = "origin.json"
"""Says which commit of the hub a fetched model is."""


def model_copy(place: StoragePath, kind: Kind, cache: str = "") -> Path:
    """What is needed of a model, tokenizer or adapter in a bucket, as a path of this machine.

    Of a directory of safetensors that is a directory with the other files, which `weights.read_files` reads like the
    one in the bucket. GGUF files and adapters are copied.

    Args:
        place: a directory, or a file in one.
        cache: directory that the copies are kept in; "": as `hub.cache` says.
    Raises:
        UserError: nothing is there that can be used, or it cannot be reached.
    """
    written, kept = str(place), bucket_cache(cache)
    if place.name.endswith(FILE_SUFFIXES):
        names = beside(place, SMALL)
        if place.name not in names:
            raise absent(place)
        if kind in ("model", "config") and place.name.endswith(".safetensors"):
            raise UserError(f"{place} is one file of a model: name its directory, {place.parent}")
        chosen = choose_files(names, Path(), kind, place.name, written)
        small = [name for name in SMALL if name in names and name not in chosen]
        return snapshot(place.parent, [*small, *chosen], kept) / place.name
    names = [*place.walk()]
    if not names:
        raise absent(place)
    small = [name for name in SMALL if name in names]
    folder = snapshot(place, small, kept)
    chosen = choose_files(names, folder, kind, "", written)
    if kind == "model" and any(name.endswith(".safetensors") for name in chosen):
        return snapshot(place, small, kept, link=True)
    large = [name for name in chosen if name not in small]
    return snapshot(place, [*small, *large], kept) / large[0] if large else folder


def absent(place: StoragePath) -> UserError:
    """The error for an address that leads nowhere."""
    return UserError(f"{place}: nothing is there; correct the address (a bucket that does not exist looks empty)")


def beside(file: StoragePath, small: Sequence[str]) -> list[str]:
    """Of a file, the parts of its numbered set, and some small files, the names of those that are there. Each is asked
    for: to list all that lies beside a file may take long."""
    names, match = [file.name], NUMBERED.fullmatch(file.name)
    if match:
        head, width, end = match["name"], len(match["number"]), f"of-{match['count']}{match['suffix']}"
        names += [f"{head}-{number:0{width}d}-{end}" for number in range(int(match["count"]) + 1)]
    names = [*dict.fromkeys([*names, *small])]
    there = in_parallel(lambda name: (file.parent / name).is_file(), names)
    return [name for name, found in zip(names, there, strict=True) if found]


def check_commit(place: StoragePath, commit: str) -> tuple[str, str]:
    """Repository and commit of the hub that `mvjax fetch` brought to a directory; "" for what is no fetch.

    Raises:
        UserError: it is another than the `commit` that is wanted ("": any).
    """
    try:
        facts = json.loads((place / ORIGIN).read_text())
        repository, there = str(facts["repository"]), str(facts["commit"])
    except FileNotFoundError:
        repository, there = "", ""
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place / ORIGIN}: cannot be read ({error}); fetch the model again") from error
    if commit and there != commit:
        found = f"commit {there}" if there else "a model that is no fetch"
        raise UserError(
            f"{place}: holds {found}, and the run began with commit {commit}; put that back, or begin again with "
            "--restart"
        )
    return repository, there
