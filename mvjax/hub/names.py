"""What a user wrote for a model or for data: a name on the hub, or a path."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from mvjax.errors import UserError
from mvjax.storage import StoragePath

PREFIX = "hf://"
DATASETS = "datasets/"
FILES = (
    ".gguf",
    ".safetensors",
    ".model",
    ".json",
    ".jsonl",
    ".bin",
    ".pt",
    ".parquet",
    ".arrow",
    ".npz",
    ".txt",
    ".py",
)
"""A name that ends like a file is a path, unless it begins with PREFIX."""

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_REVISION = r"(?:@(?P<revision>refs/(?:pr|convert)/[^/@]+|[^/@]+))?"
_SHORT = re.compile(rf"(?P<repository>{_PART}/{_PART}){_REVISION}")
_LONG = re.compile(rf"(?P<repository>{_PART}/{_PART}){_REVISION}(?:/(?P<path>.+))?")


@dataclass(frozen=True)
class HubName:
    """A repository of the hub, at a revision, or a file or folder in it."""

    repository: str
    """OWNER/NAME."""
    revision: str = ""
    """Branch, tag or commit; "": the main branch."""
    path: str = ""
    """A file or folder in it; "": what is needed of the whole."""
    dataset: bool = False
    """Whether it is one of data."""

    def __str__(self) -> str:
        head = PREFIX + (DATASETS if self.dataset else "") + self.repository
        return head + (f"@{self.revision}" if self.revision else "") + (f"/{self.path}" if self.path else "")


def parse_name(text: str, *, dataset: bool = False) -> HubName | None:
    """The repository that a text names; None for a path.

    Args:
      text: hf://OWNER/NAME[@REVISION][/PATH], hf://datasets/OWNER/NAME..., or OWNER/NAME[@REVISION] where that is no
        local path.
      dataset: what a name without a prefix is of.
    Raises:
      UserError: it begins with hf:// and is no such name.
    """
    text = as_written(text)
    if text.startswith(PREFIX):
        rest = text.removeprefix(PREFIX)
        is_data = rest.startswith(DATASETS)
        found = _LONG.fullmatch(rest.removeprefix(DATASETS).rstrip("/"))
        if found is None:
            raise UserError(
                f"{text}: no name of a repository; write hf://OWNER/NAME, hf://OWNER/NAME@REVISION or .../FILE"
            )
        return HubName(found["repository"], found["revision"] or "", found["path"] or "", is_data)
    found = _SHORT.fullmatch(text)
    if found is None or text.lower().endswith(FILES) or Path(text).exists():
        return None
    return HubName(found["repository"], found["revision"] or "", dataset=dataset)


def as_written(name: str | os.PathLike) -> str:
    """A name as text; pathlib makes one slash of those in hf:// and in addresses."""
    text = os.fspath(name)
    return re.sub(r"^file:/+", "file:///", re.sub(r"^(hf|gs|s3|memory|https?):/+", r"\1://", text))


def address_of(text: str) -> StoragePath | None:
    """The place in a bucket that a text is the address of; None for anything else."""
    place = StoragePath(text) if re.match(r"(gs|s3|memory)://", text) else None
    if place is not None and place.key == "" and place.bucket:
        raise UserError(f"{text}: names a whole bucket; name a directory in it, as {text.rstrip('/')}/NAME")
    return place


def path_of(text: str) -> Path:
    """The path that a text is, where it names no repository; UserError for the address of a page."""
    if text.startswith("file://"):
        return Path(StoragePath(text).address)
    if re.match(r"https?://", text):
        raise UserError(
            f"{text}: models and data are read from files, from repositories of the hub (OWNER/NAME) and from buckets "
            "(gs://, s3://): name one of these, or download it first"
        )
    return Path(text)


def near(text: str) -> str:
    """Local paths that a mistyped one may have meant, for the end of a message; "" where there is none."""
    path = Path(text)
    for folder, wanted, rest in ((path.parent, path.name, ""), (Path(), path.parts[0], "/".join(path.parts[1:]))):
        try:
            names = [entry.name for entry in folder.iterdir()]
        except OSError:
            continue
        for name in difflib.get_close_matches(wanted, names, n=3, cutoff=0.75):
            meant = folder / name / rest
            if meant.exists():
                return f"; did you mean {meant}?"
    return ""
