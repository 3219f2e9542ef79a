"""Files that come in numbered parts, as `model-00001-of-00003.safetensors`."""

from __future__ import annotations

import re
from pathlib import Path

NUMBERED = re.compile(r"(?P<name>.+)-(?P<number>\d{1,6})-of-(?P<count>\d{1,6})(?P<suffix>\.\w+)")


def numbered_sets(directory: Path, suffix: str) -> dict[tuple[str, int], dict[int, Path]]:
    """The numbered files of a directory that end in `suffix`: by name and count, each set's files by number."""
    found: dict[tuple[str, int], dict[int, Path]] = {}
    for file in sorted(directory.glob(f"*{suffix}")):
        match = NUMBERED.fullmatch(file.name)
        if match and match["suffix"] == suffix:
            found.setdefault((match["name"], int(match["count"])), {})[int(match["number"])] = file
    return found


def set_of(path: Path) -> dict[int, Path]:
    """The files by number that belong to the same set as this one; empty where its name bears no number."""
    match = NUMBERED.fullmatch(path.name)
    if match is None:
        return {}
    return numbered_sets(path.parent, match["suffix"]).get((match["name"], int(match["count"])), {})


def absent_names(name: str, count: int, present: dict[int, Path], suffix: str) -> list[str]:
    """Names of the files that a set lacks; sets count from 1, a few from 0."""
    first = 0 if 0 in present else 1
    return [f"{name}-{i:05d}-of-{count:05d}{suffix}" for i in range(first, first + count) if i not in present]
