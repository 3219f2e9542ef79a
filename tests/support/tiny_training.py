"""A tiny random decoder and an endless source of batches that stands in for packed data."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mvjax.data.packing import Batch
from mvjax.models import Decoder, LoraConfig, ModelConfig, add_lora
from mvjax.models.placement import Placement
from mvjax.training.model import TrainableModel, make_trainable

VOCABULARY, TAGS, ROW = 50, tuple(range(38, 50)), 24


class RandomBatches:
    """Rows of two documents; a pure function of seed and position, with the position as state."""

    def __init__(self, rows: int = 4, seed: int = 0, fixed: bool = False):
        self.rows, self.seed, self.fixed, self.position, self.facts = rows, seed, fixed, 0, None

    def __next__(self) -> Batch:
        rng = np.random.default_rng([self.seed, 0 if self.fixed else self.position])
        self.position += 1
        B, T, cut = self.rows, ROW, ROW // 2
        row_T = np.arange(T, dtype=np.int32)
        start_BET, end_BET = np.zeros((2, B, 2, T), np.int32)
        start_BET[:, 0] = np.where(row_T < cut, cut, T)
        end_BET[:, 0] = 2**31 - 1
        predecessor_T = np.where(row_T % cut == 0, row_T, row_T - 1).astype(np.int32)
        return Batch(
            tokens_BT=rng.integers(0, VOCABULARY, (B, T)).astype(np.int32),
            positions_BT=np.tile(row_T % cut, (B, 1)),
            hide_start_BET=start_BET,
            hide_end_BET=end_BET,
            loss_BT=(rng.random((B, T)) < 0.7) & (row_T % cut > 0),
            predecessor_BT=np.tile(predecessor_T, (B, 1)),
            part_BT=rng.integers(1, 5, (B, T)).astype(np.int8),
        )

    def get_state(self) -> dict:
        return {"position": self.position}

    def set_state(self, state: dict) -> None:
        self.position = state["position"]


def tiny_shape(**shape) -> ModelConfig:
    """Of a two-layer decoder."""
    sizes = {"family": "llama", "vocab_size": VOCABULARY, "embed": 16, "layers": 2, "heads": 2, "kv_heads": 1}
    return ModelConfig(**(sizes | {"head_dim": 8, "ffn": 32, "tied": True} | shape))


def describe_tiny(scan_layers: bool = True, lora_rank: int = 4, **shape) -> Decoder:
    """A two-layer decoder with shapes for arrays."""
    config = tiny_shape(scan_layers=scan_layers, **shape)

    def make() -> Decoder:
        decoder = Decoder(config, rngs=nnx.Rngs(params=0))
        return add_lora(decoder, LoraConfig(rank=lora_rank, tag_ids=TAGS)) if lora_rank else decoder

    return nnx.eval_shape(make)


def make_model(
    lora_rank: int = 4, scan_layers: bool = True, placement: Placement | None = None, remat: str = "none", **shape
) -> TrainableModel:
    """A two-layer decoder taken apart, the same every time."""
    config = tiny_shape(scan_layers=scan_layers, **shape)
    options = {"placement": placement, "remat": remat}
    # Filled by NumPy: the decoder's own initialisation compiles a program for each shape.
    graphdef, state = nnx.split(nnx.eval_shape(lambda: Decoder(config, **options, rngs=nnx.Rngs(params=0))))
    rng = np.random.default_rng(0)
    fill = jax.tree.map(lambda x: jnp.asarray(0.1 * rng.normal(size=x.shape) + (len(x.shape) < 2), x.dtype), state)
    decoder = nnx.merge(graphdef, fill)
    if lora_rank:
        add_lora(decoder, LoraConfig(rank=lora_rank, tag_ids=TAGS), seed=1)
    return make_trainable(decoder, () if lora_rank else TAGS)


def make_simple_model() -> TrainableModel:
    """One matrix between a frozen embedding and the output: for tests of the loop, which does not care what it runs."""
    rng = np.random.default_rng(0)
    table_VD, matrix_DD = rng.normal(size=(VOCABULARY, 16)), rng.normal(size=(16, 16))

    def forward(params, frozen, tokens_BT, *_):
        return jnp.tanh(frozen[tokens_BT] @ params["matrix"]), frozen, params["tag_rows"]

    def join(params):
        raise NotImplementedError

    return TrainableModel(
        params={"matrix": jnp.asarray(matrix_DD, jnp.float32), "tag_rows": jnp.ones((len(TAGS), 16))},
        frozen=jnp.asarray(table_VD, jnp.float32),
        groups={"matrix": "base", "tag_rows": "tags"},
        forward=forward,
        tag_ids=TAGS,
        train_base=False,
        join=join,
    )
