"""The prompts: one Markdown file each, of which a user can replace any."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from mvjax.errors import UserError

PLACEHOLDERS: Mapping[str, tuple[str, ...]] = {
    "system": (),
    "tree": ("question", "reasoning"),
    "groups": ("labels",),
    "structure": ("groups",),
    "refill": ("question", "structure", "sentences"),
    "paths": ("question", "prefix", "branches", "count"),
    "judge": ("question", "prefix", "outline", "path"),
    "again": ("problems",),
    "labels": ("question", "sentences"),
}
"""The prompts and what is filled into each."""
_HEADER = re.compile(r"---\n(?P<fields>.*?)\n---\n(?P<text>.*)", re.DOTALL)
_PLACEHOLDER = re.compile(r"\$(?:(?P<name>[a-z_]+)|\$)")


@dataclass(frozen=True)
class Prompt:
    """One prompt file."""

    name: str
    """Name of the file without its ending."""
    version: str
    """As its header says."""
    text: str
    """What is sent; `$name` are placeholders, `$$` is a dollar sign."""

    def fill(self, **values: str) -> str:
        """The text with its placeholders filled; the values are never scanned for placeholders.

        Raises:
          KeyError: a value is missing.
        """
        return _PLACEHOLDER.sub(lambda match: values[match["name"]] if match["name"] else "$", self.text)

    @property
    def fingerprint(self) -> str:
        """Version and hash of the text."""
        return f"{self.version}-{hashlib.sha256(self.text.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Prompts:
    """All prompts of the curator."""

    files: Mapping[str, Prompt]
    """By name."""

    def fill(self, name: str, **values: str) -> str:
        """The text of a prompt, filled."""
        return self.files[name].fill(**values)

    def fingerprint(self) -> dict[str, str]:
        """Version and hash of each, by name."""
        return {name: prompt.fingerprint for name, prompt in sorted(self.files.items())}


def load(directory: str | Path | None = None) -> Prompts:
    """The prompts of the package; those that a directory holds take the place of ours with the same name.

    Raises:
      UserError: no such directory, a file of an unknown name, not UTF-8, without its header, or with placeholders
        other than those of `PLACEHOLDERS`.
    """
    folder = resources.files("mvjax.curator") / "prompts"
    files = {name: _parse(f"{name}.md", (folder / f"{name}.md").read_text("utf-8")) for name in PLACEHOLDERS}
    if directory is not None:
        for path in _replacements(Path(directory)):
            files[path.stem] = _read(path)
    return Prompts(files)


def _replacements(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory; it should hold Markdown files such as tree.md")
    paths = sorted(directory.glob("*.md"))
    if not paths:
        raise UserError(f"{directory}: holds no Markdown file; name one {', '.join(f'{p}.md' for p in PLACEHOLDERS)}")
    for path in paths:
        if path.stem not in PLACEHOLDERS:
            raise UserError(f"{path}: no prompt has this name; there are {', '.join(PLACEHOLDERS)}")
    return paths


def _read(path: Path) -> Prompt:
    try:
        return _parse(str(path), path.read_text("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text; save it as UTF-8") from error


def _parse(where: str, content: str) -> Prompt:
    name = Path(where).stem
    match = _HEADER.fullmatch(content)
    fields = dict(re.findall(r"^(\w+):[ \t]*(\S.*?)[ \t]*$", match["fields"], re.MULTILINE)) if match else {}
    if match is None or fields.get("name") != name or not fields.get("version"):
        raise UserError(f'{where}: must begin with the lines "---", "name: {name}", "version: ...", "---"')
    text = match["text"].strip()
    if not text:
        raise UserError(f"{where}: holds no text after its header")
    found = {placeholder["name"] for placeholder in _PLACEHOLDER.finditer(text) if placeholder["name"]}
    wanted = set(PLACEHOLDERS[name])
    for placeholder in sorted(found - wanted):
        known = ", ".join(f"${name}" for name in PLACEHOLDERS[name]) or "none"
        raise UserError(f"{where}: unknown placeholder ${placeholder}; it has {known} (write $$ for a dollar sign)")
    for placeholder in sorted(wanted - found):
        raise UserError(f"{where}: placeholder ${placeholder} is missing")
    return Prompt(name, fields["version"], text)
