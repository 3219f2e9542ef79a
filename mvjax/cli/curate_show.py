"""`mvjax curate show`: one problem's way through the curator."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mvjax.cli.curate_output import say
from mvjax.errors import UserError

if TYPE_CHECKING:
    from mvjax.curator.store import Store

SUGGESTED = 3
LOOKED_THROUGH = 100_000
"""Most ids that are compared with one that is not there."""


@dataclass(frozen=True)
class Show:
    """Show a problem's stages side by side: sentences, outline, dependencies, structure, transcript, checks, calls."""

    store: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
    """The store."""
    id: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ID")]
    """The problem's id."""
    html: Path | None = None
    """Write a page for a browser instead; it needs no network."""


def run(command: Show) -> int:
    """Show it."""
    from mvjax.curator.display.story import tell
    from mvjax.curator.store import Store

    if command.html is not None and command.html.is_dir():
        raise UserError(f"{command.html}: is a directory; --html must name a file")
    if command.html is not None and command.html.resolve() == command.store.resolve():
        raise UserError(f"{command.html}: --html is the store; name another file")
    with Store.read(command.store) as store:
        story = tell(store, command.id)
        if story is None:
            raise UserError(f"{command.store}: has no problem {command.id!r}{near(store, command.id)}")
    if command.html is None:
        from rich.console import Console

        from mvjax.curator.display.terminal import show

        show(Console(), story)
        return 0
    from mvjax.curator.display.page import page
    from mvjax.files import atomic_path

    with atomic_path(command.html) as temporary:
        temporary.write_text(page(story), encoding="utf-8")
    say(f"{command.html} is written")
    return 0


def near(store: Store, id: str) -> str:
    """Ids that look like one that is not there, as the end of a sentence."""
    ids = [known for known, _ in zip(store.ids(), range(LOOKED_THROUGH))]
    found = difflib.get_close_matches(id, ids, SUGGESTED, 0.5) or ids[:SUGGESTED]
    return f"; there are {', '.join(found)}" + (", ..." if len(ids) > len(found) else "") if found else "; it has none"
