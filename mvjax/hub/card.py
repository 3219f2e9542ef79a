"""Model cards: a few lines of Markdown beside weights, with the commit that they were made from."""

from __future__ import annotations

from pathlib import Path

from mvjax.files import atomic_path
from mvjax.version import __version__

CARD = "README.md"


def card(base: str, made: str, how: str = "") -> str:
    """The text of a card.

    Args:
      base: REPOSITORY@COMMIT of the base model, or a path.
      made: what was done to it, one word.
      how: further words on that.
    """
    repository, _, commit = base.rpartition("@")
    head = f"base_model: {repository}\n" if repository else ""
    origin = f"[{repository}](https://huggingface.co/{repository}), commit `{commit}`" if repository else f"`{base}`"
    lines = [f"{made} from {origin}" if base else made, *([how] if how else []), f"by mvjax {__version__}"]
    return f"---\nlibrary_name: mvjax\n{head}tags:\n- multiverse\n---\n\n{', '.join(lines)}.\n"


def write_card(directory: Path, base: str, made: str, how: str = "") -> None:
    """Write a directory's card (see `card`) in place of the one that it has."""
    with atomic_path(directory / CARD) as temporary:
        temporary.write_text(card(base, made, how), encoding="utf-8")
