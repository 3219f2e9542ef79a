"""From a configuration to a trained model: files in, run, files out."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp

from mvjax.data.pipeline import Corpus, PackedBatches, PipelineConfig
from mvjax.data.records import Record, read_records
from mvjax.errors import UserError
from mvjax.models import Decoder, LoraConfig, add_lora, from_checkpoint, save_adapter, to_checkpoint
from mvjax.tokenizers import Tokenizer, load_tokenizer
from mvjax.training.config import TrainConfig
from mvjax.training.model import take_apart
from mvjax.training.run import Outcome, run
from mvjax.weights import load_checkpoint, saving, with_tag_rows, write_checkpoint


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
    dataset, tokenizer = load_data(config)
    steps = config.steps or dataset.batches_in(config.passes)
    decoder = load_model(config, tokenizer)
    trainee = take_apart(decoder)
    outcome = run(config, trainee, iter(dataset), steps, restart=restart, console=console)
    if outcome.finished:
        write_model(outcome, config, trainee.join(outcome.state.params), tokenizer)
    return outcome


def load_data(config: TrainConfig) -> tuple[PackedBatches, Tokenizer]:
    """The endless packed dataset of the configuration, and the tokenizer with control tags."""
    tokenizer = load_tokenizer(config.tokenizer or config.model).with_control_tags()
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
    return PackedBatches(corpus, pipeline, [repeat[index] for index in corpus.indices]), tokenizer


def load_model(config: TrainConfig, tokenizer: Tokenizer) -> Decoder:
    """The decoder to train, with rows for the tags and, for LoRA, adapters."""
    # As loaded, before any tags were added: rows of tags that the base model has already are trained ones.
    checkpoint, _ = with_tag_rows(load_checkpoint(config.model), load_tokenizer(config.tokenizer or config.model))
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


def write_model(outcome: Outcome, config: TrainConfig, decoder: Decoder, tokenizer: Tokenizer) -> Path:
    """Write what the run was for; returns the path."""
    if config.lora_rank:
        path = outcome.directory / "adapter.safetensors"
        metadata = {"tokenizer": tokenizer.fingerprint, "run": config.name, "steps": str(int(outcome.state.step))}
        save_adapter(path, decoder, metadata=metadata)
        return path
    path, checkpoint = outcome.directory / "model", to_checkpoint(decoder)
    with saving(path, checkpoint.nbytes) as directory:
        write_checkpoint(directory, checkpoint, "safetensors")
        tokenizer.save(directory)
    return path
