"""The engine's model over several devices, each with a part of every layer (tensor parallelism, arXiv 1909.08053).

One `shard_map` stands around prefill and decode; inside, `DecoderStepModel` computes with a device's heads and columns
(`TensorSplit.local`). What devices say to each other in a step: the sum of the embedding's rows, one sum after the
attention and one after the feed-forward layer of each layer, and the parts of the logits, which every device then has
whole: interpreter and sampler run on all of them and decide alike. OLMo-2's norms of whole projections take two small
sums a layer more.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, UInt

from mvjax.models.config import ModelConfig
from mvjax.models.decode import DecoderStepModel
from mvjax.models.decode_ops import DecodeOps
from mvjax.models.hf_config import from_hf
from mvjax.models.kv_arrays import KVArrays
from mvjax.models.layers import rms_norm
from mvjax.models.tensor_split import AXIS, TensorSplit, tensor_mesh
from mvjax.weights import Checkpoint


class TensorParallelModel(DecoderStepModel):
    """A model whose layers are split over the devices of a mesh, as the engine's step model.

    Keys and values are split by their heads, `config.kv_heads` being the number of these with repeated ones counted;
    tokens, page table, visibility and logits are whole on every device, as is what else the engine keeps
    (`replicated`).
    """

    def __init__(
        self,
        config: ModelConfig,
        mesh: Mesh,
        **options: Any,
    ):
        """A model whose `params` are shapes, see `described`; options as for `DecoderStepModel.settle`.

        mesh: with the axis "tensor" alone (`tensor_mesh`). Raises UserError where its devices cannot share the model.
        """
        self.split, self.mesh = TensorSplit(config.served(), mesh.size), mesh
        self.replicated = NamedSharding(mesh, PartitionSpec())
        self._local = LocalModel(self.split, **options)
        self.settle(self.split.whole, **options)
        self.params = self.split.shapes(mesh, self.unroll, self.formats)
        self.specs = jax.tree.map(lambda leaf: leaf.sharding.spec, self.params)

    @classmethod
    def described(
        cls, config: ModelConfig, devices: int = 1, among: Sequence[jax.Device] | None = None, **options: Any
    ) -> TensorParallelModel:
        """A model without weights on the first `devices` devices of this process, or of `among`."""
        return cls(config, tensor_mesh(devices, among), **options)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, devices: int = 1, **options: Any) -> TensorParallelModel:
        """A model with a checkpoint's weights, which go straight to the devices that they belong to.

        Raises UserError where the devices are too few or cannot share the model, or the checkpoint is damaged.
        """
        model = cls.described(from_hf(checkpoint.config), devices, **options)
        model.params = model.split.load(checkpoint, model.mesh, model.unroll, model.formats)
        return model

    @property
    def local(self) -> LocalModel:
        """What one device computes, inside the `shard_map`."""
        return self._local

    @property
    def arithmetic(self) -> Hashable:
        """See `mvjax.engine.StepModel`."""
        return super().arithmetic, self.vocab_size, self.mesh

    def _zeros(self, shape: tuple[int, ...], stack: bool) -> KVArrays:
        """Split by heads from the start."""

        def make() -> KVArrays:
            return super(TensorParallelModel, self)._zeros(shape, stack)

        places = jax.tree.map(lambda leaf: NamedSharding(self.mesh, heads_spec(leaf.ndim)), jax.eval_shape(make))
        return jax.jit(make, out_shardings=places)()

    def _spec(self, kv: KVArrays) -> Any:
        """Partition of streams or pages, and of the table that they lie under, in the form of `kv`."""
        k, v = jax.tree.map(lambda leaf: heads_spec(leaf.ndim), (kv.k, kv.v))
        table: Any = None if kv.table is None else PartitionSpec()
        return KVArrays(k, v, table)

    def kv_places(self, kv: KVArrays) -> KVArrays:
        """Where streams or pages, and the table that they lie under, lie on the devices."""
        return jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), self._spec(kv))

    def prefill(
        self,
        params: Any,
        kv: KVArrays,
        tokens_BT: Int[Array, "B T"],
        positions_BT: Int[Array, "B T"],
        hide_start_BES: Int[Array, "B E S"],
        hide_end_BES: Int[Array, "B E S"],
        request_B: Int[Array, " B"],
        offset_B: Int[Array, " B"],
        length_B: Int[Array, " B"],
    ) -> KVArrays:
        """As `DecoderStepModel.prefill`; every device writes its heads' keys and values."""
        chunks = tokens_BT, positions_BT, hide_start_BES, hide_end_BES, request_B, offset_B, length_B
        return self._on_every_device(self._local.prefill, self._spec(kv), params, kv, *chunks)

    def decode(
        self,
        params: Any,
        kv: KVArrays,
        tokens_W: Int[Array, " W"],
        positions_W: Int[Array, " W"],
        rows: Any,
        visibility_RS: UInt[Array, "R S"],
    ) -> tuple[Float[Array, "W V"], KVArrays]:
        """As `DecoderStepModel.decode`."""
        results, step = (PartitionSpec(), self._spec(kv)), (tokens_W, positions_W, rows, visibility_RS)
        logits_WV, kv = self._on_every_device(self._local.decode, results, params, kv, *step)
        return logits_WV[:, : self.vocab_size], kv

    def _on_every_device(self, function: Callable, results: Any, params: Any, kv: KVArrays, *whole: Any) -> Any:
        """A method of `LocalModel` on each device's part of the parameters and of keys and values. results: partition
        of what it returns; whole: arguments that every device has."""
        specs = self.specs, self._spec(kv), *(PartitionSpec(),) * len(whole)
        return jax.shard_map(function, mesh=self.mesh, in_specs=specs, out_specs=results, check_vma=False)(
            params, kv, *whole
        )


def heads_spec(axes: int) -> PartitionSpec:
    """Partition of keys or values [..., K, slots, H], or of the scales of pages [P, K, Z], by their heads."""
    return PartitionSpec(*(None,) * max(axes - 3, 1), AXIS)


class LocalModel(DecoderStepModel):
    """What one device computes, inside the `shard_map`."""

    def __init__(self, split: TensorSplit, **options: Any):
        self.settle(split.local, **options)
        pieces = {name.removesuffix(".weight"): piece.split for name, piece in split.layer.items()}
        self.summed = frozenset(name for name, axis in pieces.items() if axis == 1)
        self.spread = frozenset(name for name, axis in pieces.items() if axis == 0)

    def lookup(self, params: Any, tokens_W: Array) -> Array:
        """Each device looks up the tokens whose rows it has; the sum has them all."""
        mine_W = tokens_W - jax.lax.axis_index(AXIS) * params["embed"].shape[0]

        def pick(array: Array) -> Array:
            return array.at[mine_W].get(mode="fill", fill_value=0, wrap_negative_indices=False)

        return jax.lax.psum(self.rows(params, pick), AXIS)

    def logits(self, params: Any, name: str, x_DW: Array) -> Array:
        """The devices' parts one after the other."""
        return jax.lax.all_gather(super().logits(params, name, x_DW), AXIS, tiled=True)

    def ops(self, *fields: Any) -> LocalOps:
        """With sums over the devices."""
        return LocalOps(self.config, *fields, summed=self.summed, spread=self.spread)


@dataclass(frozen=True)
class LocalOps(DecodeOps):
    """The operations of a layer on a device's heads and columns."""

    summed: frozenset[str] = frozenset()
    """Packs whose products are parts of a sum over the devices."""
    spread: frozenset[str] = frozenset()
    """Packs and norms whose features are split over the devices."""

    def product(self, pack: str, x: jax.Array) -> jax.Array:
        y_OW = super().product(pack, x)
        return jax.lax.psum(y_OW, AXIS) if pack in self.summed else y_OW

    def norm(self, module: str, x: jax.Array) -> jax.Array:
        over = AXIS if module in self.spread else None
        return rms_norm(x, self.weights[f"{module}.weight"], self.config.rms_eps, axis=-2, over=over)
