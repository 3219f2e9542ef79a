"""Checkpoints of a run (Orbax): written while training goes on, whole or absent, checked when they are read."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from jax import lax
from jaxtyping import Array, UInt32

from mvjax.errors import UserError
from mvjax.storage import StoragePath, UnreachableError, copy_tree
from mvjax.training.distributed import HostSync, is_first
from mvjax.training.hashes import GOLDEN, mixed, places
from mvjax.training.model import TrainState

CHECKPOINTS = "checkpoints"
"""Directory of a run's checkpoints."""
STATE, RECORD = "state", "record"
BEST = "best"
"""The field of a record that names the step with the least loss on held-out text, where one was measured."""
CLOSING = 15.0
"""Seconds that the end of a run waits for what is still being written to a bucket."""
COMMITTED = "commit_success.txt"
"""The object that Orbax writes last where nothing can be renamed."""


class DamagedCheckpointWarning(UserWarning):
    """A checkpoint could not be used and an older one takes its place."""


class Checkpoints:
    """The checkpoints under a directory, one per step.

    Orbax writes each under a temporary name, in the background, and renames it when it is complete, so a half-written
    one is never listed. In a bucket nothing can be renamed: one whose last object is missing is removed at the next
    start. Each also carries a fingerprint of every array: one whose numbers have changed since is not taken for good
    either. Fingerprints do not depend on the mesh, nor does a checkpoint: it can be restored onto another one, or by
    another number of processes. All processes of a run call the same methods in the same order.
    """

    def __init__(self, directory: Path | StoragePath, keep: int, keep_every: int = 0, sync: HostSync | None = None):
        """`keep`: newest ones that are kept; `keep_every`: multiples of it are kept for good, 0: none."""
        self._place = StoragePath(str(directory))
        self.directory = epath.Path(str(self._place)) if self._place.local is None else self._place.local.absolute()
        logging.getLogger("absl").addFilter(raised_again)
        self.keep, self.keep_every = keep, keep_every
        self.best: int | None = None
        """A step whose checkpoint is not removed."""
        self._sync = sync or HostSync()
        self._writing: int | None = None
        if self._place.local is not None:
            self.directory.mkdir(parents=True, exist_ok=True)
        elif is_first():
            self._remove_uncommitted()
        self._sync.gather("the checkpoints' directory", None)
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        kept: list[ocp.checkpoint_managers.PreservationPolicy] = [ocp.checkpoint_managers.LatestN(self.keep), self]
        if self.keep_every:
            kept.append(ocp.checkpoint_managers.EveryNSteps(self.keep_every))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=self._place.local is not None,
        )
        handlers = {STATE: ocp.StandardCheckpointHandler(), RECORD: ocp.JsonCheckpointHandler()}
        return ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Orbax's question which checkpoints stay: the best one."""
        return [checkpoint.step == self.best for checkpoint in checkpoints]

    def steps(self) -> list[int]:
        """Steps that have a complete checkpoint, rising."""
        return sorted(step for step in self._manager.all_steps() if step != self._writing)

    def save(self, state: TrainState, record: dict[str, Any]) -> int:
        """Begin to save the state and a JSON record (configuration, data position); returns the step.

        The state may be donated to the next step at once: what has been handed to the host keeps its numbers. The
        files are complete after the next `wait` or `save`. Older checkpoints beyond `keep` go once the new one is
        complete.

        Raises:
            UserError: the one before could not be written, or this one not begun; the older ones are still there.
        """
        self.wait()
        step = int(state.step)
        if step in self._manager.all_steps():
            return step
        arrays = named_arrays(state)
        record = {**record, "step": step, "arrays": described(arrays), "fingerprints": fingerprints(arrays)}
        stored = {name: in_layers(name, x) for name, x in arrays.items()}
        items = ocp.args.Composite(**{STATE: ocp.args.StandardSave(arrays, stored), RECORD: ocp.args.JsonSave(record)})
        self._writing = step
        with self._explained():
            self._manager.save(step, args=items, force=True)
        return step

    def wait(self) -> None:
        """Return once everything is written; UserError if it could not be."""
        with self._explained():
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        self._writing = None

    @contextlib.contextmanager
    def _explained(self):
        """UserError for an error of writing: what it means, and which checkpoint is left."""
        try:
            yield
        except Exception as error:
            step, self._writing = self._writing, None
            self._remove_halves(step)
            left = self.steps()
            intact = f"the checkpoint of step {left[-1]} is intact" if left else "there is no earlier one"
            text = " ".join(str(error).split())
            full = "No space left" in text or "RESOURCE_EXHAUSTED" in text
            reason = "no space left" if full else text[:200]
            what = f"{self._place}: the checkpoint of step {step} could not be written ({reason}); {intact}"
            if self._place.local is None:
                raise UnreachableError(what) from error
            raise UserError(f"{what}; make room and start again with the same command") from error

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest good checkpoint as (state, record), in the layout of `like`; None where there is none.

        One that cannot be read, or whose arrays have changed, is skipped with a warning and moved aside.

        Args:
            like: arrays or `ShapeDtypeStruct`s with shardings.
        Raises:
            UserError: a checkpoint of another model.
        """
        for step in reversed(self.steps()):
            found, problem = None, None
            try:
                found = self._restore(step, like)
            except UserError:
                raise
            except Exception as error:
                problem = " ".join(str(error).split())[:200] or type(error).__name__
            problems = self._sync.gather(f"the checkpoint of step {step}", problem)
            problem = next((problem for problem in problems if problem is not None), None)
            if problem is None:
                return found
            warnings.warn(
                f"{self.directory / str(step)}: damaged, an older checkpoint is used instead ({problem})",
                DamagedCheckpointWarning,
                stacklevel=2,
            )
            self._set_aside(step)
        return None

    def _restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        wanted = named_arrays(like)
        record = self._manager.restore(step, args=ocp.args.Composite(**{RECORD: ocp.args.JsonRestore()}))[RECORD]
        check_arrays(self.directory / str(step), record["arrays"], described(wanted))
        abstract = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for name, x in wanted.items()}
        items = ocp.args.Composite(**{STATE: ocp.args.StandardRestore(abstract)})
        arrays = self._manager.restore(step, args=items)[STATE]
        for name, value in fingerprints(arrays).items():
            if record["fingerprints"].get(name) != value:
                raise ValueError(f"{name} is not what was saved")
        leaves = [arrays[name] for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), record

    def _set_aside(self, step: int) -> None:
        """Rename a damaged checkpoint, so that a new one of the same step can be written and nothing is lost."""
        self._manager.close()
        if is_first():
            damaged, aside = self._place / str(step), self._place.parent / f"damaged-{step}"
            aside.delete_tree()
            if damaged.local is not None and aside.local is not None:
                shutil.move(damaged.local, aside.local)
            else:
                copy_tree(damaged, aside)
                damaged.delete_tree()
        self._sync.gather("a damaged checkpoint moved aside", step)
        self._manager = self._open()

    def _remove_halves(self, step: int | None) -> None:
        """Open anew after a failed write, which removes what it left."""
        with contextlib.suppress(Exception):
            self._manager.close()
        if is_first() and self._place.local is None:
            with contextlib.suppress(UserError):  # the server may be away still: `save` does it again
                self._remove_uncommitted()
        halves = [*self.directory.glob("*.orbax-checkpoint-tmp*")] if is_first() and self._place.local else []
        for path in halves:
            shutil.rmtree(path, ignore_errors=True)
        self._manager = self._open()

    def _remove_uncommitted(self) -> None:
        """Remove from a bucket what has a checkpoint's name and is none: nothing can be renamed there, so what is half
        written has its final name, and lacks the object that Orbax writes last."""
        names = [*self._place.walk()]
        whole = {name.partition("/")[0] for name in names if name.count("/") == 1 and name.endswith(f"/{COMMITTED}")}
        for step in {name.partition("/")[0] for name in names} - whole:
            (self._place / step).delete_tree()

    def close(self) -> None:
        """Let go of Orbax's threads. In a bucket one that is still writing is not waited for long: its server may be
        away, and Orbax tries for a quarter of an hour."""
        if self._place.local is not None:
            self._manager.close()
            return
        closing = threading.Thread(target=self._manager.close, daemon=True)
        closing.start()
        closing.join(CLOSING)


def named_arrays(state: TrainState) -> dict[str, Any]:
    """The state's arrays by their path, in the order of its leaves."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(state)}


def in_layers(name: str, x: Array) -> ocp.SaveArgs:
    """How an array is stored: of stacked parameters each layer apart, since an export reads one after the other."""
    return ocp.SaveArgs(shard_axes=(0,) if name.startswith(".params['layers/") and x.ndim == 3 else ())


def described(arrays: Mapping[str, Any]) -> dict[str, str]:
    """Type and shape of each array."""
    return {name: f"{x.dtype.name}{list(x.shape)}" for name, x in arrays.items()}


def check_arrays(where: Any, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """UserError where a checkpoint holds other arrays than the run has."""
    for name in {**wanted, **found}:
        if found.get(name) != wanted.get(name):
            raise UserError(
                f"{where}: is a checkpoint of another model: {name} is {found.get(name, 'absent')} there and "
                f"{wanted.get(name, 'absent')} here; choose another --name, or begin again with --restart"
            )


def fingerprints(arrays: Mapping[str, Array]) -> dict[str, int]:
    """A number for each array that any change of a bit changes, whatever mesh the array lies on."""
    return {name: int(value) for name, value in jax.device_get(_fingerprints(dict(arrays))).items()}


@jax.jit
def _fingerprints(arrays: dict[str, Array]) -> dict[str, UInt32[Array, ""]]:
    return {name: fingerprint(x) for name, x in arrays.items()}


def fingerprint(x: Array) -> UInt32[Array, ""]:
    """Sum of a hash of each element's bits and place, modulo 2^32: exact in any order, so the same on any mesh."""
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    bits = lax.bitcast_convert_type(x, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize])
    return mixed(bits.astype(jnp.uint32) ^ (places(x.shape) * jnp.uint32(GOLDEN))).sum(dtype=jnp.uint32)


def raised_again(entry: logging.LogRecord) -> bool:
    """A filter of log entries: Orbax logs tracebacks of errors that it raises when it is waited for."""
    return entry.levelno < logging.ERROR or "orbax" not in entry.pathname
