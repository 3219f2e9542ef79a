"""From a configuration to a trained model: files in, run, files out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx

from mvjax.data.build import build_store
from mvjax.data.corpus import Corpus
from mvjax.data.pipeline import BatchIterator, PackedBatches
from mvjax.data.schedule import PipelineConfig
from mvjax.data.store import open_store, store_path
from mvjax.errors import UserError
from mvjax.models import Decoder, LoraConfig, add_lora, from_checkpoint, load_checkpoint, save_adapter
from mvjax.models.export import fetch, gathered, save_model
from mvjax.models.placement import Placement
from mvjax.tokenizers import Tokenizer, load_tokenizer
from mvjax.training.clock import Clock
from mvjax.training.config import TrainConfig
from mvjax.training.distributed import Heartbeat, HostSync, is_first
from mvjax.training.feed import check_rows
from mvjax.training.flops import ModelFlops, adapter_weights
from mvjax.training.mesh import local_rows, make_placement, mesh_notes
from mvjax.training.model import TrainableModel, make_trainable
from mvjax.training.run import RunResult, run
from mvjax.training.sample import Sampler
from mvjax.weights import Checkpoint, with_tag_rows

BUILD_PATIENCE = 24 * 3600.0
"""Seconds that the other processes wait for process 0 to encode the records."""


def train(config: TrainConfig, *, restart: bool = False, console=None) -> RunResult:
    """Run a configuration to its end or to an interruption; UserError for anything that the user can mend.

    Leaves in OUTPUT/NAME: config.json, metrics.jsonl, tensorboard/, checkpoints/, and at the end adapter.safetensors
    (LoRA) or model/ (a Hugging Face directory with the tokenizer).
    """
    config.check()
    sync = HostSync()
    clock = Clock()
    try:
        with Heartbeat():
            return _train(config, sync, restart, console, clock)
    except UserError as error:
        sync.fail(error)
        raise


def _train(config: TrainConfig, sync: HostSync, restart: bool, console, clock: Clock) -> RunResult:
    if not config.model:
        raise UserError("config: model is not set; give --model, a GGUF file or a Hugging Face directory")
    if not config.data:
        raise UserError("config: data is not set; give --data, files that `mvjax curate` wrote")
    placement = make_placement(config)
    check_rows(config, placement)
    plain = load_tokenizer(config.tokenizer or config.model)
    tokenizer = plain.with_control_tags()
    dataset = load_data(config, tokenizer, placement, sync, console)
    steps = config.steps or dataset.batches_in(config.passes)
    # The tokenizer as loaded tells which tags the base model has already: their rows are trained ones.
    checkpoint, _ = with_tag_rows(load_checkpoint(config.model), plain)
    decoder = load_model(config, checkpoint, tokenizer, placement)
    model = make_trainable(decoder)
    model.check(placement)
    batches = BatchIterator(dataset)
    index, shape = dataset.corpus.index, decoder.config

    def make_sampler(directory: Path, say) -> Sampler:
        return Sampler(
            shape,
            model.join,
            tokenizer,
            directory,
            say,
            every=config.steps_per_sample,
            prompt=config.sample_prompt,
            tokens=config.sample_tokens,
            form=config.form,
            dtype=config.dtype,
        )

    try:
        result = run(
            config,
            model,
            placement,
            batches,
            steps,
            belongs_to={"tokenizer": tokenizer.fingerprint, "data": dataset.corpus.store.fingerprint},
            sync=sync,
            restart=restart,
            console=console,
            clock=clock,
            flops=ModelFlops.of(shape, adapter_weights(model.groups, model.params)),
            name=lambda document: index.name(document.record),
            make_sampler=make_sampler,
            notes=mesh_notes(placement, shape),
        )
    finally:
        batches.close()
    if result.finished:
        write_model(result, config, model, tokenizer, checkpoint.generation)
    return result


def load_data(
    config: TrainConfig, tokenizer: Tokenizer, placement: Placement, sync: HostSync, console=None
) -> PackedBatches:
    """The endless packed dataset of the configuration, this process's rows of it; the tokenizer has the control tags.

    Process 0 encodes the records once; all read what it wrote.
    """
    tokens = Path(config.tokens or Path(config.output) / ".tokens")
    path = store_path(config.data, tokenizer, tokens)
    sync.same("the data or the tokenizer", path.name, "give all hosts the same files")
    if is_first():
        build_store(path, config.data, tokenizer, console=console)
    sync.gather("the encoded records", None, patience=BUILD_PATIENCE)
    pipeline = PipelineConfig(
        row_length=config.row_length,
        rows=config.rows,
        levels=config.levels,
        shares=config.curriculum if config.form == "multiverse" else (0.0,),
        seed=config.seed,
        equal_records=config.equal_records,
        max_bad_share=config.max_bad_share,
    )
    corpus = Corpus(open_store(path, patience=60.0), pipeline)
    repeat = corpus.repeat(config.repeat) if config.repeat else None
    return PackedBatches(corpus, pipeline, repeat, local_rows(placement, config.rows, config.accumulation))


def load_model(config: TrainConfig, checkpoint: Checkpoint, tokenizer: Tokenizer, placement: Placement) -> Decoder:
    """The decoder to train from a checkpoint with rows for the tags; for LoRA, with adapters."""
    dtype = jnp.dtype(config.dtype)
    lora = config.lora_rank > 0
    decoder = from_checkpoint(
        checkpoint,
        dtype=dtype,
        param_dtype=dtype if lora else jnp.dtype(config.master_dtype),
        scan_layers=config.scan_layers,
        remat=config.remat,
        backend=config.attention,
        placement=placement,
    )
    if lora:
        adapters = LoraConfig(config.lora_rank, config.lora_alpha, config.lora_targets, tokenizer.tag_ids)
        add_lora(decoder, adapters, seed=config.seed)
    return decoder


def write_model(
    result: RunResult, config: TrainConfig, model: TrainableModel, tokenizer: Tokenizer, generation: dict[str, Any]
) -> Path:
    """Write what the run was for; returns the path. All processes call it, the first one writes.

    generation: the base model's keys of generation_config.json.
    """
    params = result.state.params
    if config.lora_rank:
        path = result.directory / "adapter.safetensors"
        params = {name: jnp.asarray(fetch(x, None)) for name, x in params.items()}
        if is_first():
            metadata = {"tokenizer": tokenizer.fingerprint, "run": config.name, "steps": str(int(result.state.step))}
            save_adapter(path, model.join(params), metadata=metadata)
        return path
    path = result.directory / "model"
    decoder = model.join(params)
    tensors = gathered(nnx.state(decoder, nnx.Param), decoder.config)
    shape = to_hf(decoder.config) | {"torch_dtype": config.master_dtype}
    save_model(path, Checkpoint(config=shape, tensors=tensors, generation=generation), tokenizer)
    return path
