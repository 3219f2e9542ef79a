"""`mvjax fetch`: a model of the hub into a directory or a bucket, for pods."""

from __future__ import annotations

import dataclasses
import sys

import tyro

from mvjax.cli.options import parse
from mvjax.hub.cache import Cached


@dataclasses.dataclass(frozen=True)
class FetchArguments(Cached):
    """Bring what is needed of a model of the hub into a directory or a bucket. The same command goes on where it broke,
    with the same commit."""

    name: tyro.conf.Positional[str]
    """OWNER/NAME[@REVISION]."""
    target: tyro.conf.Positional[str]
    """Its directory there, such as gs://bucket/models/name."""


def main(argv: list[str]) -> int:
    """Run the verb; returns the exit status."""
    arguments = parse(FetchArguments, argv, "fetch")
    from mvjax.hub.transfer import fetch
    from mvjax.storage import StoragePath, check_bucket

    target = StoragePath(arguments.target)
    if target.bucket:
        check_bucket(target)
    source = fetch(arguments.name, target, say=lambda line: print(line, file=sys.stderr))
    print(f"{target}: {source.pinned}")
    return 0
