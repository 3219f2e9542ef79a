"""From files to something that generates: tokenizer, weights, control tags, adapter."""

from __future__ import annotations

import dataclasses
import os
from importlib import resources
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from mvjax_kernels import backends

from mvjax.errors import UserError
from mvjax.files import DEFAULT_MODEL
from mvjax.hub import local_path
from mvjax.models.adapter import merge_adapter
from mvjax.models.adapter_files import load_adapter, read_adapter
from mvjax.models.checkpoint import from_checkpoint
from mvjax.models.decode import DecoderStepModel, unrolls
from mvjax.models.decoder import Decoder
from mvjax.models.gguf_checkpoint import gguf_checkpoint
from mvjax.models.hf_config import from_hf, normalised
from mvjax.models.lora import merge
from mvjax.models.tensor_parallel import TensorParallelModel
from mvjax.models.tensor_split import TensorSplit, devices_needed
from mvjax.models.tensors import DERIVED, HEAD, check_tensors
from mvjax.tokenizers import Tokenizer, load_tokenizer
from mvjax.weights import Checkpoint, LazyTensors, lazily, read_files, with_tag_rows


def load_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """Open a model: a Hugging Face directory (sharded or not), a GGUF file or an Orbax model directory.

    The configuration is normalised, the tensors are checked against it and read when asked for. Raises `UserError`
    where the path is no model or damaged, for an unsupported architecture, missing tensors or wrong shapes.
    """
    files = read_files(path)
    if isinstance(files, Checkpoint):
        entries = {name: entry for name, entry in lazily(files.tensors).items() if not name.endswith(DERIVED)}
        tied = files.config.get("tie_word_embeddings")
        if tied is None:
            tied = HEAD not in entries
        if tied:
            entries.pop(HEAD, None)
        config = normalised({**files.config, "tie_word_embeddings": tied}, f"{files.source}/config.json")
        checkpoint = dataclasses.replace(files, config=config, tensors=LazyTensors(entries))
    else:
        checkpoint = gguf_checkpoint(files)
    check_tensors(checkpoint)
    return checkpoint


def load_with_tags(
    path: Path, *, adapter: Path | None = None, tokenizer: Path | None = None, **options
) -> tuple[Tokenizer, Decoder]:
    """A tokenizer with the control tags and a decoder with a row for each, the adapter (if any) not merged yet.

    Args:
        path: a GGUF file, a Hugging Face directory or an Orbax directory, its tokenizer beside or inside it, or a name
            on the hub (`hub.resolve`).
        adapter: a file of `save_adapter`; or a name.
        tokenizer: where the tokenizer is instead, as for `load_tokenizer`; or a name.
        options: as for `from_checkpoint` (dtype, param_dtype, scan_layers, remat, backend).

    Raises:
        UserError: a file is missing, damaged or does not belong to the others.
    """
    words, checkpoint = open_with_tags(path, tokenizer)
    adapter = local_path(adapter, "adapter")
    decoder = from_checkpoint(checkpoint, **options)
    if adapter is not None:
        load_adapter(adapter, decoder, tokenizer=words.fingerprint)
    return words, decoder


def open_with_tags(path: Path, tokenizer: Path | None = None) -> tuple[Tokenizer, Checkpoint]:
    """A tokenizer with the control tags and a checkpoint with a row for each; arguments as for `load_with_tags`."""
    if path == DEFAULT_MODEL and not path.exists():
        raise UserError(f"{path}: the default model is not there; fetch it with make model, or name one with --model")
    path, tokenizer = local_path(path), local_path(tokenizer, "tokenizer")
    checkpoint, words = with_tag_rows(load_checkpoint(path), load_tokenizer(tokenizer or path))
    return words, checkpoint


def load_for_generation(
    path: Path,
    adapter: Path | None = None,
    dtype=None,
    tokenizer: Path | None = None,
    tensor_parallel: int | None = None,
) -> tuple[Tokenizer, DecoderStepModel]:
    """A tokenizer and the engine's model, the adapter merged.

    tokenizer: where the tokenizer is, if not beside or inside the weights.
    dtype: of weights and K/V; None picks float32 on CPU (bfloat16 is slower there) and bfloat16 elsewhere.
    tensor_parallel: devices of this process that share the model, each with a part of every layer; None: as few as hold
        it (`devices_needed`).
    """
    words, checkpoint = open_with_tags(path, tokenizer)
    adapter = local_path(adapter, "adapter")
    devices = devices_for(checkpoint, dtype, tensor_parallel)
    if devices > 1:
        if adapter is not None:
            checkpoint = merge_adapter(checkpoint, read_adapter(adapter), tokenizer=words.fingerprint)
        return words, step_model(checkpoint, dtype, devices)
    decoder = from_checkpoint(checkpoint, **generation_options(dtype))
    if adapter is not None:
        merge(load_adapter(adapter, decoder, tokenizer=words.fingerprint))
    return words, DecoderStepModel(decoder)


def step_model(checkpoint: Checkpoint, dtype=None, tensor_parallel: int | None = None) -> DecoderStepModel:
    """The engine's model of a checkpoint with rows for the control tags; options as for `load_for_generation`."""
    options, devices = generation_options(dtype), devices_for(checkpoint, dtype, tensor_parallel)
    if devices > 1:
        return TensorParallelModel.from_checkpoint(checkpoint, devices, dtype=options["dtype"])
    return DecoderStepModel(from_checkpoint(checkpoint, **options))


def devices_for(checkpoint: Checkpoint, dtype, tensor_parallel: int | None) -> int:
    """Devices that are to share a model: as many as the user says, or as it needs. UserError where they cannot."""
    if tensor_parallel is not None:
        return TensorSplit(from_hf(checkpoint.config), tensor_parallel).size
    return devices_needed(from_hf(checkpoint.config), generation_options(dtype)["dtype"])


def generation_options(dtype=None) -> dict[str, Any]:
    """Options of `from_checkpoint` for a decoder that generates."""
    platform = backends.platform()
    dtype = dtype or (jnp.float32 if platform == "cpu" else jnp.bfloat16)
    return {"dtype": dtype, "param_dtype": dtype, "scan_layers": not unrolls(platform)}


def demo_adapter() -> Path:
    """The adapter that ships with the package; UserError where it is missing."""
    path = Path(str(resources.files("mvjax") / "assets" / "demo-adapter.safetensors"))
    if not path.exists():
        raise UserError(f"{path}: the demo's adapter is not there; train it with mvjax train configs/demo.py")
    return path
