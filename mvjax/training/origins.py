"""Where a run's model, tokenizer and data come from: names resolved once, and the same commits on every later start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mvjax.data.sources import find_data
from mvjax.hub import Source, resolve
from mvjax.storage import StoragePath
from mvjax.training.config import TrainConfig
from mvjax.training.distributed import HostSync, is_first
from mvjax.training.run_config import ORIGINS, read_config

PATIENCE = 24 * 3600.0
"""Seconds that the other processes wait for process 0 to download."""


@dataclass(frozen=True)
class Origins:
    """The files that a run reads."""

    model: Path
    """Weights."""
    tokenizer: Path
    """Tokenizer; often the same."""
    data: tuple[Source, ...]
    """Data, in the order of `data.files`."""
    held_out: tuple[Source, ...] = ()
    """Data that is only measured, in the order of `held_out.files`."""
    commits: Mapping[str, str] = field(default_factory=dict)
    """For each field that names a repository of the hub, REPOSITORY@COMMIT."""


def find_origins(config: TrainConfig, restart: bool, sync: HostSync) -> Origins:
    """Resolve the names of a configuration, on all processes to the same commits: those of the run's earlier starts.

    Raises:
        UserError: a name is of nothing that can be read; see `hub.resolve`.
    """
    run = StoragePath(config.output.directory) / config.name
    known = (read_config(run) or {}).get(ORIGINS) or {} if is_first() and not restart else {}
    origins = _find(config, known) if is_first() else None
    commits = sync.gather("the commits of the hub", origins and dict(origins.commits), patience=PATIENCE)[0]
    return origins or _find(config, commits)


def _find(config: TrainConfig, known: Mapping[str, str]) -> Origins:
    cache, found = config.model.cache, {}

    def commit(field: str) -> str:
        return known.get(field, "").rpartition("@")[2]

    found["model.path"] = model = resolve(config.model.path, cache=cache, commit=commit("model.path"))
    tokenizer = model
    if config.model.tokenizer:
        tokenizer = resolve(config.model.tokenizer, "tokenizer", cache=cache, commit=commit("model.tokenizer"))
        found["model.tokenizer"] = tokenizer

    def data(section: str, names: Sequence[str]) -> tuple[Source, ...]:
        fields = {f"{section}.files.{number}": name for number, name in enumerate(names)}
        sources = {field: find_data(name, cache=cache, commit=commit(field)) for field, name in fields.items()}
        found.update(sources)
        return tuple(sources.values())

    trained, measured = data("data", config.data.files), data("held_out", config.held_out.files)
    commits = {field: source.pinned for field, source in found.items() if source.repository}
    return Origins(model.path, tokenizer.path, trained, measured, commits)
