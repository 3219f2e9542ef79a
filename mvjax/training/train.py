"""The trainer, from top to bottom: mesh, data, model, optimizer, restore, step, loop.

`train` goes from the files that a configuration names to a trained model. `fit`, its second half, takes any model and
any batches. Beside it: `mesh` and `batch` (what lies where), `model`, `loss`, `checkpoints`, `run_directory`, `run_log`
(all that a run reports) and `distributed` (several processes as one run).
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array
from rich.console import Console

from mvjax.data.build import build_store
from mvjax.data.corpus import Corpus
from mvjax.data.packing import Batch
from mvjax.data.pipeline import BatchIterator, PackedBatches
from mvjax.data.schedule import BatchFacts, Document, PipelineConfig
from mvjax.data.sources import describe, open_data
from mvjax.data.store import open_store, pull_store, push_store, store_path
from mvjax.errors import UserError
from mvjax.hub import Source, card
from mvjax.language import PARTS
from mvjax.models import load_checkpoint, save_adapter, to_checkpoint
from mvjax.models.export import fetch, save_checkpoint
from mvjax.models.hf_config import from_hf
from mvjax.models.placement import Placement
from mvjax.storage import StoragePath, UnreachableError, cache_directory
from mvjax.tokenizers import Tokenizer, load_tokenizer
from mvjax.training.bad_batches import BadBatches
from mvjax.training.base_model import Initial, load_model
from mvjax.training.batch import StepBatch, abstract_batch, batch_words, check_rows, shard_batch, step_batch_sharding
from mvjax.training.bucket_directory import StorageAway
from mvjax.training.checkpoints import Checkpoints
from mvjax.training.clock import Clock
from mvjax.training.compiled_programs import Keep, compiled_programs
from mvjax.training.config import LossConfig, OptimizerConfig, TrainConfig, to_dict
from mvjax.training.distributed import Heartbeat, HostSync, is_first, versions
from mvjax.training.flops import ModelFlops, adapter_weights, peak_flops
from mvjax.training.interrupt import Interrupt
from mvjax.training.loss import Head, LossSums, cross_entropy_on_mesh
from mvjax.training.mesh import local_rows, make_placement, mesh_notes, mesh_words
from mvjax.training.model import TAGS, TrainableModel, TrainState
from mvjax.training.notices import Notices
from mvjax.training.origins import find_origins
from mvjax.training.profile import Profile
from mvjax.training.rounding import apply_updates
from mvjax.training.run_directory import check_origin
from mvjax.training.run_log import RunLog
from mvjax.training.run_place import RunPlace, check_place, run_place
from mvjax.training.sample import Sampler
from mvjax.training.state import abstract_state, init_state, make_state
from mvjax.training.step_metrics import StepMetrics
from mvjax.weights import Checkpoint, with_tag_rows

BUILD_PATIENCE = 24 * 3600.0
"""Seconds that the other processes wait for process 0 to encode the records."""


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
            log.step(number, metrics, batch, batches.facts)
            ended = interrupt.stops(number)
            due = interrupt.saves(number) or due or number % config.checkpoints.every == 0
            if due or number == last or ended:
                record = {"config": to_dict(config), "versions": versions(), "belongs_to": belongs_to}
                record |= {"data": batches.get_state()} | log.record()
                with clock("checkpoint"):
                    due = not save(checkpoints, place, state, record, insist=number == last or ended)
                    if not due:
                        keep_programs()
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


# ================================================================================================================ Data


def load_data(
    config: TrainConfig,
    sources: Sequence[Source],
    tokenizer: Tokenizer,
    placement: Placement,
    sync: HostSync,
    console: Console | None = None,
) -> PackedBatches:
    """The endless packed dataset of the configuration, this process's rows of it; the tokenizer has the control tags.

    Process 0 encodes the records once, or fetches what an earlier run has left in the bucket; all read what it has.
    """
    data = config.data
    files = open_data(sources, data.format, suffix=data.suffix)
    kept = StoragePath(data.store) if data.store else StoragePath(config.output.directory) / ".tokens"
    path = store_path(files, tokenizer, kept.local or cache_directory() / "tokens")
    sync.same("the data or the tokenizer", path.name, "give all hosts the same files")
    if is_first():
        console = console or Console(highlight=False, soft_wrap=True)
        for line in describe(files, [source.name for source in sources]):
            console.print(line, markup=False)
        pull_store(kept / path.name, path)
        build_store(path, files, tokenizer, console=console)
        push_store(path, kept / path.name)
    sync.gather("the encoded records", None, patience=BUILD_PATIENCE)
    pull_store(kept / path.name, path)
    pipeline = PipelineConfig(
        row_length=data.row_length,
        rows=data.rows,
        levels=data.levels,
        shares=data.curriculum if data.form == "multiverse" else (0.0,),
        seed=config.seed,
        equal_records=data.equal_records,
        max_bad_share=data.max_bad_share,
        transcripts=data.transcripts_per_step,
        tokens=data.tokens_per_step,
    )
    corpus = Corpus(open_store(path, patience=60.0), pipeline)
    repeat = corpus.repeat([data.repeat[file.entry] for file in files]) if data.repeat else None
    return PackedBatches(corpus, pipeline, repeat, local_rows(placement, data.rows, data.accumulation))


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


# =========================================================================================================== Optimizer


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate by step: linear from 0 over the warm-up's share of `steps`, then cosine to the final rate."""
    warmup = max(1, round(config.warmup * steps)) if config.warmup else 0
    return optax.warmup_cosine_decay_schedule(
        init_value=config.learning_rate / (warmup + 1) if warmup else config.learning_rate,
        peak_value=config.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(steps, warmup + 1),
        end_value=config.learning_rate * config.final_learning_rate,
    )


def make_optimizer(
    config: OptimizerConfig, schedule: optax.Schedule, model: TrainableModel
) -> optax.GradientTransformation:
    """AdamW over a model's parameters.

    Clipped by the global norm first. Norms and biases are not decayed, nor are tag rows that are parameters of their
    own. Tag rows take `tag_multiplier` times Adam's step, whether they are parameters of their own or rows of a trained
    matrix; there they are decayed with the matrix, at its rate.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.clip) if config.clip else optax.identity(),
        optax.scale_by_adam(config.beta1, config.beta2, config.epsilon),
        optax.stateless(partial(scale_tags, config.tag_multiplier, model)) if model.has_tags else optax.identity(),
        optax.add_decayed_weights(config.weight_decay, model.decayed),
        optax.scale_by_learning_rate(schedule),
    )


def scale_tags(factor: float, model: TrainableModel, updates: dict[str, Array], _: Any) -> dict[str, Array]:
    """Updates with those of the tag rows multiplied."""
    if factor == 1.0:
        return updates

    def scaled(name: str, update: Array) -> Array:
        if model.groups[name] == TAGS:
            return factor * update
        if name not in model.tag_rows:
            return update
        # A product with every row, not a scatter: it stays where the rows lie, and is part of Adam's own loop.
        is_tag_V = jnp.isin(jnp.arange(update.shape[0]), jnp.asarray(model.tag_rows[name]))
        return update * jnp.where(is_tag_V, factor, 1.0).astype(update.dtype)[:, None]

    return {name: scaled(name, update) for name, update in updates.items()}


# ================================================================================================================ Step


def make_update(
    model: TrainableModel, optimizer: optax.GradientTransformation, placement: Placement, config: LossConfig
) -> Any:
    """-> update(state, frozen, batch: StepBatch) -> (state, metrics), jit-compiled with shardings, not yet compiled.

    The loss is the weighted mean over all targets of the step, so micro-batches and devices change it by rounding
    only. A step whose loss or gradient is not finite counts, but leaves weights and optimizer as they were and says so
    in `metrics["finite"]`.
    """
    head = Head(model.tag_ids, model.train_base, config.chunk, config.z_loss)

    def loss(params, frozen, scale, batch: StepBatch):
        hidden_BTD, base_VD, tags_KD = model.forward(params, frozen, *batch[:-1])
        sums = cross_entropy_on_mesh(placement, head, hidden_BTD, base_VD, tags_KD, batch.targets)
        return sums.total * scale, sums

    def gradients(params, frozen, scale, batch: StepBatch):
        value = jax.value_and_grad(loss, has_aux=True)

        def one(micro):
            (_, sums), grads = value(params, frozen, scale, micro)
            return sums, {name: placement.home(x, model.sharding(placement, name)) for name, x in grads.items()}

        if batch.tokens_ABT.shape[0] == 1:
            return one(jax.tree.map(lambda x: x[0], batch))
        shapes = jax.eval_shape(one, jax.tree.map(lambda x: x[0], batch))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        zeros = zeros[0], {name: placement.home(x, model.sharding(placement, name)) for name, x in zeros[1].items()}
        return jax.lax.scan(lambda carry, micro: (jax.tree.map(jnp.add, carry, one(micro)), None), zeros, batch)[0]

    def update(state: TrainState, frozen, batch: StepBatch):
        weight = batch.targets.weight_BT.sum()
        sums, grads = gradients(state.params, frozen, 1.0 / jnp.maximum(weight, 1e-9), batch)
        norm = jnp.sqrt(sum(jnp.vdot(g, g, preferred_element_type=jnp.float32) for g in jax.tree.leaves(grads)))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        finite = jnp.isfinite(sums.total) & jnp.isfinite(norm)
        after, before = (apply_updates(state.params, updates, state.step), opt_state), (state.params, state.opt_state)
        new = jax.tree.map(lambda after, before: jnp.where(finite, after, before), after, before)
        return TrainState(state.step + 1, *new), means(sums, weight) | {"gradient_norm": norm, "finite": finite}

    state = jax.eval_shape(partial(make_state, optimizer), model.params)
    at = model.state_sharding(placement, state)
    inputs = at, model.frozen_sharding(placement), step_batch_sharding(placement)
    return jax.jit(update, donate_argnums=0, in_shardings=inputs, out_shardings=(at, placement.whole))


def means(sums: LossSums, weight: Array) -> dict[str, Array]:
    """What a step reports, from its sums; a part without a target is nan."""
    targets = sums.counts_P.sum()
    parts = {}
    for name, sum_P in (("loss", sums.parts_P), ("accuracy", sums.correct_P)):
        parts |= {f"{name}_{part}": sum_P[i] / sums.counts_P[i] for i, part in enumerate(PARTS) if part != "prompt"}
    return {
        "loss": sums.total / jnp.maximum(weight, 1e-9),
        **parts,
        "accuracy": sums.correct_P.sum() / jnp.maximum(targets, 1),
        "targets": targets,
    }
