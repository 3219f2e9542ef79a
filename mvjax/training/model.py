"""The decoder as the trainer sees it: named parameters to train, frozen ones, and a pure function of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import optax
from flax import nnx
from jax.sharding import NamedSharding
from jaxtyping import Array, Int

from mvjax.models.decoder import Decoder, TagRows
from mvjax.models.lora import TRAINABLE, is_adapted
from mvjax.models.placement import UNEVEN, Axes, Placement

VOCABULARY = {("vocab",), UNEVEN[:1]}
"""First axes of the matrices that have a row for each token."""

TAGS = "tags"
"""Group of the control tags' rows, which may learn faster than the rest."""


class TrainState(NamedTuple):
    """What a step changes, and all that a checkpoint must hold."""

    step: Int[Array, ""]
    """Steps done."""
    params: dict[str, Array]
    """Trained parameters (float32, or bfloat16 where the configuration says so)."""
    opt_state: optax.OptState
    """State of the optimizer."""


@dataclass(frozen=True)
class TrainableModel:
    """A model, split for training.

    `forward(params, frozen, tokens_BT, positions_BT, hide_start_BET, hide_end_BET)` gives the final hidden states
    [B, T, D], the output matrix [V, D] and its tag rows [K, D] or None. Arrays may be abstract (`ShapeDtypeStruct`).
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
    axes: Mapping[str, Axes] = field(default_factory=dict)
    """Logical axes of each parameter; whole on every chip where there are none."""
    frozen_axes: tuple[Axes, ...] = ()
    """Logical axes of the leaves of `frozen`; () as above."""
    tag_rows: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Where the control tags' rows are part of a trained matrix: their numbers, by the matrix's name."""

    @property
    def decayed(self) -> dict[str, bool]:
        """Whether each parameter takes weight decay: by what its axes mean, not by how many there are, because norms
        and biases of scanned layers are matrices [layers, D]. Tag rows of their own take none."""

        def is_matrix(name: str) -> bool:
            axes = self.axes.get(name, (None,) * len(self.params[name].shape))
            return sum(axis != "layers" for axis in axes) >= 2

        return {name: group != TAGS and is_matrix(name) for name, group in self.groups.items()}

    @property
    def has_tags(self) -> bool:
        """Whether rows of control tags are trained."""
        return bool(self.tag_rows) or TAGS in self.groups.values()

    def check(self, placement: Placement) -> None:
        """UserError where the mesh does not divide an array."""
        for name, axes in self.axes.items():
            placement.check(name, self.params[name].shape, axes)
        for leaf, axes in zip(jax.tree.leaves(self.frozen), self.frozen_axes):
            placement.check("a frozen parameter", leaf.shape, axes)

    def sharding(self, placement: Placement, name: str) -> NamedSharding:
        """Where a parameter lies, and what the optimizer keeps of it."""
        return placement.sharding(self.axes[name]) if name in self.axes else placement.whole

    def frozen_sharding(self, placement: Placement):
        """The same for `frozen`, a tree of its form."""
        structure = jax.tree.structure(self.frozen)
        leaves = [placement.sharding(axes) for axes in self.frozen_axes] or [placement.whole] * structure.num_leaves
        return jax.tree.unflatten(structure, leaves)

    def state_sharding(self, placement: Placement, state: TrainState) -> TrainState:
        """Where each array of a state lies: the optimizer's with the parameter whose name they bear."""

        def of(path, _):
            names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
            return self.sharding(placement, names[-1]) if names else placement.whole

        return jax.tree_util.tree_map_with_path(of, state)


def make_trainable(decoder: Decoder, tag_ids: Sequence[int] = ()) -> TrainableModel:
    """Split a decoder: adapters and tag rows are trained where it has them, otherwise all of it.

    tag_ids: rows of the control tags in the vocabulary matrices, where all of it is trained.
    """
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
    axes = {name: variable.axes for name, (_, variable) in zip(paths, flat)}
    in_matrices = () if lora else tuple(tag_ids)

    def merge(params, frozen) -> Decoder:
        return nnx.merge(graphdef, jax.tree.unflatten(structure, [params[name] for name in paths]), frozen)

    def forward(params, frozen, *batch):
        model = merge(params, frozen)
        rows_KD = None if model.head.tag_rows is None else model.head.tag_rows[...]
        return model.hidden(*batch), model.head.weight[...], rows_KD

    return TrainableModel(
        params=dict(zip(paths, leaves)),
        frozen=frozen,
        groups=groups,
        axes=axes,
        frozen_axes=tuple(variable.axes for _, variable in nnx.to_flat_state(frozen)),
        forward=forward,
        tag_ids=tuple(decoder.head.tag_ids),
        tag_rows={name: in_matrices for name, its in axes.items() if in_matrices and its[:1] in VOCABULARY},
        train_base=not lora,
        join=lambda params: merge(params, frozen),
    )
