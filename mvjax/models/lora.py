"""Low-rank adapters (LoRA, arXiv 2106.09685) on the linear layers, and trainable rows for the control tags."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from mvjax.errors import UserError
from mvjax.models.decoder import Decoder, Linear, TagRows

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

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


def adaptable(decoder: Decoder, targets: tuple[str, ...]) -> Iterator[tuple[tuple, Linear]]:
    """(path, module) of the linear layers with these names, in a fixed order."""
    found = [(path, node) for path, node in nnx.iter_graph(decoder) if isinstance(node, Linear) and path[-1] in targets]
    yield from sorted(found, key=lambda item: tuple(map(str, item[0])))


def vocabulary_matrices(decoder: Decoder) -> list:
    """The matrices that have tag rows: the embedding, and the output matrix where it is untied."""
    return [decoder.embed_tokens] if decoder.lm_head is None else [decoder.embed_tokens, decoder.lm_head]
