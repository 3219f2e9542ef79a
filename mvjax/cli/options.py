"""The options of a verb, from its command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mvjax.hub.cache import NAMED, Cached


def parse(options: Any, argv: Sequence[str], verb: str, **settings: Any) -> Any:
    """What the command line says; a cache that it names holds until the command ends.

    Args:
        options: dataclass of the options, or a union of subcommands.
        settings: of `tyro.cli`.
    """
    import tyro

    found = tyro.cli(options, args=argv, prog=f"mvjax {verb}", **settings)
    if isinstance(found, Cached):
        NAMED.set(found.cache)
    return found
