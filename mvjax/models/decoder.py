"""One decoder for all families, in Flax NNX.

Parameters keep Hugging Face's names and layouts: a projection's weight is [out, in], and the path of a parameter in
the module, with "model." before it, is its name in a checkpoint (`layers.3.self_attn.q_proj.weight`). Blocks are
either separate modules or one module whose parameters carry a leading layer axis; the computation is the same. On a
mesh, every parameter and activation lies where its logical axes say (`mvjax.models.placement`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import mvjax_kernels
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from mvjax.models.arrays import ArraySpec, ParamFactory, outer_arrays
from mvjax.models.config import ModelConfig
from mvjax.models.families import find_family
from mvjax.models.layers import rms_norm
from mvjax.models.low_rank import folded, folds, low_rank
from mvjax.models.placement import Placement
from mvjax.models.rotary import rotary_tables, rotate
from mvjax.models.tensors import layer_arrays

REMAT: Mapping[str, Callable | None] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "attention": jax.checkpoint_policies.save_only_these_names(mvjax_kernels.RESIDUALS),
    "products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
"""What is kept of each block for the backward pass: everything; nothing but its input; that and what attention needs,
so that only attention is not run again; all matrix products."""


class TagRows(nnx.Param):
    """Trainable rows of an embedding or output matrix that stand in for its rows of the control tags, [tags, D]."""


class Linear(nnx.Module):
    """y = W x + b, W [out, in], with an optional low-rank update scale * B A (LoRA, arXiv 2106.09685).

    With a layer axis every parameter is [L, ...]; a scan hands the module over one layer at a time. `axes` are the
    logical ones of W.
    """

    def __init__(self, weight: ArraySpec, bias: ArraySpec | None, *, param: ParamFactory, placement: Placement | None):
        self.weight = param(weight)
        self.bias = None if bias is None else param(bias)
        self.lora_a: nnx.LoRAParam | None = nnx.data(None)
        self.lora_b: nnx.LoRAParam | None = nnx.data(None)
        self.lora_scale = 0.0
        self.axes = weight.axes
        self.placement = placement

    def __call__(self, x: Float[Array, "... i"]) -> Float[Array, "... o"]:
        # No `.T`: the transposed weight would be kept for the backward pass, a copy of all where layers are scanned.
        weight = whole(self.weight, self.axes, x.dtype, self.placement)
        if self.lora_a is None or self.lora_b is None:
            y = jnp.einsum("...i,oi->...o", x, weight)
        else:
            a = whole(self.lora_a, (None, self.axes[1]), x.dtype, self.placement)
            b = self.lora_scale * whole(self.lora_b, (self.axes[0], None), x.dtype, self.placement)
            if folds(self._tokens(x), x.shape[-1], x.dtype):
                y = folded(x, weight, a, b)
            else:
                y = jnp.einsum("...i,oi->...o", x, weight) + low_rank(x, a, b)
        if self.bias is not None:
            y = y + self.bias[...].astype(x.dtype)
        return y

    def _tokens(self, x: Array) -> int:
        """Tokens on each device."""
        split = 1 if self.placement is None else self.placement.parts("batch") * self.placement.parts("length")
        return x.size // x.shape[-1] // split


def whole(parameter: nnx.Param, axes: tuple[str | None, ...], dtype, placement: Placement | None) -> Array:
    """A parameter in the type that it is used in, gathered where its embed axis is split."""
    weight = parameter[...].astype(dtype)
    return weight if placement is None else placement.gather(weight, axes)


class RMSNorm(nnx.Module):
    """`mvjax.models.layers.rms_norm` over the last axis."""

    def __init__(self, weight: ArraySpec, eps: float, *, param: ParamFactory):
        self.weight = param(weight)
        self.eps = eps

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return rms_norm(x, self.weight[...], self.eps)


class VocabularyMatrix(nnx.Module):
    """The embedding or output matrix [V, D], with optional trainable rows for the control tags.

    The tag rows are a parameter of their own, so that they can be trained (at their own rate) while the matrix is
    frozen: no gradient of the matrix's size is then ever computed.
    """

    def __init__(self, weight: ArraySpec, *, param: ParamFactory, placement: Placement | None):
        if placement is not None:
            weight = dataclasses.replace(weight, axes=placement.vocabulary_axes(weight.shape[0]))
        self.weight = param(weight)
        self.tag_rows = nnx.data(None)
        self.tag_ids: tuple[int, ...] = ()
        self.placement = placement

    def lookup(self, tokens: Int[Array, "..."], dtype) -> Float[Array, "... D"]:
        """The rows of the tokens."""
        if self.placement is None:
            rows = self.weight[...][tokens].astype(dtype)
        else:
            rows = self.placement.lookup(self.placement.vocabulary(self.weight[...].astype(dtype)), tokens)
        if self.tag_rows is None:
            return rows
        match = tokens[..., None] == jnp.asarray(self.tag_ids)
        tags = match.astype(dtype) @ self.tag_rows[...].astype(dtype)
        return jnp.where(match.any(-1, keepdims=True), tags, rows)

    def logits(self, x: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Product with every row, accumulated and returned in float32."""
        out = product_f32(x, self.weight[...])
        if self.tag_rows is None:
            return out
        return out.at[..., jnp.asarray(self.tag_ids)].set(product_f32(x, self.tag_rows[...]))

    def matrix(self) -> Float[Array, "V D"]:
        """The matrix with the tag rows in place."""
        if self.tag_rows is None:
            return self.weight[...]
        return self.weight[...].at[jnp.asarray(self.tag_ids)].set(self.tag_rows[...].astype(self.weight[...].dtype))


def product_f32(x: jax.Array, rows: jax.Array) -> jax.Array:
    return jnp.matmul(x, rows.astype(x.dtype).T, preferred_element_type=jnp.float32)


class Group(nnx.Module):
    """Modules of a layer under a common name, as `self_attn`."""


class Block(nnx.Module):
    """One layer: a module for each projection and norm of the family's list of arrays, by its path in the list."""

    def __init__(self, config: ModelConfig, backend: str, *, param: ParamFactory, placement: Placement | None):
        arrays = {array.name: array for array in layer_arrays(config)}
        for array in arrays.values():
            if array.kind != "weight":
                continue
            if len(array.shape) == 1:
                module: nnx.Module = RMSNorm(array, config.rms_eps, param=param)
            else:
                module = Linear(array, arrays.get(f"{array.module}.bias"), param=param, placement=placement)
            *groups, name = array.module.split(".")
            node: nnx.Module = self
            for group in groups:
                if not hasattr(node, group):
                    setattr(node, group, Group())
                node = getattr(node, group)
            setattr(node, name, module)
        self.config, self.backend, self.placement = config, backend, placement

    def find(self, module: str) -> Any:
        """The projection or norm at a path."""
        return functools.reduce(getattr, module.split("."), self)

    def __call__(self, x_BTD, cos_BTH, sin_BTH, hide_start_BET, hide_end_BET):
        ops = TrainingOps(self, cos_BTH[..., None, :], sin_BTH[..., None, :], hide_start_BET, hide_end_BET)
        return find_family(self.config.family).layer(ops, x_BTD)


@dataclass(frozen=True)
class TrainingOps:
    """The operations of a layer on [B, T, ...]; see `mvjax.models.layers.LayerOps`."""

    block: Block
    """The layer's modules."""
    cos_BT1H: Array
    """Cosines of the rotary angles, half a head wide."""
    sin_BT1H: Array
    """Their sines."""
    hide_start_BET: Array
    """Begin of the hidden intervals of each key."""
    hide_end_BET: Array
    """Their end."""

    def linear(self, x: Array, *modules: str) -> list[Array]:
        return [self.block.find(module)(x) for module in modules]

    def norm(self, module: str, x: Array) -> Array:
        return self.block.find(module)(x)

    def heads(self, x: Array, axis: str) -> Array:
        config, placement = self.block.config, self.block.placement
        y_BTNH = x.reshape(*x.shape[:-1], -1, config.head_dim)
        by_heads = placement is not None and placement.splits_heads(config.heads, config.kv_heads)
        return constrain(placement, y_BTNH, "batch", "length", axis if by_heads else None, None)

    def rotate(self, x: Array) -> Array:
        return rotate(x, self.cos_BT1H, self.sin_BT1H)

    def attend(self, q: Array, k: Array, v: Array) -> Array:
        placement = self.block.placement
        attention: Callable[..., Any] = mvjax_kernels.attention if placement is None else placement.attention
        o_BTNH = attention(q, k, v, self.hide_start_BET, self.hide_end_BET, backend=self.block.backend)
        return o_BTNH.reshape(*o_BTNH.shape[:-2], -1).astype(q.dtype)

    def sublayer(self, function: Callable[[Array], Array], x: Array) -> Array:
        placement = self.block.placement
        if placement is None:
            return function(x)
        whole, split = ("batch", "length", None), ("batch", "between", None)
        return placement.move(function(placement.move(x, whole, split)), split, whole)


def constrain(placement: Placement | None, x: Array, *axes: str | None) -> Array:
    """Held to where its logical axes say; as it is without a mesh."""
    return x if placement is None else placement.constrain(x, *axes)


class Decoder(nnx.Module):
    """Causal language model under Multiverse attention (arXiv 2506.09991, section 4.1).

    config: shape of the model; `config.scan_layers` picks stacked and scanned, or separate and unrolled blocks.
    dtype: of activations and products (norms, rotation, softmax and logits are float32 in any case).
    param_dtype: of the stored parameters.
    remat: what is kept of each block for the backward pass, a name of REMAT.
    backend: of the attention, as `mvjax_kernels.attention` takes it.
    placement: the mesh that it is trained on; None: one device.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        remat: str = "none",
        backend: str = "auto",
        placement: Placement | None = None,
        rngs: nnx.Rngs,
    ):
        self.config = config
        self.lora = None
        self.dtype = jnp.dtype(dtype)
        self.remat = remat
        self.placement = placement
        one = ParamFactory(rngs, jnp.dtype(param_dtype))
        options = {"param": one, "placement": placement}
        outer = {array.module: array for array in outer_arrays(config)}
        self.embed_tokens = VocabularyMatrix(outer["embed_tokens"], **options)
        if config.scan_layers:
            stacked = ParamFactory(rngs, one.dtype, config.layers)
            self.layers: Any = Block(config, backend, param=stacked, placement=placement)
        else:
            self.layers = nnx.List([Block(config, backend, **options) for _ in range(config.layers)])
        self.norm = RMSNorm(outer["norm"], config.rms_eps, param=one)
        self.lm_head = nnx.data(None if config.tied else VocabularyMatrix(outer["lm_head"], **options))

    def __call__(
        self,
        tokens_BT: Int[Array | np.ndarray, "B T"],
        positions_BT: Int[Array | np.ndarray, "B T"],
        hide_start_BET: Int[Array | np.ndarray, "B E T"],
        hide_end_BET: Int[Array | np.ndarray, "B E T"],
    ) -> Float[Array, "B T V"]:
        """Logits of the token that follows each row in its segment, float32; see `hidden` for the arguments."""
        return self.logits(self.hidden(tokens_BT, positions_BT, hide_start_BET, hide_end_BET))

    def hidden(
        self,
        tokens_BT: Int[Array | np.ndarray, "B T"],
        positions_BT: Int[Array | np.ndarray, "B T"],
        hide_start_BET: Int[Array | np.ndarray, "B E T"],
        hide_end_BET: Int[Array | np.ndarray, "B E T"],
    ) -> Float[Array, "B T D"]:
        """Final hidden states, after the last norm, in the compute dtype.

        positions_BT: rotary position of each token (siblings start alike).
        hide_start_BET, hide_end_BET: key s is hidden from the query rows [start, end) of each level; level 0 is the
        document (packing and padding), the others the blocks around the key. Rows are counted along T.
        On a mesh with a context axis tokens and positions come in `placement.split.order`, intervals in text order.
        """
        x_BTD = self.embed_tokens.lookup(jnp.asarray(tokens_BT), self.dtype)
        intervals = jnp.asarray(hide_start_BET, jnp.int32), jnp.asarray(hide_end_BET, jnp.int32)
        context = (*rotary_tables(self.config, jnp.asarray(positions_BT)), *intervals)

        def layer(x_BTD, graphdef, state):
            return nnx.merge(graphdef, state)(x_BTD, *context)

        x_BTD = constrain(self.placement, x_BTD, "batch", "between", None)
        if (policy := REMAT[self.remat]) is not None:
            # Under scan the recomputation cannot be merged with the forward pass anyway.
            layer = jax.checkpoint(layer, policy=policy, static_argnums=1, prevent_cse=not self.config.scan_layers)
        if self.config.scan_layers:
            graphdef, stacked = nnx.split(self.layers)
            x_BTD, _ = jax.lax.scan(lambda x_BTD, state: (layer(x_BTD, graphdef, state), None), x_BTD, stacked)
        else:
            for block in self.layers:
                x_BTD = layer(x_BTD, *nnx.split(block))
        return constrain(self.placement, self.norm(x_BTD), "batch", "length", None)

    @property
    def head(self) -> VocabularyMatrix:
        """The output matrix's module: the embedding's own where they are tied."""
        return self.embed_tokens if self.lm_head is None else self.lm_head

    def logits(self, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Logits of hidden states, float32. Call it on chunks: the result holds V values a token.

        Under `jax.grad` over tag rows and adapters alone, no gradient of the output matrix is computed.
        """
        return self.head.logits(hidden)
