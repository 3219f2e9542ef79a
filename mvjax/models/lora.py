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
    key = jax.random.key(seed)
    for count, (_, linear) in enumerate(adaptable(decoder, config.targets if config.rank else ())):
        *stack, outputs, inputs = linear.weight.shape
        start = jax.random.normal(jax.random.fold_in(key, count), (*stack, config.rank, inputs), jnp.float32)
        linear.lora_a = nnx.LoRAParam(start * inputs**-0.5)
        linear.lora_b = nnx.LoRAParam(jnp.zeros((*stack, outputs, config.rank), jnp.float32))
        linear.lora_scale = config.alpha / config.rank
    if config.tag_ids:
        for table in tables(decoder):
            outside = [tag for tag in config.tag_ids if not 0 <= tag < table.weight.shape[0]]
            if outside:
                raise UserError(
                    f"LoRA: tag id {outside[0]} lies outside the vocabulary of {table.weight.shape[0]} rows; "
                    "add the tag rows to the checkpoint first"
                )
            table.tag_ids = tuple(config.tag_ids)
            table.tag_rows = TagRows(table.weight[...][jnp.asarray(config.tag_ids)].astype(jnp.float32))
    return decoder


def merge(decoder: Decoder) -> Decoder:
    """Fold adapters and tag rows into the weights, in place, and return the decoder, now without them.

    The sum is taken in float32 and rounded once to the weights' dtype.
    """
    for _, linear in adaptable(decoder, LINEARS):
        if linear.lora_a is None:
            continue
        update = linear.lora_scale * (linear.lora_b[...] @ linear.lora_a[...])
        weight = linear.weight[...]
        linear.weight[...] = (weight.astype(jnp.float32) + update).astype(weight.dtype)
        linear.lora_a = linear.lora_b = nnx.data(None)
        linear.lora_scale = 0.0
    for table in tables(decoder):
        table.weight[...] = table.matrix()
        table.tag_rows, table.tag_ids = nnx.data(None), ()
    return decoder


def is_adapted(decoder: Decoder) -> bool:
    """Whether the decoder carries adapters or tag rows."""
    return bool(jax.tree.leaves(nnx.state(decoder, TRAINABLE)))


def adaptable(decoder: Decoder, targets: tuple[str, ...]) -> Iterator[tuple[tuple, Linear]]:
    """(path, module) of the linear layers with these names, in a fixed order."""
    found = [(path, node) for path, node in nnx.iter_graph(decoder) if isinstance(node, Linear) and path[-1] in targets]
    yield from sorted(found, key=lambda item: tuple(map(str, item[0])))


def tables(decoder: Decoder) -> list:
    """The matrices that have tag rows: the embedding, and the output matrix where it is untied."""
    return [decoder.embed_tokens] if decoder.lm_head is None else [decoder.embed_tokens, decoder.lm_head]
