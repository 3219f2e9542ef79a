"""The trainer, from top to bottom: mesh, data, model, optimizer, restore, step, loop.

`train` goes from the files that a configuration names to a trained model. `fit`, its second half, takes any model and
any batches. Beside it: `mesh` and `batch` (what lies where), `model`, `optimizer`, `step`, `loss`, `checkpoints`,
`run_directory`, `run_log` (all that a run reports) and `distributed` (several processes as one run).
"""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from rich.console import Console

from mvjax.data.packing import Batch
from mvjax.data.pipeline import BatchIterator
from mvjax.data.schedule import BatchFacts, Document
from mvjax.errors import UserError
from mvjax.hub import card
from mvjax.models import load_checkpoint, save_adapter, to_checkpoint
from mvjax.models.export import fetch, save_checkpoint
from mvjax.models.hf_config import from_hf
from mvjax.models.placement import Placement
from mvjax.storage import StoragePath, UnreachableError
from mvjax.tokenizers import Tokenizer, load_tokenizer
from mvjax.training.bad_batches import BadBatches
from mvjax.training.base_model import Initial, load_model
from mvjax.training.batch import abstract_batch, batch_words, check_rows, shard_batch
from mvjax.training.bucket_directory import StorageAway
from mvjax.training.checkpoints import BEST, Checkpoints
from mvjax.training.clock import Clock
from mvjax.training.compiled_programs import Keep, compiled_programs
from mvjax.training.config import TrainConfig, to_dict
from mvjax.training.dataset import load_data
from mvjax.training.distributed import Heartbeat, HostSync, is_first, versions
from mvjax.training.flops import ModelFlops, adapter_weights, peak_flops
from mvjax.training.held_out import LOSS, Best, HeldOut
from mvjax.training.interrupt import Interrupt
from mvjax.training.mesh import local_rows, make_placement, mesh_notes, mesh_words
from mvjax.training.model import TrainableModel, TrainState
from mvjax.training.notices import Notices
from mvjax.training.optimizer import make_optimizer, make_schedule
from mvjax.training.origins import find_origins
from mvjax.training.profile import Profile
from mvjax.training.run_directory import check_origin
from mvjax.training.run_log import RunLog
from mvjax.training.run_place import RunPlace, check_place, run_place
from mvjax.training.sample import Sampler
from mvjax.training.state import abstract_state, init_state
from mvjax.training.step import make_update
from mvjax.training.step_metrics import StepMetrics
from mvjax.weights import Checkpoint, with_tag_rows


@dataclass(frozen=True)
class RunResult:
    """How a run, or this start of it, ended."""

    state: TrainState
    """The last state."""
    directory: Path
    """The run's directory."""
    finished: bool
    """False: interrupted and saved; the same command resumes it."""
    stopped_by: signal.Signals | None = None
    """The signal that ended this start."""


def train(config: TrainConfig, *, restart: bool = False, console: Console | None = None) -> RunResult:
    """Run a configuration to its end or to an interruption; UserError for anything that the user can mend.

    Leaves in DIRECTORY/NAME: config.json, metrics.jsonl, tensorboard/, checkpoints/, and at the end adapter.safetensors
    (LoRA) or model/ (a Hugging Face directory with the tokenizer).
    """
    config.validate()
    clock, sync = Clock(), HostSync()
    with sync, Heartbeat(), contextlib.ExitStack() as stack:
        # ------------------------------------------------------------------------------------------------------- Mesh
        if not config.model.path:
            raise UserError("config: model.path is not set; give --model.path, a GGUF file or a Hugging Face directory")
        if not config.data.files:
            raise UserError("config: data.files is not set; give --data.files, files that `mvjax curate` wrote")
        if is_first():
            check_place(config)
        keep_programs = stack.enter_context(compiled_programs(config))
        placement = make_placement(config.mesh)
        check_rows(config, placement)

        # ------------------------------------------------------------------------------------------------------- Data
        origins = find_origins(config, restart, sync)
        plain = load_tokenizer(origins.tokenizer)
        tokenizer = plain.with_control_tags()
        dataset = load_data(config, origins.data, tokenizer, placement, sync, console)
        steps = config.steps.total or dataset.batches_in(config.steps.passes)
        dataset.schedule.check(steps)
        measured = None
        if config.held_out.files:
            measured = load_data(config, origins.held_out, tokenizer, placement, sync, console, held_out=True)

        # ------------------------------------------------------------------------------------------------------ Model
        # The tokenizer as loaded tells which tags the base model has already: their rows are trained ones.
        checkpoint, _ = with_tag_rows(load_checkpoint(origins.model), plain)
        model, initial = load_model(config, checkpoint, tokenizer.tag_ids or (), placement)
        shape, index = from_hf(checkpoint.config, scan_layers=config.model.scan_layers), dataset.corpus.index
        model.check(placement)

        batches = stack.enter_context(contextlib.closing(BatchIterator(dataset)))
        return fit(
            config,
            model,
            placement,
            batches,
            steps,
            initial=initial,
            keep_programs=keep_programs,
            held_out=HeldOut(config, measured, model, placement) if measured is not None else None,
            clock=clock,
            sync=sync,
            restart=restart,
            console=console,
            origins=origins.commits,
            belongs_to={"tokenizer": tokenizer.fingerprint, "data": dataset.corpus.store.fingerprint},
            flops=ModelFlops.of(shape, adapter_weights(model.groups, model.params)),
            document_name=lambda document: index.name(document.record),
            make_sampler=partial(
                Sampler,
                shape,
                model.join,
                tokenizer,
                every=config.output.sample_every,
                prompt=config.output.sample_prompt,
                tokens=config.output.sample_tokens,
                form=config.data.form,
                dtype=config.model.dtype,
            ),
            notes=mesh_notes(placement, shape),
            finish=lambda result, place: write_model(
                result,
                place,
                config,
                model,
                tokenizer,
                checkpoint,
                origins.commits.get("model.path", ""),
            ),
        )


class Batches(Protocol):
    """Where `fit` gets this process's rows of each step (`local_rows`); the position is part of a checkpoint."""

    @property
    def facts(self) -> BatchFacts | None:
        """Of the whole batch handed out last; None: its local rows are all that is known."""

    def __next__(self) -> Batch: ...

    def get_state(self) -> dict[str, Any]: ...

    def set_state(self, state: dict[str, Any]) -> None: ...


def fit(
    config: TrainConfig,
    model: TrainableModel,
    placement: Placement,
    batches: Batches,
    steps: int,
    *,
    initial: Initial | None = None,
    keep_programs: Keep = lambda: None,
    held_out: HeldOut | None = None,
    clock: Clock | None = None,
    sync: HostSync | None = None,
    restart: bool = False,
    console: Console | None = None,
    belongs_to: Mapping[str, Any] | None = None,
    origins: Mapping[str, str] | None = None,
    flops: ModelFlops | None = None,
    document_name: Callable[[Document], str] | None = None,
    make_sampler: Callable[..., Sampler] | None = None,
    notes: Sequence[str] = (),
    finish: Callable[[RunResult, StoragePath], Path | StoragePath] | None = None,
) -> RunResult:
    """Train for `steps` steps in all, from the newest checkpoint of the run on, if there is one.

    A resumed run computes bit for bit what the uninterrupted one does.

    Args:
        initial: makes the parameters to start from, where there is no checkpoint; see `init_state`.
        keep_programs: called when programs have been compiled; see `compiled_programs`.
        held_out: measures the loss on held-out text.
        belongs_to: fingerprints of what a checkpoint belongs to (tokenizer, data), kept with it and compared.
        origins: what `origins.Origins.commits` says, for the run's config.json.
        notes: lines to print at the beginning.
        finish: writes what the run was for, once it has finished: a file into the result's directory, or a model into
            the run's place, which it is given; returns the path.
    """
    clock, sync, belongs_to = clock or Clock(), sync or HostSync(), dict(belongs_to or {})
    check_rows(config, placement)
    with contextlib.ExitStack() as stack:
        sync.same("the versions of the libraries", versions(), "install the same on all hosts")
        sync.same("the configuration", to_dict(config), "start the same command on all hosts")
        place = stack.enter_context(run_place(config, restart, sync, origins))
        directory = place.directory

        # -------------------------------------------------------------------------------------------------- Optimizer
        schedule = make_schedule(config.optimizer, steps)
        optimizer = make_optimizer(config.optimizer, schedule, model)

        # ---------------------------------------------------------------------------------------------------- Restore
        checkpoints = Checkpoints(place.checkpoints, config.checkpoints.keep, config.checkpoints.keep_every, sync)
        stack.callback(checkpoints.close)
        with clock("checkpoint"):
            found = checkpoints.restore(abstract_state(model, optimizer, placement))
        if found is None:  # A fresh state and a restored one are never there at once.
            state, record = init_state(model, optimizer, placement, initial), {}
        else:
            state, record = found
            check_origin(directory, record, belongs_to)
            batches.set_state(record["data"])
        best = find_best(record, checkpoints)
        first = int(state.step)
        if first > steps:
            raise UserError(f"{directory}: has done {first} steps, more than the {steps} asked for; use --restart")
        last = min(steps, first + config.steps.stop_after) if config.steps.stop_after else steps

        # ------------------------------------------------------------------------------------------------------- Step
        frozen = jax.device_put(model.frozen, model.frozen_sharding(placement))
        local = local_rows(placement, config.data.rows, config.data.accumulation)
        update = make_update(model, optimizer, placement, config.loss)
        room, skipped = config.data.rows * config.data.row_length, record.get("skipped", 0)
        tags = config.optimizer.tag_multiplier if model.has_tags else None
        peak = peak_flops(list(placement.mesh.devices.flat))
        lines = StepMetrics(clock, steps, first, room, schedule, tags=tags, flops=flops, peak=peak, skipped=skipped)
        bad = BadBatches(directory, document_name, local)
        log = RunLog(
            config,
            directory,
            clock,
            checkpoints,
            record,
            lines,
            bad,
            first=first,
            last=last,
            steps=steps,
            console=console,
        )
        stack.callback(log.close)
        log.say(
            f"{config.name}: {f'resumed at step {first}' if first else 'new run'}, {steps} steps of "
            f"{batch_words(config.data)} on {mesh_words(placement)}, "
            f"{sum(x.size for x in state.params.values()):,} trained parameters"
        )
        for note in notes:
            log.say(note)
        interrupt = stack.enter_context(Interrupt(log.say))
        stack.enter_context(Notices(interrupt.save, interrupt.stop))
        recorded = config.output.profile_start if is_first() else 0
        profile = Profile(directory / "profile", recorded, config.output.profile_steps, clock, log.say)
        stack.callback(profile.close)
        sampler = make_sampler(directory, log.say) if make_sampler is not None else None
        if first < last:
            with clock("compile"):
                update = update.lower(state, frozen, abstract_batch(config.data)).compile()
                if held_out is not None:
                    held_out.compile(state.params, frozen)
            keep_programs()

        # ------------------------------------------------------------------------------------------------------- Loop
        ended = due = False
        clock.loop_begins()
        for number in range(first + 1, last + 1):
            with clock("data"):
                batch = next(batches)
                sharded = shard_batch(batch, config.data.accumulation, placement, rows=config.data.rows, local=local)
            with clock("step"), profile(number):
                state, metrics = update(state, frozen, sharded)
                metrics = {name: value.item() for name, value in jax.device_get(metrics).items()}
            improved = False
            if held_out is not None and held_out.due(number, number == steps):
                with clock("held_out"):
                    metrics |= held_out(state.params, frozen)
                # Not a loss that is nan, of which nothing is less.
                improved = config.held_out.keep_best and metrics[LOSS] < (math.inf if best is None else best.loss)
                log.say(f"step {number}: held-out loss {metrics[LOSS]:.4f}{', the least so far' if improved else ''}")
            log.step(number, metrics, batch, batches.facts)
            ended = interrupt.stops(number)
            due = interrupt.saves(number) or due or improved or number % config.checkpoints.every == 0
            if due or number == last or ended:
                record = {"config": to_dict(config), "versions": versions(), "belongs_to": belongs_to}
                candidate = Best(number, metrics[LOSS]) if improved else best
                record |= {"data": batches.get_state()} | log.record()
                if candidate is not None:
                    record[BEST] = candidate._asdict()
                with clock("checkpoint"):
                    checkpoints.best = candidate.step if candidate is not None else None
                    due = not save(checkpoints, place, state, record, insist=number == last or ended)
                    if not due:
                        best = candidate
                        keep_programs()
                    checkpoints.best = best.step if best is not None else None
            if ended:
                break
            if sampler is not None and sampler.due(number):
                with clock("sample"):
                    sampler(number, state.params)

        # --------------------------------------------------------------------------------------------------------- End
        with clock("checkpoint"):
            checkpoints.wait()
        result = RunResult(state, directory, int(state.step) >= steps, interrupt.asked if ended else None)
        log.saved(int(state.step), "done" if result.finished else "stopped; the same command resumes it")
        if result.finished and finish is not None:
            try:
                place.publish(finish(result, place.results))
            except UnreachableError as error:
                raise StorageAway(
                    f"{error}; the last checkpoint is kept, the same command writes the result"
                ) from error
    return result


def find_best(record: Mapping[str, Any], checkpoints: Checkpoints) -> Best | None:
    """The best checkpoint that a restored one knows of, if it is still there: from now on it is kept."""
    best = Best(**record[BEST]) if record.get(BEST) else None
    if best is None or best.step not in checkpoints.steps():
        return None
    checkpoints.best = best.step
    return best


def save(checkpoints: Checkpoints, place: RunPlace, state: TrainState, record: dict[str, Any], *, insist: bool) -> bool:
    """Save a checkpoint where the place is ready for it; returns whether it was. `insist`: wait for that, and until it
    is complete; else a bucket that is away keeps nobody waiting."""
    while place.ready(insist):
        try:
            checkpoints.save(state, record)
            if insist:
                checkpoints.wait()
            return True
        except UnreachableError as error:
            place.failed(error)
            if not insist:
                return False
    return False


# =============================================================================================================== Model


def write_model(
    result: RunResult,
    place: StoragePath,
    config: TrainConfig,
    model: TrainableModel,
    tokenizer: Tokenizer,
    base: Checkpoint,
    origin: str,
) -> Path | StoragePath:
    """Write what the run was for; returns the path. All processes call it, the first one writes.

    place: of the run. base: the model that the run began from, which decides the configuration and the type of the
    weights. origin: REPOSITORY@COMMIT of it, where it is from the hub: written beside the weights.
    """
    params = result.state.params
    if config.lora.rank:
        path = result.directory / "adapter.safetensors"
        params = {name: jnp.asarray(fetch(x, None)) for name, x in params.items()}
        if is_first():
            metadata = {"tokenizer": tokenizer.fingerprint, "run": config.name, "steps": str(int(result.state.step))}
            metadata |= {"base_model": origin} if origin else {}
            save_adapter(path, model.join(params), metadata=metadata)
        return path
    trained = replace(base, tensors=to_checkpoint(model.join(params)).tensors)
    text = card(origin, "Trained", f"{int(result.state.step)} steps of {config.name}")
    save_checkpoint(place / "model", trained.astype(base.dtype), tokenizer=tokenizer, card=text)
    return place / "model"
