"""`mvjax fetch`: a model of the hub into a directory or a bucket, for pods."""

from __future__ import annotations

import dataclasses
import sys

import tyro


@dataclasses.dataclass(frozen=True)
class FetchArguments:
    """Bring what is needed of a model of the hub into a directory or a bucket. The same command goes on where it broke,
    with the same commit."""

    name: tyro.conf.Positional[str]
    """OWNER/NAME[@REVISION]."""
    target: tyro.conf.Positional[str]
    """Its directory there, such as gs://bucket/models/name."""
    cache: str = ""
    """Directory on this machine that the files pass through; else HF_HUB_CACHE and HF_HOME say."""


def main(argv: list[str]) -> int:
    """Run the verb; returns the exit status."""
    arguments = tyro.cli(FetchArguments, args=argv, prog="mvjax fetch")
    from mvjax.hub.transfer import fetch
    from mvjax.storage import StoragePath, check_bucket

    target = StoragePath(arguments.target)
    if target.bucket:
        check_bucket(target)
    source = fetch(arguments.name, target, cache=arguments.cache, say=lambda line: print(line, file=sys.stderr))
    print(f"{target}: {source.pinned}")
    return 0
