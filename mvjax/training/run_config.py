"""config.json in the directory of a run, local or in a bucket: its configuration, and the commits it began with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvjax.errors import UserError
from mvjax.files import atomic_path
from mvjax.storage import StoragePath
from mvjax.training.config import TrainConfig, first_difference, to_dict

CONFIG = "config.json"
ORIGINS = "origins"
"""Its key that has, for each field that names a repository of the hub, REPOSITORY@COMMIT."""


def read_config(run: StoragePath) -> dict[str, Any] | None:
    """What the configuration of a run was at its last start; None where there is no run yet.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return json.loads((run / CONFIG).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{run / CONFIG}: cannot be read ({error}); begin again with --restart") from error


def check_unchanged(run: StoragePath, config: TrainConfig) -> None:
    """UserError where a run was started with another configuration, in a field that must not change."""
    before = read_config(run)
    if before is not None and (difference := first_difference(before, config)):
        raise UserError(
            f"{run}: this run was started with another configuration ({difference}); choose another --name, or begin "
            "again with --restart"
        )


def write_config(directory: Path, config: TrainConfig, origins: Mapping[str, str] | None) -> None:
    """Write it; `origins` as `origins.Origins.commits`."""
    found = to_dict(config) | ({ORIGINS: dict(origins)} if origins else {})
    with atomic_path(directory / CONFIG) as temporary:
        temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
