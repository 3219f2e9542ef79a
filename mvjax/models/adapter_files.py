"""Adapters in files: one safetensors file of mvjax, or a directory of PEFT; onto a decoder and off it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from mvjax.errors import UserError
from mvjax.files import atomic_path
from mvjax.models.adapter import Adapter
from mvjax.models.decoder import Decoder
from mvjax.models.export import gathered
from mvjax.models.lora import TRAINABLE, LoraConfig, add_lora
from mvjax.models.peft import directory_of, read_peft
from mvjax.models.tensors import hf_names, is_stacked
from mvjax.weights.checkpoint import cast, lazily
from mvjax.weights.tensor_file import read_tensor_file, write_tensor_file

FORMAT = "mvjax adapter 1"
FILE = "adapter.safetensors"
"""Name of the adapter that a finished run leaves."""


def read_adapter(path: str | Path) -> Adapter:
    """The adapter of a file of `save_adapter`, or one of PEFT (its directory, or its adapter_model.safetensors).

    Raises UserError where it is none, is damaged, or is of a kind that is not supported.
    """
    path = Path(path)
    if path.is_dir() and (path / FILE).is_file():  # a run of LoRA training, once it is finished
        path = path / FILE
    if (folder := directory_of(path)) is not None:
        return read_peft(folder)
    try:
        tensors, header = read_tensor_file(path)
    except (UserError, OSError) as error:
        raise UserError(f"{path}: cannot be read as an adapter ({error}); a safetensors file is needed") from error
    if header.get("format") != FORMAT:
        raise UserError(f"{path}: is no adapter file of this version (format {header.get('format')!r})")
    lora = json.loads(header.pop("lora"))
    lora |= {"targets": tuple(lora["targets"]), "tag_ids": tuple(lora["tag_ids"])}
    # Adapters of version 0.1 do not say whether there are biases that a configuration may leave out.
    shape = {"attention_bias": False} | json.loads(header.pop("base"))
    return Adapter(LoraConfig(**lora), tensors, shape, {k: v for k, v in header.items() if k != "format"}, path)


def save_adapter(
    path: str | Path, decoder: Decoder, *, dtype=jnp.float32, metadata: Mapping[str, str] | None = None
) -> None:
    """Write adapters and tag rows to one safetensors file, each layer's under its Hugging Face path.

    The file's metadata holds the format, the base model's shape, the LoraConfig and what `metadata` adds (strings;
    the tokenizer's fingerprint belongs under "tokenizer"). It does not matter whether layers were scanned.
    """
    adapter = adapter_of(decoder, metadata)
    tensors = {name: cast(name, entry, np.dtype(dtype)) for name, entry in adapter.tensors.items()}
    header = {
        "format": FORMAT,
        "base": json.dumps(adapter.shape),
        "lora": json.dumps(dataclasses.asdict(adapter.lora)),
    }
    with atomic_path(path) as temporary:
        write_tensor_file(temporary, tensors, {**adapter.facts, **header})


def adapter_of(decoder: Decoder, facts: Mapping[str, str] | None = None) -> Adapter:
    """The adapter of a decoder; UserError where it has none."""
    if decoder.lora is None:
        raise UserError("the model has no adapter to save")
    entries = lazily(gathered(nnx.state(decoder, TRAINABLE), decoder.config))
    return Adapter(decoder.lora, entries, decoder.config.shape(), dict(facts or {}))


def load_adapter(path: str | Path | Adapter, decoder: Decoder, *, tokenizer: str | None = None) -> Decoder:
    """Add an adapter to the decoder, in place, and return it. path: as for `read_adapter`.

    tokenizer: fingerprint of the tokenizer in use; compared where the file names one.
    Raises UserError where the file is no adapter, is incomplete, or was made for a base model of another shape or
    for another tokenizer.
    """
    adapter = path if isinstance(path, Adapter) else read_adapter(path)
    adapter.check(decoder.config, tokenizer)
    add_lora(decoder, adapter.lora)

    def fill(where, variable):
        names = hf_names(where, decoder.config)
        if names[0] not in adapter.tensors:  # rows of one of two matrices: those of the other stay as they are
            return variable
        arrays = [adapter.tensors[name].read().astype(np.float32) for name in names]
        return variable.replace(jnp.asarray(np.stack(arrays) if is_stacked(where, decoder.config) else arrays[0]))

    nnx.update(decoder, nnx.map_state(fill, nnx.state(decoder, TRAINABLE)))
    return decoder
