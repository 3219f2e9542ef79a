"""The run: a directory, a state, a loop."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mvjax.data.packing import Batch
from mvjax.data.pipeline import BatchIterator
from mvjax.errors import UserError
from mvjax.files import atomic_path
from mvjax.training import sharding
from mvjax.training.checkpoints import Checkpoints
from mvjax.training.config import TrainConfig, first_difference, to_dict
from mvjax.training.interrupt import Interrupt
from mvjax.training.loss import Targets
from mvjax.training.metrics import Display, Meter, MetricsFile, TensorBoard, duration
from mvjax.training.model import Trainee
from mvjax.training.optimizer import make_optimizer, make_schedule
from mvjax.training.step import StepBatch, TrainState, init_state, make_step


@dataclass(frozen=True)
class Outcome:
    """How a run, or this start of it, ended."""

    state: TrainState
    """The last state."""
    directory: Path
    """The run's directory."""
    finished: bool
    """False: interrupted and saved; the same command goes on."""


def run(
    config: TrainConfig, trainee: Trainee, batches: BatchIterator, steps: int, *, restart: bool = False, console=None
) -> Outcome:
    """Train for `steps` steps in all, from the newest checkpoint of the run on, if there is one.

    `batches` is an iterator with `get_state` and `set_state`; its position is part of a checkpoint. A resumed run
    computes bit for bit what the uninterrupted one does.
    """
    directory = Path(config.output) / config.name
    mesh = sharding.make_mesh(config.devices)
    check_rows(config, sharding.batch_devices(mesh))
    schedule = make_schedule(config, steps)
    optimizer = make_optimizer(config, schedule, trainee.groups)
    step = make_step(trainee, optimizer, mesh, loss_chunk=config.loss_chunk)
    frozen = jax.device_put(trainee.frozen, sharding.replicated(mesh))
    state = init_state(trainee, optimizer, mesh)

    with contextlib.ExitStack() as stack:
        open_directory(directory, config, restart, stack)
        checkpoints = Checkpoints(directory / "checkpoints", config.keep)
        stack.callback(checkpoints.close)
        if (found := checkpoints.restore(state)) is not None:
            state, record = found
            batches.set_state(record["data"])
        first = int(state.step)
        if first > steps:
            raise UserError(f"{directory}: has done {first} steps, more than the {steps} asked for; use --restart")
        writers = [MetricsFile(directory / "metrics.jsonl", first)]
        writers += [TensorBoard(directory / "tensorboard", first)] if config.tensorboard else []
        for writer in writers:
            stack.callback(writer.close)
        display = Display(config.name, steps, first, console)
        stack.callback(display.close)
        display.say(
            f"{config.name}: {'resumed at step ' + str(first) if first else 'new run'}, {steps} steps of "
            f"{config.rows} x {config.row_length} tokens on {mesh.size} device{'s' * (mesh.size > 1)}, "
            f"{sum(x.size for x in state.params.values()):,} trained parameters"
        )
        save = Saver(config, checkpoints, batches, state)
        interrupt = stack.enter_context(Interrupt(display.say))
        meter, began, last = Meter(steps - first), time.monotonic(), steps
        if config.stop_after:
            last = min(steps, first + config.stop_after)
        for number in range(first + 1, last + 1):
            batch = next(batches)
            state, metrics = step(state, frozen, place(batch, config.accumulation, mesh))
            metrics = {name: value.item() for name, value in jax.device_get(metrics).items()}
            meter.step(batch.tokens_BT.size)
            if not metrics.pop("finite"):
                # The step left the state as it was before this batch, so that is what a later start goes on from.
                raise UserError(
                    f"step {number}: the loss ({metrics['loss']}) or its gradient ({metrics['gradient_norm']}) is not "
                    f"finite; the last checkpoint is good (step {save.last}): lower learning_rate or clip, or look "
                    "at the data"
                )
            line = {
                "step": number,
                **metrics,
                "learning_rate": float(schedule(number - 1)),
                "tokens": number * batch.tokens_BT.size,
                "tokens_per_second": meter.tokens_per_second,
                "seconds": time.monotonic() - began,
            }
            log = number % config.steps_per_log == 0 or number == last
            for writer in writers if log else ():
                writer.write(line)
            display.step(line, meter.seconds_left, log)
            if number % config.steps_per_save == 0 or number == last or interrupt.asked:
                save(state)
            if interrupt.asked:
                break
        finished = int(state.step) >= steps
        done = "done" if finished else "stopped; the same command goes on"
        display.say(f"{config.name}: step {int(state.step)} saved after {duration(time.monotonic() - began)}, {done}")
    return Outcome(state, directory, finished)


class Saver:
    """Saves state, configuration and data position; remembers the last step that is safe."""

    def __init__(self, config: TrainConfig, checkpoints: Checkpoints, batches: BatchIterator, state: TrainState):
        self._record = {"config": to_dict(config)}
        self._checkpoints, self._batches = checkpoints, batches
        self.last = int(state.step)

    def __call__(self, state: TrainState) -> None:
        self.last = self._checkpoints.save(state, {**self._record, "data": self._batches.get_state()})


def place(batch: Batch, accumulation: int, mesh: jax.sharding.Mesh) -> StepBatch:
    """A data batch as micro-batches on the devices; micro-batch a takes rows a, a + A, a + 2A, ..."""

    def split(x: np.ndarray) -> np.ndarray:
        return x.reshape(-1, accumulation, *x.shape[1:]).swapaxes(0, 1)

    whole = StepBatch(
        batch.tokens_BT,
        batch.positions_BT,
        batch.hide_start_BET,
        batch.hide_end_BET,
        Targets(batch.tokens_BT, batch.predecessor_BT, batch.loss_BT.astype(np.float32), batch.part_BT),
    )
    return jax.device_put(jax.tree.map(split, whole), sharding.batch_sharding(mesh))


def check_rows(config: TrainConfig, devices: int) -> None:
    """UserError where a micro-batch cannot be split evenly over the devices."""
    micro = config.rows // config.accumulation
    if micro % devices:
        raise UserError(
            f"config: micro-batches of {micro} rows cannot be split over {devices} devices; change rows, accumulation "
            "or devices"
        )


def open_directory(directory: Path, config: TrainConfig, restart: bool, stack: contextlib.ExitStack) -> None:
    """Make or find the run's directory, lock it, and see that it belongs to this configuration."""
    record = directory / "config.json"
    if directory.exists() and any(directory.iterdir()) and not record.exists():
        raise UserError(f"{directory}: is not the directory of a run (no config.json); choose another name")
    directory.mkdir(parents=True, exist_ok=True)
    stack.enter_context(locked(directory / ".lock", directory))
    if restart:
        for path in directory.iterdir():
            if path.name != ".lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif record.exists() and (difference := first_difference(read_json(record), config)):
        raise UserError(
            f"{directory}: this run was started with another configuration ({difference}); choose another --name, "
            "or begin again with --restart"
        )
    with atomic_path(record) as temporary:
        temporary.write_text(json.dumps(to_dict(config), indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def locked(path: Path, directory: Path) -> Iterator[None]:
    """Hold a run's lock; UserError where another process holds it."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{directory}: another process is training this run") from error
        yield


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: cannot be read ({error}); begin again with --restart") from error
