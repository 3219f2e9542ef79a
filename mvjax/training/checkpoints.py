"""Checkpoints of a run (Orbax): whole or absent, checked when they are read."""

from __future__ import annotations

import contextlib
import shutil
import warnings
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mvjax.errors import UserError
from mvjax.training.step import TrainState

STATE, RECORD = "state", "record"


class DamagedCheckpointWarning(UserWarning):
    """A checkpoint could not be used and an older one takes its place."""


class Checkpoints:
    """The checkpoints under a directory, one per step.

    Orbax writes each under a temporary name and renames it when it is complete, so a half-written one is never listed.
    Each also carries a checksum of every array: one whose bytes have changed since is not taken for good either.
    """

    def __init__(self, directory: Path, keep: int):
        self.directory = directory.absolute()
        self.keep = keep
        self.directory.mkdir(parents=True, exist_ok=True)
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=self.keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        handlers = {STATE: ocp.StandardCheckpointHandler(), RECORD: ocp.JsonCheckpointHandler()}
        return ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, rising."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, record: dict[str, Any]) -> int:
        """Save the state and a JSON record (configuration, data position); returns the step.

        Older checkpoints beyond `keep` go once the new one is complete. UserError if it cannot be written: the older
        ones are still there.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return step
        arrays = named_arrays(state)
        record = {**record, "step": step, "checksums": checksums(arrays)}
        items = ocp.args.Composite(**{STATE: ocp.args.StandardSave(arrays), RECORD: ocp.args.JsonSave(record)})
        try:
            self._manager.save(step, args=items, force=True)
            self._manager.wait_until_finished()
        except Exception as error:
            self._remove_halves()
            left = [s for s in self.steps() if s != step]
            intact = f"the checkpoint of step {left[-1]} is intact" if left else "there is no earlier one"
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{self.directory}: the checkpoint of step {step} could not be written ({reason}); {intact}; "
                "make room and start again with the same command"
            ) from error
        return step

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest good checkpoint as (state, record), in the layout of `like`; None where there is none.

        One that cannot be read, or whose arrays have changed, is skipped with a warning and moved aside.
        """
        for step in reversed(self.steps()):
            try:
                return self._restore(step, like)
            except Exception as error:
                reason = " ".join(str(error).split())[:200]
                warnings.warn(
                    f"{self.directory / str(step)}: damaged, an older checkpoint is used instead ({reason})",
                    DamagedCheckpointWarning,
                    stacklevel=2,
                )
                self._set_aside(step)
        return None

    def _restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        wanted = named_arrays(like)
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), wanted)
        items = ocp.args.Composite(**{STATE: ocp.args.StandardRestore(abstract), RECORD: ocp.args.JsonRestore()})
        found = self._manager.restore(step, args=items)
        arrays, record = found[STATE], found[RECORD]
        for name, checksum in checksums(arrays).items():
            if record["checksums"].get(name) != checksum:
                raise ValueError(f"{name} is not what was saved")
        leaves = [arrays[name] for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), record

    def _set_aside(self, step: int) -> None:
        """Rename a damaged checkpoint, so that a new one of the same step can be written and nothing is lost."""
        self._manager.close()
        aside = self.directory.parent / f"damaged-{step}"
        shutil.rmtree(aside, ignore_errors=True)
        shutil.move(self.directory / str(step), aside)
        self._manager = self._open()

    def _remove_halves(self) -> None:
        """Open anew after a failed write, which removes what it left."""
        with contextlib.suppress(Exception):
            self._manager.close()
        for path in self.directory.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(path, ignore_errors=True)
        self._manager = self._open()

    def close(self) -> None:
        """Wait for Orbax and let go of its threads."""
        self._manager.close()


def named_arrays(state: TrainState) -> dict[str, jax.Array]:
    """The state's arrays by their path, in the order of its leaves."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(state)}


def checksums(arrays: dict[str, jax.Array]) -> dict[str, int]:
    """CRC-32 of each array that this process holds whole."""
    held = {name: x for name, x in arrays.items() if x.is_fully_addressable}
    return {name: zlib.crc32(np.ascontiguousarray(x)) for name, x in held.items()}
