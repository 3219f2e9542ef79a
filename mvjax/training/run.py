"""The run: a directory, a state, a loop."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from mvjax.data.pipeline import BatchIterator
from mvjax.data.schedule import Document
from mvjax.errors import UserError
from mvjax.models.placement import Placement
from mvjax.training.bad_batch import BadBatches
from mvjax.training.checkpoints import Checkpoints
from mvjax.training.clock import Clock
from mvjax.training.config import TrainConfig, to_dict
from mvjax.training.directory import open_directory
from mvjax.training.distributed import HostSync, is_first, versions
from mvjax.training.feed import check_rows, shard_batch
from mvjax.training.flops import ModelFlops, peak_flops
from mvjax.training.interrupt import Interrupt
from mvjax.training.mesh import local_rows
from mvjax.training.metrics import Display, MetricsFile, TensorBoard, duration
from mvjax.training.model import TrainableModel
from mvjax.training.optimizer import TAGS, make_optimizer, make_schedule
from mvjax.training.profile import Profile
from mvjax.training.step import TrainState, init_state, make_step
from mvjax.training.step_metrics import StepMetrics


@dataclass(frozen=True)
class RunResult:
    """How a run, or this start of it, ended."""

    state: TrainState
    """The last state."""
    directory: Path
    """The run's directory."""
    finished: bool
    """False: interrupted and saved; the same command goes on."""
    stopped_by: signal.Signals | None = None
    """The signal that ended this start."""


def run(
    config: TrainConfig,
    model: TrainableModel,
    placement: Placement,
    batches: BatchIterator,
    steps: int,
    *,
    belongs_to: dict[str, Any] | None = None,
    sync: HostSync | None = None,
    restart: bool = False,
    console=None,
    clock: Clock | None = None,
    flops: ModelFlops | None = None,
    name: Callable[[Document], str] | None = None,
    make_sampler: Callable[..., Any] | None = None,
    notes: Sequence[str] = (),
) -> RunResult:
    """Train for `steps` steps in all, from the newest checkpoint of the run on, if there is one.

    Args:
        batches: an iterator of this process's rows (`local_rows`) with `get_state` and `set_state`; its position is
            part of a checkpoint. A resumed run computes bit for bit what the uninterrupted one does.
        belongs_to: fingerprints of what a checkpoint belongs to (tokenizer, data), kept with it and compared.
        notes: lines to say at the beginning.
    """
    directory, clock = Path(config.output) / config.name, clock or Clock()
    sync = sync or HostSync()
    check_rows(config, placement)
    here = local_rows(placement, config.rows, config.accumulation)
    schedule = make_schedule(config, steps)
    optimizer = make_optimizer(config, schedule, model.groups)
    step = make_step(model, optimizer, placement, loss_chunk=config.loss_chunk, z_loss=config.z_loss)

    with contextlib.ExitStack() as stack:
        sync.same("the versions of the libraries", versions(), "install the same on all hosts")
        sync.same("the configuration", to_dict(config), "start the same command on all hosts")
        open_directory(directory, config, restart, stack, sync)
        checkpoints = Checkpoints(directory / "checkpoints", config.keep, config.keep_every, sync)
        stack.callback(checkpoints.close)
        state, first, skipped = init_state(model, optimizer, placement), 0, 0
        with clock("checkpoint"):
            found, counted = checkpoints.restore(layout(state)), None
        if found is not None:
            state, record = found
            counted = record.get("clock")
            check_origin(directory, record, belongs_to or {})
            batches.set_state(record["data"])
            first, skipped = int(state.step), record["skipped"]
        if first > steps:
            raise UserError(f"{directory}: has done {first} steps, more than the {steps} asked for; use --restart")
        frozen = jax.device_put(model.frozen, model.frozen_sharding(placement))
        writers: list[MetricsFile | TensorBoard] = []
        if is_first():
            clock.resume(directory / "clock.json", counted)
            writers.append(MetricsFile(directory / "metrics.jsonl", first))
            writers += [TensorBoard(directory / "tensorboard", first)] if config.tensorboard else []
        for writer in writers:
            stack.callback(writer.close)
        display = Display(config.name, steps, first, console, quiet=not is_first())
        stack.callback(display.close)
        display.say(
            f"{config.name}: {'resumed at step ' + str(first) if first else 'new run'}, {steps} steps of "
            f"{config.rows} x {config.row_length} tokens on {describe(placement)}, "
            f"{sum(x.size for x in state.params.values()):,} trained parameters"
        )
        for note in notes:
            display.say(note)
        interrupt = stack.enter_context(Interrupt(display.say))
        profile = Profile(directory / "profile", config.profile_start, config.profile_steps, clock, display.say)
        if is_first():
            stack.callback(profile.close)
        sampler = make_sampler(directory, display.say) if make_sampler is not None else None
        bad = BadBatches(directory, name, rows=here) if name is not None else BadBatches(directory, rows=here)
        last = min(steps, first + config.stop_after) if config.stop_after else steps
        step_metrics = StepMetrics(
            clock,
            steps,
            first,
            config.rows * config.row_length,
            schedule,
            tags=config.tag_multiplier if TAGS in model.groups.values() else None,
            flops=flops,
            peak=peak_flops(placement.mesh.devices.flat),
            skipped=skipped,
        )
        saved, ended, compiled = first, False, None
        clock.loop_begins()
        for number in range(first + 1, last + 1):
            with clock("data"):
                batch = next(batches)
                facts = getattr(batches, "facts", None)
                sharded = shard_batch(batch, config.accumulation, placement, rows=config.rows, here=here)
            if compiled is None:
                with clock("compile"):
                    compiled = step.lower(state, frozen, sharded).compile()
            with clock("step"), profile(number) if is_first() else contextlib.nullcontext():
                state, metrics = compiled(state, frozen, sharded)
                metrics = {name: value.item() for name, value in jax.device_get(metrics).items()}
            good = metrics.pop("finite")
            line = step_metrics.step(number, metrics, batch, facts, good=good)
            log = number % config.steps_per_log == 0 or number == last or not good
            for writer in writers if log else ():
                writer.write(line)
            display.step(line, step_metrics.seconds_left, log)
            if not good:
                try:
                    where = f"its batch is in {bad.save(number, metrics, batch, facts)}"
                except OSError as error:
                    where = f"its batch could not be kept ({error.strerror})"
                complaint = (
                    f"step {number}: the loss ({metrics['loss']}) or its gradient ({metrics['gradient_norm']}) is not "
                    f"finite; {where}"
                )
                if step_metrics.skipped > config.max_skipped:
                    checkpoints.wait()
                    raise UserError(
                        f"{complaint}; the last checkpoint is good (step {saved}): lower learning_rate or clip, or "
                        "look at the data"
                    )
                display.say(f"warning: {complaint}; the step is skipped")
            ended = interrupt.stops(number)
            if number % config.steps_per_save == 0 or number == last or ended:
                record = {"config": to_dict(config), "versions": versions(), "belongs_to": belongs_to or {}}
                record |= {"data": batches.get_state(), "skipped": step_metrics.skipped, "clock": clock.record()}
                with clock("checkpoint"):
                    saved = checkpoints.save(state, record)
            if ended:
                break
            if sampler is not None and sampler.due(number):
                with clock("sample"):
                    sampler(number, state.params)
        with clock("checkpoint"):
            checkpoints.wait()
        finished = int(state.step) >= steps
        done = "done" if finished else "stopped; the same command goes on"
        display.say(f"{config.name}: step {int(state.step)} saved after {duration(clock.elapsed)}, {done}")
    return RunResult(state, directory, finished, interrupt.asked if ended else None)


def layout(state: TrainState) -> TrainState:
    """Shapes and places of a state's arrays, without them."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def check_origin(directory: Path, record: dict[str, Any], belongs_to: dict[str, Any]) -> None:
    """UserError where a checkpoint was made with another tokenizer or other data."""
    for what, value in belongs_to.items():
        if record["belongs_to"].get(what, value) != value:
            raise UserError(
                f"{directory}: its checkpoints were made with another {what} ({record['belongs_to'][what]}, now "
                f"{value}); put it back, choose another --name, or begin again with --restart"
            )


def describe(placement: Placement) -> str:
    """The mesh in words."""
    size = placement.mesh.size
    axes = " x ".join(f"{axis} {parts}" for axis, parts in placement.mesh.shape.items() if parts > 1)
    return f"{size} device{'s' * (size > 1)}" + (f" ({axes})" if axes else "")
