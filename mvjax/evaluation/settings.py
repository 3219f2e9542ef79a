"""What an evaluation's outcomes depend on, kept beside them so that a second run cannot mix two evaluations."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from mvjax.errors import UserError
from mvjax.files import atomic_path

WHOLE = 64 * 2**20
"""Files up to this many bytes count by their contents, longer ones by their size."""


def fingerprint(path: Path) -> str:
    """Hash of a file, or of all files of a directory with their names: small ones by contents, others by size."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if not file.is_file():
            continue
        size = file.stat().st_size
        name = str(file.relative_to(path)) if file != path else ""
        digest.update(f"{name}\0{size}\0".encode())
        if size <= WHOLE:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def claim(directory: Path, settings: dict[str, object]) -> None:
    """Claim `directory` for the run with these settings; UserError if it holds those of another run.

    The settings are kept in settings.json there.
    """
    path = directory / "settings.json"
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise UserError(f"{path}: cannot be read ({error}); name another --output directory") from None
        wanted = json.loads(json.dumps(settings))
        other = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
        if other:
            listed = "; ".join(f"{name}: {found.get(name)} there, {wanted.get(name)} now" for name in other)
            raise UserError(
                f"{directory}: holds the outcomes of a run with other settings ({listed}); "
                "name another --output directory, or delete this one"
            )
        return
    if (directory / "outcomes.jsonl").exists():
        raise UserError(
            f"{directory}: has an outcomes.jsonl but no settings.json, so nothing says which run it belongs to; "
            "name another --output directory"
        )
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
