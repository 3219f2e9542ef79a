"""The decoder as the trainer sees it: named parameters to train, frozen ones, and a pure function of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mvjax.models.decoder import Decoder, TagRows
from mvjax.models.lora import TRAINABLE, is_adapted
from mvjax.training.optimizer import TAGS


@dataclass(frozen=True)
class Trainee:
    """A model taken apart for training.

    `forward(params, frozen, tokens_BT, positions_BT, hide_start_BET, hide_end_BET)` gives the final hidden states
    [B, T, D], the output matrix [V, D] and its tag rows [K, D] or None.
    """

    params: dict[str, jax.Array]
    """Parameters to train by name, such as `layers/0/mlp/up_proj/lora_a`."""
    frozen: object
    """All other arrays, a pytree."""
    groups: dict[str, str]
    """Group of each parameter for the optimizer: tags, lora or base."""
    forward: Callable
    """Pure function, see above."""
    tag_ids: tuple[int, ...]
    """Token ids of the tag rows; empty where they are part of the matrix."""
    train_base: bool
    """Whether the output matrix is trained."""
    join: Callable[[dict[str, jax.Array]], Decoder]
    """The decoder with these parameters."""


def take_apart(decoder: Decoder) -> Trainee:
    """Split a decoder: adapters and tag rows are trained where it has them, otherwise all of it."""
    lora = is_adapted(decoder)
    graphdef, chosen, frozen = nnx.split(decoder, TRAINABLE if lora else nnx.Param, ...)
    flat = nnx.to_flat_state(chosen)
    paths = ["/".join(map(str, path)) for path, _ in flat]
    structure = jax.tree.structure(chosen)
    # One parameter is one leaf, in the order of the flat state: checked, because `merge` relies on it.
    leaves = jax.tree.leaves(chosen)
    assert all(variable.get_value() is leaf for (_, variable), leaf in zip(flat, leaves, strict=True))
    groups = {
        name: TAGS if isinstance(variable, TagRows) else "lora" if isinstance(variable, nnx.LoRAParam) else "base"
        for name, (_, variable) in zip(paths, flat)
    }
    tag_ids = tuple(decoder.head.tag_ids)

    def merge(params, frozen) -> Decoder:
        return nnx.merge(graphdef, jax.tree.unflatten(structure, [params[name] for name in paths]), frozen)

    def forward(params, frozen, *batch):
        model = merge(params, frozen)
        rows_KD = model.head.tag_rows[...] if tag_ids else None
        return model.hidden(*batch), model.head.weight[...], rows_KD

    return Trainee(
        params=dict(zip(paths, leaves)),
        frozen=frozen,
        groups=groups,
        forward=forward,
        tag_ids=tag_ids,
        train_base=not lora,
        join=lambda params: merge({name: jnp.asarray(np.asarray(x)) for name, x in params.items()}, frozen),
    )
