"""Files that stand where another was meant to be: pointers of large-file stores, web pages and error messages saved
under the name of what was to be downloaded."""

from __future__ import annotations

import re
from pathlib import Path

from mvjax.errors import UserError

LARGEST = 1 << 16
"""Bytes of a file that are looked at."""
POINTERS = (
    (rb"version https?://(?:git-lfs|hawser)\.github\.com/spec/", "Git LFS", "git lfs install && git lfs pull"),
    (rb"(?:\.\./)*(?:\.git)?/?annex/objects/", "git-annex", "git annex get ."),
    (rb"# xet version ", "Git Xet", "git xet checkout"),
)
"""How a pointer begins, what it belongs to, and the command that puts the file in its place."""
PAGE = re.compile(rb"(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body|title)\b", re.I | re.S)
MESSAGE = re.compile(rb"(?:<\?xml[^>]*>\s*)?<error>|\{\s*\"(?:error|message|detail|errors)\"\s*:", re.I)
TITLE = re.compile(rb"<title[^>]*>(.*?)</title>", re.I | re.S)
SHOWN = 60


def placeholder(path: Path) -> str | None:
    """What stands in a file's place and the way out, in one line; None where it is no placeholder.

    A file of plain text counts where its name is that of a binary file.
    """
    try:
        with open(path, "rb") as file:
            return placeholder_of(path, file.read(LARGEST))
    except OSError:
        return None


def placeholder_of(path: object, data: bytes) -> str | None:
    """The same, where the first bytes of the file are known."""
    start = data.removeprefix(b"\xef\xbb\xbf").lstrip()
    for form, store, command in POINTERS:
        if re.match(form, start):
            size = re.search(rb"^size (\d+)", start, re.M)
            what = f" of {int(size[1]):,} bytes" if size else ""
            return (
                f"{path} is a {store} pointer, not the file{what} itself: run `{command}` in its repository, or "
                "download it anew"
            )
    if PAGE.match(start):
        title = TITLE.search(start)
        name = f" ({shown(title[1])})" if title else ""
        return f"{path} is a web page{name} saved under this name: download the file itself, not the page that shows it"
    if MESSAGE.match(start) or (str(path).endswith((".gguf", ".safetensors", ".model")) and is_short_text(data)):
        return f"{path} holds a text and no data ({shown(start)}): the download failed, fetch it again"
    return None


def refuse_placeholder(path: Path) -> None:
    """Raise UserError where a file is a placeholder."""
    if reason := placeholder(path):
        raise UserError(reason)


def is_short_text(data: bytes) -> bool:
    """Whether a whole small file is printable text."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return 8 <= len(data) < 4096 and all(character.isprintable() or character in "\r\n\t" for character in text)


def shown(data: bytes) -> str:
    """The beginning of a text, in one line."""
    text = " ".join(data[: 4 * SHOWN].decode("utf-8", errors="replace").split())
    return repr(text[:SHOWN] + ("..." if text[SHOWN:] else ""))
