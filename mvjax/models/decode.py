"""The engine's model: prefill and decode over KV streams, with weights laid out for it.

A stream holds, per layer, keys (after rotation) and values as [R, K, S, H]: request, kv head, slot, feature; or, in
pages that the requests own, as [P, K, Z, H]. Every row of a decode step appends one slot to its request's stream and
reads the whole stream once, whatever the number of rows of the request; visibility words say which row sees which slot
(arXiv 2506.09991, section 5, without its KV copies).

Activations are features first, [D, rows], and products are W[out, in] @ x[in, rows]: on a CPU that is several times
faster at a few rows than x @ W. The same computation has three layouts: unrolled over a list of per-layer arrays
(GPUs), a loop over such a list (CPUs), or scanned over stacked arrays (TPUs).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import mvjax_kernels
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, UInt
from mvjax_kernels import backends

from mvjax.errors import UserError
from mvjax.models.config import ModelConfig
from mvjax.models.decode_ops import AnyLayer, DecodeOps, product
from mvjax.models.decode_params import decode_params, packed_rows
from mvjax.models.decoder import Decoder
from mvjax.models.families import find_family
from mvjax.models.hf_config import from_hf
from mvjax.models.kv_arrays import KVArrays, arrays_of, blank, leading, write_lanes, write_slots
from mvjax.models.layers import rms_norm
from mvjax.models.lora import is_adapted, merge
from mvjax.models.number_formats import number_formats
from mvjax.models.rotary import rotary_tables
from mvjax.models.tensor_split import TensorSplit, scale_name
from mvjax.weights.checkpoint import Checkpoint

PAGE = 128
"""Slots of a page: a TPU's lanes, and a few of a GPU's tiles."""
CPU_PAGE = 64
"""Slots of a page on a CPU, where pages of 32 to 128 slots are read equally fast; a prompt's last page is padded."""
NO_SCALES = "kv dtype int8: only keys and values in pages have scales, and these streams are contiguous; use another"


def unrolls(platform: str) -> bool:
    """Whether decoding on a platform ("cpu", "tpu", "gpu") has an array for each layer.

    On CPUs and GPUs a scan copies the slice of a stacked weight before its product: three times the weights' traffic.
    TPU programs read it where it lies; scanned they are smaller and compiled sooner.
    """
    return platform != "tpu"


def loops_over(platform: str, paged: bool) -> bool:
    """Whether a program has one piece for all of the layers that have arrays of their own.

    On CPUs it compiles in about 0.7 of the processor time, and a step takes 1.05 to 1.1 of the unrolled one's (30
    layers, 1 and 8 rows). GPUs wait for the host at every turn of a loop. Contiguous streams would be copied out of the
    array of all layers.
    """
    return platform == "cpu" and paged


class DecoderStepModel:
    """A Decoder's weights and arithmetic as the engine's step model.

    params: pytree of weights, adapters merged; hand it to `prefill` and `decode` as an argument of the jitted program.
    vocab_size: width of the logits.
    max_position: positions the model can be used for, rotary scaling counted in; the engine refuses requests that may
        go beyond.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        weight_dtype: Any = None,
        **options: Any,
    ):
        """Take over the weights of a decoder (which is left as it is).

        weight_dtype: floating-point numbers, of weights and activations; None means the decoder's compute dtype.
            (Quantised weights are read from a checkpoint: `from_checkpoint`.)
        options: unroll, loops, kv_dtype, backend, page_size; see `settle`.
        """
        if is_adapted(decoder):
            decoder = merge(nnx.clone(decoder))
        self.settle(decoder.config, decoder.dtype if weight_dtype is None else weight_dtype, **options)
        if self.formats.quantised:
            raise ValueError(f"a decoder's weights are not quantised to {weight_dtype}: use from_checkpoint")
        self.params: Any = decode_params(decoder, unroll=self.unroll, dtype=self.formats.weights)

    def settle(
        self,
        config: ModelConfig,
        weight_dtype: Any = "auto",
        *,
        kv_dtype: Any = "auto",
        unroll: bool | None = None,
        loops: bool | None = None,
        backend: str = "auto",
        page_size: int | Literal["auto"] | None = "auto",
    ) -> None:
        """All but the weights.

        What is left to the platform goes by JAX's default device, which may be a described one (`jax.default_device`).

        weight_dtype, kv_dtype: as for `number_formats`, which raises UserError.
        unroll: an array for each layer; None means where `unrolls` says so.
        loops: one piece of program for all of these layers, in place of one for each; None means where `loops_over`
            says so.
        backend: of the attention, as `mvjax_kernels` takes it.
        page_size: slots of a page; None for contiguous streams; "auto" means `CPU_PAGE` on a CPU and `PAGE` elsewhere.
        """
        platform = backends.platform()
        self.settings = {"weight_dtype": weight_dtype, "kv_dtype": kv_dtype, "unroll": unroll, "loops": loops}
        self.settings |= {"backend": backend, "page_size": page_size}
        self.config: ModelConfig = config.served()
        self.vocab_size, self.max_position = config.vocab_size, config.reach
        self.unroll = unrolls(platform) if unroll is None else unroll
        self.formats = number_formats(weight_dtype, kv_dtype)
        self.backend = backend
        if page_size == "auto":
            page_size = CPU_PAGE if platform == "cpu" else PAGE
        if page_size is None and self.formats.kv == jnp.int8:
            raise UserError(NO_SCALES)
        self.page_size = page_size
        self.loops = self.unroll and (loops_over(platform, page_size is not None) if loops is None else loops)

    @property
    def _pages_by_layer(self) -> bool:
        """Whether the pages of each layer are an array."""
        return self.unroll and not self.loops

    @property
    def local(self) -> DecoderStepModel:
        """What one device computes: everything here."""
        return self

    @property
    def arithmetic(self) -> Hashable:
        """All but its weights that decides what it computes; see `mvjax.engine.StepModel`."""
        layout = self.unroll, self.loops, self.formats, self.page_size
        return type(self), self.config, self.vocab_size, *layout, self.backend

    @classmethod
    def described(cls, config: ModelConfig, **options: Any) -> DecoderStepModel:
        """A model without weights: `params` are shapes, for programs that are only compiled. Options: `settle`."""
        model = cls.__new__(cls)
        model.settle(config, **options)
        model.params = TensorSplit(model.config, 1).shapes(None, model.unroll, model.formats)
        return model

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, **options: Any) -> DecoderStepModel:
        """A model with a checkpoint's weights on JAX's default device. Options as for `settle`.

        Raises UserError where the checkpoint is damaged, or its numbers cannot be quantised.
        """
        model = cls.described(from_hf(checkpoint.config), **options)
        model.params = TensorSplit(model.config, 1).load(checkpoint, None, model.unroll, model.formats)
        return model

    def init_kv(self, requests: int, slots: int) -> KVArrays:
        """Empty KV streams of `slots` slots for each of `requests` requests. UserError for int8, which takes pages."""
        if self.formats.kv == jnp.int8:
            raise UserError(NO_SCALES)
        return self._zeros((requests, self.config.kv_heads, slots, self.config.head_dim), stack=True)

    def init_pages(self, pages: int) -> KVArrays:
        """Empty pages, for all requests together."""
        if self.page_size is None:
            raise ValueError("this model's KV streams are contiguous: it has no pages")
        return self._zeros((pages, self.config.kv_heads, self.page_size, self.config.head_dim), stack=False)

    def _zeros(self, shape: tuple[int, ...], stack: bool) -> KVArrays:
        """Arrays of this shape for every layer: a list; or one array, with an axis of layers (stack) or the layers one
        after the other along the first. Streams whose layers are in a list are in a list, too."""
        layers = self.config.layers

        def side():
            if self._pages_by_layer or (self.unroll and stack):
                return [blank(shape, self.formats.kv) for _ in range(layers)]
            return blank((layers, *shape) if stack else (layers * shape[0], *shape[1:]), self.formats.kv)

        return KVArrays(side(), side())

    def with_table(self, kv: KVArrays, table_RM: Int[Array | np.ndarray, "R M"]) -> KVArrays:
        """The same pages under a page table."""
        return kv._replace(table=table_RM)

    def _places(self, pages_M: Int[Array, "M"], array: Array) -> Array:
        """Where some pages lie in an array of keys or values: [M], or [M, L] where it holds the pages of all layers."""
        if self._pages_by_layer:
            return pages_M
        layers = self.config.layers
        return pages_M[:, None] + jnp.arange(layers) * (len(array) // layers)

    def read_pages(self, kv: KVArrays, pages_M: Int[Array, "M"]) -> tuple:
        """Keys and values of some pages: lists of [M, K, Z, H], one a layer, or [M, L, K, Z, H] if scanned."""
        return jax.tree.map(lambda array: array[self._places(pages_M, array)], (kv.k, kv.v))

    def write_pages(self, kv: KVArrays, pages_M: Int[Array, "M"], content: tuple) -> KVArrays:
        """The arrays with keys and values that `read_pages` gave in some pages."""

        def write(array, new):
            return array.at[self._places(pages_M, array)].set(new)

        k, v = jax.tree.map(write, (kv.k, kv.v), content)
        return kv._replace(k=k, v=v)

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
        """Put a chunk of each of several prompts into slots offset .. offset + length of its request; see
        `mvjax.engine.StepModel`. Padding writes nothing, or rubbish behind the chunk where streams lie in pages."""
        chunks = tokens_BT, positions_BT, hide_start_BES, hide_end_BES, request_B, offset_B, length_B
        return self.read_chunks(params, kv, *chunks)[1]

    def read_chunks(
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
    ) -> tuple[Array, KVArrays]:
        """`prefill`, and what leaves the layers: a column of [D, B * T] for each token."""
        (B, T), S = tokens_BT.shape, hide_start_BES.shape[2]
        offset_B, length_B = jnp.asarray(offset_B, jnp.int32), jnp.asarray(length_B, jnp.int32)
        index_T = jnp.arange(T, dtype=jnp.int32)
        slot_BT = jnp.where(index_T < length_B[:, None], offset_B[:, None] + index_T, S)  # past the end: dropped
        start_B = jnp.where(length_B > 0, offset_B, S)

        def rows(x_NHW):
            return x_NHW.reshape(*x_NHW.shape[:2], B, T).transpose(2, 3, 0, 1)

        def write(k, v, k_KHW, v_KHW, table_RM):
            news_BTKH = rows(k_KHW), rows(v_KHW)
            if table_RM is None:
                where = request_B[:, None], slice(None), slot_BT
                return [array.at[where].set(new_BTKH, mode="drop") for array, new_BTKH in zip((k, v), news_BTKH)]
            pages_BM = table_RM[request_B]
            return write_slots(k, v, *news_BTKH, pages_BM, start_B, self.backend)

        def attend(q_NHW, k, v, table_RM):
            q_BTNH, intervals = rows(q_NHW), (hide_start_BES, hide_end_BES)
            if table_RM is None:
                if hide_start_BES.shape[1] == 0:
                    intervals = (jnp.zeros((B, 1, S), jnp.int32),) * 2
                k_BSKH, v_BSKH = (array[request_B].swapaxes(1, 2) for array in (k, v))
                streams = q_BTNH, k_BSKH, v_BSKH
                o_BTNH = mvjax_kernels.attention(*streams, *intervals, q_offset=offset_B, backend=self.backend)
            else:
                pages, scales = arrays_of(k, v)
                chunks = table_RM[request_B], *intervals, offset_B, length_B
                o_BTNH = mvjax_kernels.paged_attention(q_BTNH, *pages, *chunks, **scales, backend=self.backend)
            return cast(Array, o_BTNH).reshape(B * T, -1).T

        return self.run(params, kv, tokens_BT.reshape(-1), positions_BT.reshape(-1), write, attend)

    def decode(
        self,
        params: Any,
        kv: KVArrays,
        tokens_W: Int[Array, " W"],
        positions_W: Int[Array, " W"],
        rows: Any,
        visibility_RS: UInt[Array, "R S"],
    ) -> tuple[Float[Array, "W V"], KVArrays]:
        """Feed one token per row; float32 logits of each row's next token, and the stream with the rows' slots.

        rows: a RowPlacement: request_W and lane_W (where a row belongs), row_RL (row of each lane, W or more where
        there is none), start_R (lane l of request r writes slot start_R[r] + l; all lanes are written, so the slots
        from start_R[r] to start_R[r] + Lanes must be free). Bit l of visibility_RS[r, s]: lane l of request r sees slot
        s, this step's slots included.
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

        # A request without rows has nothing to read.
        running_R = jnp.sum(rows.row_RL < width, axis=1, dtype=jnp.int32)
        length_R = jnp.where(running_R > 0, rows.start_R + running_R, 0)

        def write(k, v, k_KHW, v_KHW, table_RM):
            news_RLKH = to_lanes(k_KHW), to_lanes(v_KHW)
            if table_RM is None:
                return [write_lanes(array, new.swapaxes(1, 2), rows.start_R) for array, new in zip((k, v), news_RLKH)]
            return write_slots(k, v, *news_RLKH, table_RM, rows.start_R, self.backend)

        def attend(q_NHW, k, v, table_RM):
            q_RLNH = to_lanes(q_NHW)
            if table_RM is None:
                o_RLNH = mvjax_kernels.decode_attention(q_RLNH, k, v, visibility_RS, backend=self.backend)
            else:
                pages, scales = arrays_of(k, v)
                o_RLNH = mvjax_kernels.paged_decode_attention(
                    q_RLNH, *pages, table_RM, length_R, visibility_RS, **scales, backend=self.backend
                )
            return from_lanes(o_RLNH)

        x_DW, kv = self.run(params, kv, tokens_W, positions_W, write, attend)
        if ordered:
            x_DW = x_DW[:, jnp.minimum(rows.lane_W, lanes - 1)]
        return self.next_logits(params, x_DW), kv

    def next_logits(self, params: Any, x_DW: Array) -> Float[Array, "W V"]:
        """Of what leaves the layers, float32."""
        x_DW = rms_norm(x_DW, params["norm"], self.config.rms_eps, axis=-2)
        return self.logits(params, "embed" if self.config.tied else "head", x_DW).T

    def lookup(self, params: Any, tokens_W: Array) -> Array:
        """Rows of the embedding, as columns [D, W]."""
        return self.rows(params, lambda array: array[tokens_W])

    def rows(self, params: Any, pick: Callable[[Array], Array]) -> Array:
        """Rows that `pick` takes of the embedding [V, ...], as columns [D, W]."""
        rows_WD = pick(params["embed"]).astype(self.formats.activations)
        if (scale_V := params.get(scale_name("embed"))) is not None:
            rows_WD = (rows_WD.astype(jnp.float32) * pick(scale_V)[:, None]).astype(rows_WD.dtype)
        return rows_WD.T

    def logits(self, params: Any, name: str, x_DW: Array) -> Array:
        """Products with all rows of the output matrix [V, W], float32."""
        return product(params[name], params.get(scale_name(name)), x_DW, jnp.float32)

    def ops(self, *fields: Any) -> DecodeOps:
        """The operations of a layer, from the fields of `DecodeOps` but for the configuration."""
        return DecodeOps(self.config, *fields)

    def run(self, params, kv, tokens_W, positions_W, write, attend):
        """All layers over columns of tokens; `write` puts new keys and values in place, `attend` reads them."""
        cos_HW, sin_HW = (table.T for table in rotary_tables(self.config, positions_W))
        x_DW = self.lookup(params, tokens_W)
        family, packs = find_family(self.config.family), packed_rows(self.config)

        def layer(x_DW, weights, k, v, table_RM):
            written = [k, v]

            def write_and_attend(q_NHW, k_KHW, v_KHW):
                if self.formats.kv != jnp.int8:
                    q_NHW, k_KHW, v_KHW = (x.astype(self.formats.kv) for x in (q_NHW, k_KHW, v_KHW))
                written[:] = write(*written, k_KHW, v_KHW, table_RM)
                return attend(q_NHW, *written, table_RM).astype(x_DW.dtype)

            return family.layer(self.ops(weights, packs, cos_HW, sin_HW, write_and_attend), x_DW), *written

        layers = self.config.layers
        if isinstance(kv.k, list):
            k, v = [None] * layers, [None] * layers
            for i, weights in enumerate(params["layers"]):
                x_DW, k[i], v[i] = layer(x_DW, weights, kv.k[i], kv.v[i], kv.table)
            return x_DW, kv._replace(k=k, v=v)

        if self.loops:
            weights = AnyLayer(params["layers"])

            def turn(i, carry):
                x_DW, k, v = carry
                return layer(x_DW, weights.at(i), k, v, kv.table + i * (leading(k) // layers))

            x_DW, k, v = jax.lax.fori_loop(0, layers, turn, (x_DW, kv.k, kv.v))
            return x_DW, kv._replace(k=k, v=v)

        # The stream is carried and written at its layer, not scanned over: a scan would copy it.
        def step(carry, weights):
            i, x_DW, k, v = carry
            if kv.table is not None:  # The pages of a layer begin where those of the one before end.
                x_DW, k, v = layer(x_DW, weights, k, v, kv.table + i * (leading(k) // layers))
                return (i + 1, x_DW, k, v), None
            x_DW, k_RKSH, v_RKSH = layer(x_DW, weights, k[i], v[i], None)
            k, v = (jax.lax.dynamic_update_index_in_dim(all_, one, i, 0) for all_, one in ((k, k_RKSH), (v, v_RKSH)))
            return (i + 1, x_DW, k, v), None

        (_, x_DW, k, v), _ = jax.lax.scan(step, (jnp.int32(0), x_DW, kv.k, kv.v), params["layers"])
        return x_DW, kv._replace(k=k, v=v)
