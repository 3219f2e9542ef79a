"""The engine's model: prefill and decode over KV streams, with weights laid out for it.

A stream holds, per layer, keys (after rotation) and values as [R, K, S, H]: request, kv head, slot, feature. Every row
of a decode step appends one slot to its request's stream and reads the whole stream once, whatever the number of rows
of the request; visibility words say which row sees which slot (arXiv 2506.09991, section 5, without its KV copies).

Activations are features first, [D, rows], and products are W[out, in] @ x[in, rows]: on a CPU that is several times
faster at a few rows than x @ W. The same computation has two layouts: unrolled over a list of per-layer arrays (CPU,
where a scan copies every slice of the stacked weights), or scanned over stacked ones (accelerators: small programs).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mvjax_kernels
from flax import nnx
from jaxtyping import Array, Float, Int

from mvjax.models.config import ModelConfig
from mvjax.models.decoder import Decoder
from mvjax.models.lora import is_adapted, merge
from mvjax.models.rotary import rotary_tables, rotate


class Stream(NamedTuple):
    """Keys and values of every slot: a list of [R, K, S, H], one a layer or one [L, R, K, S, H] if scanned."""

    k: list[jax.Array] | jax.Array
    v: list[jax.Array] | jax.Array


class DecoderStepModel:
    """A Decoder's weights and arithmetic as the engine's step model.

    params: pytree of weights, adapters merged; hand it to `prefill` and `decode` as an argument of the jitted program.
    vocab_size: width of the logits.
    max_position: positions the model was trained for; the engine refuses requests that may go beyond.
    """

    def __init__(self, decoder: Decoder, *, unroll: bool | None = None, dtype=None, backend: str = "auto"):
        """Take over the weights of a decoder (which is left as it is).

        unroll: one array and one piece of program per layer; None means on a CPU only.
        dtype: of weights, activations and streams; None means the decoder's compute dtype.
        backend: of the attention, as `mvjax_kernels` takes it.
        """
        if is_adapted(decoder):
            decoder = merge(nnx.clone(decoder))
        self.config: ModelConfig = decoder.config
        self.vocab_size, self.max_position = decoder.config.vocab_size, decoder.config.max_position
        self.unroll = jax.default_backend() == "cpu" if unroll is None else unroll
        self.dtype = decoder.dtype if dtype is None else jnp.dtype(dtype)
        self.backend = backend
        self.params = decode_params(decoder, unroll=self.unroll, dtype=self.dtype)

    def init_stream(self, requests: int, slots: int) -> Stream:
        """An empty stream of `slots` slots for each of `requests` requests."""
        config = self.config
        shape = (requests, config.kv_heads, slots, config.head_dim)
        if self.unroll:
            blank = [[jnp.zeros(shape, self.dtype) for _ in range(config.layers)] for _ in range(2)]
        else:
            blank = [jnp.zeros((config.layers, *shape), self.dtype) for _ in range(2)]
        return Stream(*blank)

    def prefill(
        self,
        params: Any,
        stream: Stream,
        tokens_T: Int[Array, " T"],
        positions_T: Int[Array, " T"],
        hide_start_ES: Int[Array, "E S"],
        hide_end_ES: Int[Array, "E S"],
        request: Int[Array, ""],
        offset: Int[Array, ""],
        length: Int[Array, ""],
    ) -> Stream:
        """Put one chunk of a prompt into slots offset .. offset + length of a request.

        T is static; tokens from `length` on are padding and write nothing. A token sees the request's slots up to its
        own, except those whose hidden interval (rows are slots) holds its slot.
        """
        slots = stream.k[0].shape[-2]
        index_T = jnp.arange(tokens_T.shape[0])
        slot_T = jnp.where(index_T < length, offset + index_T, slots)  # past the end: dropped

        def write(kv_RKSH, new_KHT):
            return kv_RKSH.at[request, :, slot_T].set(new_KHT.transpose(2, 0, 1), mode="drop")

        def attend(q_NHT, k_RKSH, v_RKSH):
            k_BSKH, v_BSKH = k_RKSH[request].swapaxes(0, 1)[None], v_RKSH[request].swapaxes(0, 1)[None]
            o_BTNH = mvjax_kernels.attention(
                q_NHT.transpose(2, 0, 1)[None],
                k_BSKH,
                v_BSKH,
                hide_start_ES[None],
                hide_end_ES[None],
                q_offset_B=jnp.asarray(offset, jnp.int32)[None],
                backend=self.backend,
            )
            return o_BTNH[0].reshape(index_T.shape[0], -1).T

        _, stream = self.run(params, stream, tokens_T, positions_T, write, attend)
        return stream

    def decode(
        self,
        params: Any,
        stream: Stream,
        tokens_W: Int[Array, " W"],
        positions_W: Int[Array, " W"],
        rows: Any,
        words_RS: Int[Array, "R S"],
    ) -> tuple[Float[Array, "W V"], Stream]:
        """Feed one token per row; float32 logits of each row's next token, and the stream with the rows' slots.

        rows: a RowPlacement: request_W and lane_W (where a row belongs), row_RL (row of each lane, W or more where
        there is none), start_R (lane l of request r writes slot start_R[r] + l; all lanes are written, so the slots
        from start_R[r] to start_R[r] + Lanes must be free). Bit l of words_RS[r, s]: lane l of request r sees slot s,
        this step's slots included.
        """
        width, (requests, lanes) = tokens_W.shape[0], rows.row_RL.shape
        row_RL = jnp.minimum(rows.row_RL, width - 1)
        # One request's rows are put in the order of its lanes once, instead of in every layer.
        ordered = requests == 1 and lanes <= width
        if ordered:
            tokens_W, positions_W = tokens_W[row_RL[0]], positions_W[row_RL[0]]

        def to_lanes(x_NHW):
            x_WNH = x_NHW.transpose(2, 0, 1)
            return x_WNH[None] if ordered else x_WNH[row_RL]

        def from_lanes(x_RLNH):
            x_WNH = x_RLNH[0] if ordered else x_RLNH[rows.request_W, rows.lane_W]
            return x_WNH.reshape(x_WNH.shape[0], -1).T

        def write(kv_RKSH, new_KHW):
            return write_lanes(kv_RKSH, to_lanes(new_KHW).swapaxes(1, 2), rows.start_R)

        def attend(q_NHW, k_RKSH, v_RKSH):
            q_RLNH = to_lanes(q_NHW)
            return from_lanes(mvjax_kernels.stream_attention(q_RLNH, k_RKSH, v_RKSH, words_RS, backend=self.backend))

        x_DW, stream = self.run(params, stream, tokens_W, positions_W, write, attend)
        if ordered:
            x_DW = x_DW[:, jnp.minimum(rows.lane_W, lanes - 1)]
        x_DW = norm(x_DW, params["norm"], self.config.rms_eps)
        head_VD = params["embed"] if self.config.tied else params["head"]
        return jnp.matmul(head_VD, x_DW, preferred_element_type=jnp.float32).T, stream

    def run(self, params, stream, tokens_W, positions_W, write, attend):
        """All blocks over columns of tokens; `write` puts new keys or values into a stream, `attend` reads it."""
        cos_HW, sin_HW = (table.T for table in rotary_tables(self.config, positions_W))
        x_DW = params["embed"][tokens_W].T

        def layer(x_DW, weights, k_RKSH, v_RKSH):
            q_NHW, k_KHW, v_KHW = project(self.config, weights, x_DW, cos_HW, sin_HW)
            k_RKSH, v_RKSH = write(k_RKSH, k_KHW), write(v_RKSH, v_KHW)
            x_DW = x_DW + weights["o"] @ attend(q_NHW, k_RKSH, v_RKSH)
            return feed_forward(self.config, weights, x_DW), k_RKSH, v_RKSH

        if self.unroll:
            k, v = [None] * self.config.layers, [None] * self.config.layers
            for i, weights in enumerate(params["layers"]):
                x_DW, k[i], v[i] = layer(x_DW, weights, stream.k[i], stream.v[i])
            return x_DW, Stream(k, v)

        def step(carry, weights):
            # The stream is carried and written at its layer, not scanned over: a scan would copy it.
            i, x_DW, k, v = carry
            x_DW, k_RKSH, v_RKSH = layer(x_DW, weights, k[i], v[i])
            k, v = (jax.lax.dynamic_update_index_in_dim(all_, one, i, 0) for all_, one in ((k, k_RKSH), (v, v_RKSH)))
            return (i + 1, x_DW, k, v), None

        (_, x_DW, k, v), _ = jax.lax.scan(step, (0, x_DW, stream.k, stream.v), params["layers"])
        return x_DW, Stream(k, v)


def write_lanes(kv_RKSH: jax.Array, new_RKLH: jax.Array, start_R: jax.Array) -> jax.Array:
    """Put each request's lanes into its slots from start_R on: one contiguous block a request, in place."""
    for r in range(kv_RKSH.shape[0]):
        kv_RKSH = write_block(kv_RKSH, new_RKLH[r : r + 1], r, start_R[r])
    return kv_RKSH


def write_block(kv_RKSH: jax.Array, new_1KLH: jax.Array, request: int, start: jax.Array) -> jax.Array:
    def update(kv_RKSH):
        return jax.lax.dynamic_update_slice(kv_RKSH, new_1KLH, (request, 0, start, 0))

    if kv_RKSH.shape[0] > 1 or new_1KLH.shape[2] > 1:
        return update(kv_RKSH)
    # XLA's CPU compiler repeats an update that is this small in every reader, and then must copy the whole stream for
    # each. It cannot do so across a branch; that this one is always taken is not known to it.
    return jax.lax.cond(start >= 0, update, lambda kv_RKSH: kv_RKSH, kv_RKSH)


def norm(x_DW: jax.Array, weight_D: jax.Array, eps: float) -> jax.Array:
    """RMSNorm over the features, which come first; float32 inside."""
    wide = x_DW.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-2, keepdims=True) + eps)
    return (wide * weight_D.astype(jnp.float32)[:, None]).astype(x_DW.dtype)


def project(config: ModelConfig, weights: dict, x_DW, cos_HW, sin_HW):
    """Queries, keys (both rotated) and values of the columns, heads first."""
    qkv = weights["qkv"] @ norm(x_DW, weights["input_norm"], config.rms_eps)
    if config.qkv_bias:
        qkv = qkv + weights["qkv_bias"][:, None]
    qkv = qkv.reshape(-1, config.head_dim, x_DW.shape[1])
    qk_XHW, v_KHW = jnp.split(qkv, (config.heads + config.kv_heads,))
    if config.qk_norm:
        q_NHW, k_KHW = jnp.split(qk_XHW, (config.heads,))
        q_NHW, k_KHW = norm(q_NHW, weights["q_norm"], config.rms_eps), norm(k_KHW, weights["k_norm"], config.rms_eps)
        qk_XHW = jnp.concatenate((q_NHW, k_KHW))
    q_NHW, k_KHW = jnp.split(rotate(qk_XHW, cos_HW, sin_HW, axis=1), (config.heads,))
    return q_NHW, k_KHW, v_KHW


def feed_forward(config: ModelConfig, weights: dict, x_DW: jax.Array) -> jax.Array:
    """x + down(silu(gate(norm x)) * up(norm x))."""
    both = weights["gate_up"] @ norm(x_DW, weights["post_norm"], config.rms_eps)
    gate_FW, up_FW = jnp.split(both, 2)
    return x_DW + weights["down"] @ (jax.nn.silu(gate_FW) * up_FW)


def decode_params(decoder: Decoder, *, unroll: bool, dtype) -> dict[str, Any]:
    """A decoder's weights for decoding: Q, K, V in one matrix, gate and up in one, per layer or stacked."""
    config = decoder.config

    def block(layer) -> dict[str, jax.Array]:
        attention, mlp = layer.self_attn, layer.mlp
        qkv = (attention.q_proj, attention.k_proj, attention.v_proj)
        weights = {
            "input_norm": layer.input_layernorm.weight[...],
            "qkv": jnp.concatenate([linear.weight[...] for linear in qkv], axis=-2),
            "o": attention.o_proj.weight[...],
            "post_norm": layer.post_attention_layernorm.weight[...],
            "gate_up": jnp.concatenate([mlp.gate_proj.weight[...], mlp.up_proj.weight[...]], axis=-2),
            "down": mlp.down_proj.weight[...],
        }
        if config.qkv_bias:
            weights["qkv_bias"] = jnp.concatenate([linear.bias[...] for linear in qkv], axis=-1)
        if config.qk_norm:
            weights |= {"q_norm": attention.q_norm.weight[...], "k_norm": attention.k_norm.weight[...]}
        return {name: weight.astype(dtype) for name, weight in weights.items()}

    if config.scan_layers:
        layers = block(decoder.layers)
        if unroll:
            layers = [{name: weight[i] for name, weight in layers.items()} for i in range(config.layers)]
    else:
        layers = [block(layer) for layer in decoder.layers]
        if not unroll:
            layers = {name: jnp.stack([layer[name] for layer in layers]) for name in layers[0]}
    params = {
        "embed": decoder.embed_tokens.weight[...].astype(dtype),
        "layers": layers,
        "norm": decoder.norm.weight[...].astype(dtype),
    }
    if not config.tied:
        params["head"] = decoder.unembed.astype(dtype)
    return params
