"""Model cards: a few lines of Markdown beside weights, with the commit that they were made from."""

from __future__ import annotations

from mvjax.version import __version__

CARD = "README.md"


def card(base: str, made: str, how: str = "", *, library: str = "mvjax", body: str = "") -> str:
    """The text of a card.

    Args:
      base: REPOSITORY@COMMIT of the base model, or a path.
      made: what was done to it, one word.
      how: further words on that.
      library: name of the one that loads the files.
      body: further Markdown.
    """
    repository, _, commit = base.rpartition("@")
    head = f"base_model: {repository}\n" if repository else ""
    origin = f"[{repository}](https://huggingface.co/{repository}), commit `{commit}`" if repository else f"`{base}`"
    lines = [f"{made} from {origin}" if base else made, *([how] if how else []), f"by mvjax {__version__}"]
    return f"---\nlibrary_name: {library}\n{head}tags:\n- multiverse\n---\n\n{', '.join(lines)}.\n" + (
        f"\n{body}" if body else ""
    )
