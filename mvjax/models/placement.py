"""Where the arrays of a model lie on a mesh: one table from logical axes to mesh axes, and what follows from it.

Every parameter and activation names its axes by what they mean ("embed", "heads", "batch"); `RULES` alone says what
that is on a mesh. Weights are split over "fsdp" (and "context") along their embed axis and over "tensor" along heads,
feed-forward width and vocabulary (one whose size "tensor" does not divide lies over all of these by its columns, and is
padded when it is used); a layer gathers its own over "fsdp" while it runs. Rows of a batch lie over "data"
and "fsdp", the text over "context". Between layers the text is split over "tensor" too (sequence parallelism): what
is kept for the backward pass, and the norms, are then split over every chip.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import jax
import jax.numpy as jnp
import mvjax_kernels
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from mvjax.errors import UserError

MESH_AXES = ("data", "fsdp", "context", "tensor")
"""Axes of every mesh, outermost first; any may be of size 1."""

RULES: Mapping[str, tuple[str, ...]] = {
    # Parameters.
    "vocab": ("tensor",),
    "embed": ("fsdp", "context"),
    "columns": ("tensor", "fsdp", "context"),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "ffn": ("tensor",),
    # Activations.
    "batch": ("data", "fsdp"),
    "length": ("context",),
    "between": ("context", "tensor"),
}
"""Logical axis -> mesh axes that split it. An axis that is not here is whole on every chip."""

UNEVEN = ("rows", "columns")
"""Axes of a vocabulary's matrix whose rows do not split over "tensor": it lies by its columns."""

GATHERED = ("embed",)
"""Axes of parameters that are whole while a layer runs."""

Axes = tuple[str | None, ...]


def mesh_axes(axis: str | None) -> tuple[str, ...]:
    """Mesh axes that split a logical axis; none where it is whole everywhere."""
    return () if axis is None else RULES.get(axis, ())


@dataclass(frozen=True)
class Placement:
    """A mesh and what lies where on it."""

    mesh: Mesh
    """With the axes of MESH_AXES."""
    rounds: int = 1
    """Rounds of chunks along the context axis, see `mvjax_kernels.Split`."""

    def parts(self, axis: str | None) -> int:
        """How many parts a logical axis is split into."""
        return self.size(*mesh_axes(axis))

    def size(self, *mesh_axes: str) -> int:
        """Chips along some axes of the mesh."""
        return math.prod(self.mesh.shape[axis] for axis in mesh_axes)

    def spec(self, axes: Axes, *, gathered: bool = False) -> PartitionSpec:
        """The partition of an array with these logical axes; `gathered`: as a layer sees its weights."""
        named = [() if gathered and axis in GATHERED else mesh_axes(axis) for axis in axes]
        return PartitionSpec(*(names or None for names in named))

    def sharding(self, axes: Axes) -> NamedSharding:
        """Where an array with these logical axes lies."""
        return NamedSharding(self.mesh, self.spec(axes))

    @property
    def whole(self) -> NamedSharding:
        """A copy on every chip."""
        return NamedSharding(self.mesh, PartitionSpec())

    def check(self, name: str, shape: tuple[int, ...], axes: Axes) -> None:
        """UserError where the mesh does not divide a parameter."""
        for size, axis in zip(shape, axes, strict=True):
            if size % self.parts(axis):
                split = " x ".join(f"{mesh_axis} {self.mesh.shape[mesh_axis]}" for mesh_axis in mesh_axes(axis))
                raise UserError(
                    f"mesh: {name} of shape {list(shape)} has an axis {axis!r} of {size}, which does not split over "
                    f"{self.parts(axis)} chips ({split}); choose sizes that divide it"
                )

    def constrain(self, x: Array, *axes: str | None) -> Array:
        """An activation, held to where its logical axes say."""
        return self.home(x, self.sharding(axes))

    def move(self, x: Array, axes: Axes, back: Axes) -> Array:
        """An activation, held to where `axes` say, and its gradient to where `back` says.

        A constraint alone would hold the gradient to the same place. Where the text is split over "tensor" on one side
        of a layer and whole on the other, the gradient goes the way of the activation backwards.
        """
        return x if self.mesh.size == 1 else _moved(self.sharding(axes), self.sharding(back), x)

    def home(self, x: Array, sharding: NamedSharding) -> Array:
        """A gradient or the like, held to where its parameter lies."""
        return x if self.mesh.size == 1 else jax.lax.with_sharding_constraint(x, sharding)

    def gather(self, weight: Array, axes: Axes) -> Array:
        """A weight as its layer needs it; its gradient is summed straight into where the weight lies."""
        if self.mesh.size == 1 or self.spec(axes) == self.spec(axes, gathered=True):
            return weight
        here = NamedSharding(self.mesh, self.spec(axes, gathered=True))
        return _moved(here, self.sharding(axes), weight)

    def vocabulary_axes(self, rows: int) -> Axes:
        """Logical axes of a vocabulary's matrix [rows, D]."""
        return UNEVEN if rows % self.parts("vocab") else ("vocab", "embed")

    def vocabulary(self, table_VD: Float[Array, "V D"]) -> Float[Array, "R D"]:
        """A vocabulary's matrix as it is used: its rows over "tensor", each of them whole.

        Where its rows do not split evenly, R is the next number that does, and rows of zeros are at the end: so the
        parameter, its checkpoints and its exports have no row too many.
        """
        rows, columns = self.spec(("vocab",)), self.spec(UNEVEN)
        parts = self.parts("vocab")
        if not (missing := -table_VD.shape[0] % parts):
            return self.gather(table_VD, ("vocab", "embed"))

        def local(table_VD):
            table_VD = jax.lax.all_gather(table_VD, RULES["embed"], axis=1, tiled=True)
            table_RD = jnp.pad(table_VD, ((0, missing), (0, 0)))
            return jax.lax.all_to_all(table_RD, RULES["vocab"], split_axis=0, concat_axis=1, tiled=True)

        return jax.shard_map(local, mesh=self.mesh, in_specs=columns, out_specs=rows, check_vma=False)(table_VD)

    def splits_heads(self, heads: int, kv_heads: int) -> bool:
        """Whether attention is split by heads. Where "tensor" does not divide their number (weights are split by the
        rows of all heads together, and may divide), each of its chips computes the attention of all heads."""
        parts = self.parts("heads")
        return heads % parts == 0 and kv_heads % parts == 0

    @cached_property
    def split(self) -> mvjax_kernels.Split:
        """The same for the attention kernels."""
        context = "context" if self.mesh.shape["context"] > 1 else None
        return mvjax_kernels.Split(self.mesh, RULES["batch"], "tensor", context, self.rounds)

    def attention(
        self,
        q_BTNH: Float[Array, "B T N H"],
        k_BTKH: Float[Array, "B T K H"],
        v_BTKH: Float[Array, "B T K H"],
        hide_start_BET: Int[Array, "B E T"],
        hide_end_BET: Int[Array, "B E T"],
        *,
        backend: str,
    ) -> Float[Array, "B T N H"]:
        """Multiverse Attention over the mesh; tokens along T are in `split.order`, the intervals in text order."""
        args = (q_BTNH, k_BTKH, v_BTKH, hide_start_BET, hide_end_BET)
        if self.mesh.size == 1:
            return cast(Array, mvjax_kernels.attention(*args, backend=backend))
        by_heads = self.splits_heads(q_BTNH.shape[2], k_BTKH.shape[2])
        split = self.split if by_heads else replace(self.split, heads=None)
        return cast(Array, mvjax_kernels.sharded_attention(*args, split, backend=backend))

    def lookup(self, table_VD: Float[Array, "V D"], tokens_BT: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Rows of a matrix whose rows lie over "tensor": each chip looks up its own, the sum has them all."""
        tables = self.size(*RULES["vocab"])
        if self.mesh.size == 1 or tables == 1:
            return table_VD[tokens_BT]

        def local(table_VD, tokens_BT):
            first = jax.lax.axis_index(RULES["vocab"]) * table_VD.shape[0]
            mine_BT = (tokens_BT >= first) & (tokens_BT < first + table_VD.shape[0])
            rows_BTD = table_VD[jnp.where(mine_BT, tokens_BT - first, 0)]
            return jax.lax.psum(jnp.where(mine_BT[..., None], rows_BTD, 0), RULES["vocab"])

        rows, ids = PartitionSpec(RULES["vocab"]), self.spec(("batch", "length"))
        found = jax.shard_map(local, mesh=self.mesh, in_specs=(rows, ids), out_specs=ids, check_vma=False)
        return found(table_VD, tokens_BT)


def _moved(here: NamedSharding, home: NamedSharding, x: Array) -> Array:
    @jax.custom_vjp
    def move(x):
        return jax.lax.with_sharding_constraint(x, here)

    move.defvjp(lambda x: (move(x), None), lambda _, grad: (jax.lax.with_sharding_constraint(grad, home),))
    return move(x)
