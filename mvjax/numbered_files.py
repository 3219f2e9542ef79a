"""Files that come in numbered parts, as `model-00001-of-00003.safetensors`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

NUMBERED = re.compile(r"(?P<name>.+)-(?P<number>\d{1,6})-of-(?P<count>\d{1,6})(?P<suffix>\.\w+)")


class Named(Protocol):
    """A path of any kind."""

    @property
    def name(self) -> str:
        """Its last part."""


File = TypeVar("File", bound=Named)


def numbered_sets(files: Iterable[File], suffix: str) -> dict[tuple[str, int], dict[int, File]]:
    """The numbered ones that end in `suffix`: by name and count, each set's files by number."""
    found: dict[tuple[str, int], dict[int, File]] = {}
    for file in files:
        match = NUMBERED.fullmatch(file.name)
        if match and match["suffix"] == suffix:
            found.setdefault((match["name"], int(match["count"])), {})[int(match["number"])] = file
    return found


def set_of(path: Path) -> dict[int, Path]:
    """The files by number that belong to the same set as this one; empty where its name bears no number."""
    match = NUMBERED.fullmatch(path.name)
    if match is None:
        return {}
    beside = sorted(path.parent.glob(f"*{match['suffix']}"))
    return numbered_sets(beside, match["suffix"]).get((match["name"], int(match["count"])), {})


def absent_names(name: str, count: int, present: Mapping[int, Any], suffix: str) -> list[str]:
    """Names of the files that a set lacks; sets count from 1, a few from 0."""
    first = 0 if 0 in present else 1
    return [f"{name}-{i:05d}-of-{count:05d}{suffix}" for i in range(first, first + count) if i not in present]
