"""From a configuration to a trained model: files in, run, files out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from mvjax.data.pipeline import Corpus, PackedBatches, PipelineConfig
from mvjax.data.records import Record, read_records
from mvjax.errors import UserError
from mvjax.models import Decoder, LoraConfig, add_lora, from_checkpoint, save_adapter, to_checkpoint
from mvjax.tokenizers import Tokenizer, load_tokenizer
from mvjax.training.config import TrainConfig
from mvjax.training.model import take_apart
from mvjax.training.run import Outcome, run
from mvjax.weights import Checkpoint, load_checkpoint, saving, with_tag_rows, write_checkpoint


def train(config: TrainConfig, *, restart: bool = False, console=None) -> Outcome:
    """Run a configuration to its end or to an interruption; UserError for anything that the user can mend.

    Leaves in OUTPUT/NAME: config.json, metrics.jsonl, tensorboard/, checkpoints/, and at the end adapter.safetensors
    (LoRA) or model/ (a Hugging Face directory with the tokenizer).
    """
    config.check()
    if not config.model:
        raise UserError("config: model is not set; give --model, a GGUF file or a Hugging Face directory")
    if not config.data:
        raise UserError("config: data is not set; give --data, files that `mvjax curate` wrote")
    plain = load_tokenizer(config.tokenizer or config.model)
    tokenizer = plain.with_control_tags()
    dataset = load_data(config, tokenizer)
    steps = config.steps or dataset.batches_in(config.passes)
    # The tokenizer as loaded tells which tags the base model has already: their rows are trained ones.
    checkpoint, _ = with_tag_rows(load_checkpoint(config.model), plain)
    decoder = load_model(config, checkpoint, tokenizer)
    trainee = take_apart(decoder)
    outcome = run(config, trainee, iter(dataset), steps, restart=restart, console=console)
    if outcome.finished:
        decoder = trainee.join(outcome.state.params)
        write_model(outcome, config, decoder, tokenizer, checkpoint.generation)
    return outcome


def load_data(config: TrainConfig, tokenizer: Tokenizer) -> PackedBatches:
    """The endless packed dataset of the configuration; the tokenizer has the control tags."""
    records: list[Record] = []
    repeat: list[int] = []
    for number, path in enumerate(config.data):
        file = read_records(path, max_bad_share=config.max_bad_share)
        records += file.records
        repeat += [config.repeat[number] if config.repeat else 1] * len(file.records)
    pipeline = PipelineConfig(
        row_length=config.row_length,
        rows=config.rows,
        levels=config.levels,
        shares=config.curriculum if config.form == "multiverse" else (0.0,),
        seed=config.seed,
        max_bad_share=config.max_bad_share,
    )
    corpus = Corpus(records, tokenizer, pipeline, ", ".join(config.data))
    return PackedBatches(corpus, pipeline, [repeat[index] for index in corpus.indices])


def load_model(config: TrainConfig, checkpoint: Checkpoint, tokenizer: Tokenizer) -> Decoder:
    """The decoder to train from a checkpoint with rows for the tags; for LoRA, with adapters."""
    dtype = jnp.dtype(config.dtype)
    lora = config.lora_rank > 0
    decoder = from_checkpoint(
        checkpoint,
        dtype=dtype,
        param_dtype=dtype if lora else jnp.float32,
        scan_layers=config.scan_layers,
        remat=config.remat,
    )
    if lora:
        adapters = LoraConfig(config.lora_rank, config.lora_alpha, config.lora_targets, tokenizer.tag_ids)
        add_lora(decoder, adapters, seed=config.seed)
    return decoder


def write_model(
    outcome: Outcome, config: TrainConfig, decoder: Decoder, tokenizer: Tokenizer, generation: dict[str, Any]
) -> Path:
    """Write what the run was for; returns the path. `generation`: the base model's keys of generation_config.json."""
    if config.lora_rank:
        path = outcome.directory / "adapter.safetensors"
        metadata = {"tokenizer": tokenizer.fingerprint, "run": config.name, "steps": str(int(outcome.state.step))}
        save_adapter(path, decoder, metadata=metadata)
        return path
    path = outcome.directory / "model"
    checkpoint = dataclasses.replace(to_checkpoint(decoder), generation=generation)
    with saving(path, checkpoint.nbytes) as directory:
        write_checkpoint(directory, checkpoint, "safetensors")
        tokenizer.save(directory)
    return path
