"""Low-rank adapters (LoRA, arXiv 2106.09685) on the linear layers, and trainable rows for the control tags."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mvjax.errors import UserError
from mvjax.files import atomic_path
from mvjax.models.decoder import Decoder, Linear, TagRows
from mvjax.models.export import gathered
from mvjax.models.tensors import hf_names, is_stacked
from mvjax.weights.checkpoint import LazyTensor, cast, lazily
from mvjax.weights.tensor_file import read_tensor_file, write_tensor_file

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

FORMAT = "mvjax adapter 1"

TRAINABLE = nnx.Any(nnx.LoRAParam, TagRows)
"""NNX filter: what a LoRA run trains."""


@dataclass(frozen=True)
class LoraConfig:
    """What to adapt."""

    rank: int = 16
    """Rank of every update; 0 leaves the linear layers alone (tag rows only)."""
    alpha: float = 32.0
    """The update is scaled by alpha / rank."""
    targets: tuple[str, ...] = LINEARS
    """Names of the linear layers that get one."""
    tag_ids: tuple[int, ...] = ()
    """Vocabulary ids whose embedding (and output) rows become trainable; () for none."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.targets) - set(LINEARS))
        if unknown:
            raise UserError(f"LoRA: there is no linear layer {unknown[0]!r}; choose of {', '.join(LINEARS)}")
        if self.rank < 0:
            raise UserError(f"LoRA: rank {self.rank} is negative")


def add_lora(decoder: Decoder, config: LoraConfig, *, seed: int = 0) -> Decoder:
    """Add adapters and tag rows to the decoder, in place, and return it.

    The adapted decoder computes what it did before (B starts at zero, the tag rows as they are). New parameters are
    float32: A [rank, in], B [out, rank], a leading layer axis where layers are scanned; tag rows [tags, D] on the
    embedding, and on the output matrix too where it is untied. Train the parameters that `TRAINABLE` selects.
    """
    if is_adapted(decoder):
        raise UserError("LoRA: the model has an adapter already; merge it first")
    outside = [tag for tag in config.tag_ids if not 0 <= tag < decoder.config.vocab_size]
    if outside:
        raise UserError(
            f"LoRA: tag id {outside[0]} lies outside the vocabulary of {decoder.config.vocab_size} rows; "
            "add the tag rows to the checkpoint first"
        )
    key = jax.random.key(seed)
    for count, (_, linear) in enumerate(adaptable(decoder, config.targets if config.rank else ())):
        *stack, outputs, inputs = linear.weight.shape
        start = jax.random.normal(jax.random.fold_in(key, count), (*stack, config.rank, inputs), jnp.float32)
        layers, (output_axis, input_axis) = ("layers",) * len(stack), linear.axes
        linear.lora_a = nnx.LoRAParam(start * inputs**-0.5, axes=(*layers, None, input_axis))
        zeros = jnp.zeros((*stack, outputs, config.rank), jnp.float32)
        linear.lora_b = nnx.LoRAParam(zeros, axes=(*layers, output_axis, None))
        linear.lora_scale = config.alpha / config.rank
    decoder.lora = config
    if config.tag_ids:
        for matrix in vocabulary_matrices(decoder):
            matrix.tag_ids = tuple(config.tag_ids)
            rows_KD = matrix.weight[...][jnp.asarray(config.tag_ids)].astype(jnp.float32)
            matrix.tag_rows = TagRows(rows_KD, axes=(None, None))
    return decoder


def merge(decoder: Decoder) -> Decoder:
    """Fold adapters and tag rows into the weights, in place, and return the decoder, now without them.

    The sum is taken in float32 and rounded once to the weights' dtype.
    """
    for _, linear in adaptable(decoder, LINEARS):
        if linear.lora_a is None or linear.lora_b is None:
            continue
        update = linear.lora_scale * (linear.lora_b[...] @ linear.lora_a[...])
        weight = linear.weight[...]
        linear.weight[...] = (weight.astype(jnp.float32) + update).astype(weight.dtype)
    for matrix in vocabulary_matrices(decoder):
        matrix.weight[...] = matrix.matrix()
    return remove_adapter(decoder)


def remove_adapter(decoder: Decoder) -> Decoder:
    """Drop adapters and tag rows, in place, and return the decoder: the base model is back."""
    for _, linear in adaptable(decoder, LINEARS):
        linear.lora_a, linear.lora_b, linear.lora_scale = nnx.data(None), nnx.data(None), 0.0
    for matrix in vocabulary_matrices(decoder):
        matrix.tag_rows, matrix.tag_ids = nnx.data(None), ()
    decoder.lora = None
    return decoder


def is_adapted(decoder: Decoder) -> bool:
    """Whether the decoder carries adapters or tag rows."""
    return bool(jax.tree.leaves(nnx.state(decoder, TRAINABLE)))


def save_adapter(
    path: str | Path, decoder: Decoder, *, dtype=jnp.bfloat16, metadata: Mapping[str, str] | None = None
) -> None:
    """Write adapters and tag rows to one safetensors file, each layer's under its Hugging Face path.

    The file's metadata holds the format, the base model's shape, the LoraConfig and what `metadata` adds (strings;
    the tokenizer's fingerprint belongs under "tokenizer"). It does not matter whether layers were scanned.
    """
    if decoder.lora is None:
        raise UserError(f"{path}: the model has no adapter to save")
    entries = lazily(gathered(nnx.state(decoder, TRAINABLE), decoder.config))
    tensors = {name: cast(name, entry, np.dtype(dtype)) for name, entry in entries.items()}
    header = {
        "format": FORMAT,
        "base": json.dumps(decoder.config.shape()),
        "lora": json.dumps(dataclasses.asdict(decoder.lora)),
    }
    with atomic_path(path) as temporary:
        write_tensor_file(temporary, tensors, {**(metadata or {}), **header})


def load_adapter(path: str | Path, decoder: Decoder, *, tokenizer: str | None = None) -> Decoder:
    """Add the adapter of a file to the decoder, in place, and return it.

    tokenizer: fingerprint of the tokenizer in use; compared where the file names one.
    Raises UserError where the file is no adapter, is incomplete, or was made for a base model of another shape or
    for another tokenizer.
    """
    tensors, header = read_adapter(path)
    # Adapters of version 0.1 do not say whether there are biases that a configuration may leave out.
    base, mine = {"attention_bias": False} | json.loads(header["base"]), decoder.config.shape()
    for key in mine:
        if base.get(key) != mine[key]:
            raise UserError(
                f"{path}: the adapter's base model has {key} {base.get(key)}, this model has {mine[key]}; "
                "load the base model that the adapter was trained on"
            )
    if tokenizer is not None and header.get("tokenizer", tokenizer) != tokenizer:
        raise UserError(f"{path}: the adapter was trained with another tokenizer than this model's")
    lora = json.loads(header["lora"])
    lora |= {"targets": tuple(lora["targets"]), "tag_ids": tuple(lora["tag_ids"])}
    add_lora(decoder, LoraConfig(**lora))

    def read(where, variable):
        stacked = is_stacked(where, decoder.config)
        shape = variable.shape[1:] if stacked else variable.shape
        arrays = []
        for name in hf_names(where, decoder.config):
            if name not in tensors:
                raise UserError(f"{path}: tensor {name} is missing; the adapter is incomplete")
            if (found := tensors[name].shape) != shape:
                raise UserError(f"{path}: {name} has shape {list(found)}, the model asks for {list(shape)}")
            arrays.append(tensors[name].read().astype(np.float32))
        return variable.replace(jnp.asarray(np.stack(arrays) if stacked else arrays[0]))

    try:
        nnx.update(decoder, nnx.map_state(read, nnx.state(decoder, TRAINABLE)))
    except UserError:
        remove_adapter(decoder)
        raise
    return decoder


def read_adapter(path: str | Path) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """The lazy tensors and the metadata of an adapter file; UserError where it is none."""
    try:
        tensors, header = read_tensor_file(Path(path))
    except (UserError, OSError) as error:
        raise UserError(f"{path}: cannot be read as an adapter ({error}); a safetensors file is needed") from error
    if header.get("format") != FORMAT:
        raise UserError(f"{path}: is no adapter file of this version (format {header.get('format')!r})")
    return tensors, header


def adaptable(decoder: Decoder, targets: tuple[str, ...]) -> Iterator[tuple[tuple, Linear]]:
    """(path, module) of the linear layers with these names, in a fixed order."""
    found = [(path, node) for path, node in nnx.iter_graph(decoder) if isinstance(node, Linear) and path[-1] in targets]
    yield from sorted(found, key=lambda item: tuple(map(str, item[0])))


def vocabulary_matrices(decoder: Decoder) -> list:
    """The matrices that have tag rows: the embedding, and the output matrix where it is untied."""
    return [decoder.embed_tokens] if decoder.lm_head is None else [decoder.embed_tokens, decoder.lm_head]
