"""From files to something that generates: tokenizer, weights, control tags, adapter."""

from __future__ import annotations

import dataclasses
import os
from importlib import resources
from pathlib import Path
from typing import Any

from mvjax.errors import UserError
from mvjax.files import DEFAULT_MODEL
from mvjax.hub import local_path
from mvjax.models.adapter import merge_adapter
from mvjax.models.adapter_files import load_adapter, read_adapter
from mvjax.models.checkpoint import from_checkpoint
from mvjax.models.decode import DecoderStepModel
from mvjax.models.decoder import Decoder
from mvjax.models.gguf_checkpoint import gguf_checkpoint
from mvjax.models.hf_config import from_hf, normalised
from mvjax.models.number_formats import number_formats
from mvjax.models.tensor_parallel import TensorParallelModel
from mvjax.models.tensor_split import TensorSplit, devices_needed
from mvjax.models.tensors import DERIVED, HEAD, check_tensors
from mvjax.served_model import KVDtype, WeightDtype
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


def open_merged(path: Path, adapter: Path | None = None, tokenizer: Path | None = None) -> tuple[Tokenizer, Checkpoint]:
    """As `open_with_tags`, an adapter merged into the tensors as they are read."""
    words, checkpoint = open_with_tags(path, tokenizer)
    if (adapter := local_path(adapter, "adapter")) is not None:
        checkpoint = merge_adapter(checkpoint, read_adapter(adapter), tokenizer=words.fingerprint)
    return words, checkpoint


def load_for_generation(
    path: Path,
    adapter: Path | None = None,
    *,
    tokenizer: Path | None = None,
    tensor_parallel: int | None = None,
    weight_dtype: WeightDtype = "auto",
    kv_dtype: KVDtype = "auto",
) -> tuple[Tokenizer, DecoderStepModel]:
    """A tokenizer and the engine's model, the adapter merged.

    Weights go from the files to the devices a piece at a time, quantised on the way where that is asked for.

    tokenizer: where the tokenizer is, if not beside or inside the weights.
    tensor_parallel: devices of this process that share the model, each with a part of every layer; None: as few as hold
        it (`devices_needed`).
    weight_dtype: of weights and activations: "auto" (float32 on CPU, where bfloat16 is slower, bfloat16 elsewhere),
        "float32", "bfloat16"; or of the weights alone, with a scale for each row: "int8", "fp8".
    kv_dtype: of keys and values: "auto" (that of the activations), "float32", "bfloat16" or "int8".
    """
    words, checkpoint = open_merged(path, adapter, tokenizer)
    options = {"tensor_parallel": tensor_parallel, "weight_dtype": weight_dtype, "kv_dtype": kv_dtype}
    return words, step_model(checkpoint, **options)


def step_model(checkpoint: Checkpoint, tensor_parallel: int | None = None, **formats: Any) -> DecoderStepModel:
    """The engine's model of a checkpoint with rows for the control tags; options as for `load_for_generation`."""
    config, chosen = from_hf(checkpoint.config), number_formats(**formats)
    if tensor_parallel is None:
        devices = devices_needed(config, chosen.weights)
    else:
        devices = TensorSplit(config, tensor_parallel).size
    if devices > 1:
        return TensorParallelModel.from_checkpoint(checkpoint, devices, **formats)
    return DecoderStepModel.from_checkpoint(checkpoint, **formats)


def demo_adapter() -> Path:
    """The adapter that ships with the package; UserError where it is missing."""
    path = Path(str(resources.files("mvjax") / "assets" / "demo-adapter.safetensors"))
    if not path.exists():
        raise UserError(f"{path}: the demo's adapter is not there; train it with mvjax train configs/demo.py")
    return path
