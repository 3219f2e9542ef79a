"""`mvjax push`: a finished run or a model into a repository of the hub."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro


@dataclasses.dataclass(frozen=True)
class PushArguments:
    """Put a finished run's model or adapter, or the directory of a model or an export, into a repository of the hub.

    A new repository is private. HF_TOKEN must be that of an account that may write."""

    run: tyro.conf.Positional[str]
    """The directory of a run or of a model; it may be in a bucket."""
    name: tyro.conf.Positional[str]
    """OWNER/NAME."""
    public: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A new repository is public."""


def main(argv: list[str]) -> int:
    """Run the verb; returns the exit status."""
    arguments = tyro.cli(PushArguments, args=argv, prog="mvjax push")
    from mvjax.hub.transfer import push
    from mvjax.storage import StoragePath

    commit = push(StoragePath(arguments.run), arguments.name, private=not arguments.public)
    print(f"{arguments.name}@{commit}")
    return 0
