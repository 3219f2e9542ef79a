"""The model's own count of operations against its parameters, XLA's count and a dense mask."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from oracle import interval_mask
from packed_trees import packed_batch
from tiny_training import RandomBatches

from mvjax.data.packing import Batch
from mvjax.models import Decoder, LoraConfig, ModelConfig, add_lora
from mvjax.models.decoder import Linear
from mvjax.training.flops import ModelFlops, adapter_weights, count_visible, peak_flops
from mvjax.training.model import make_trainable

SIZES = {"vocab_size": 50, "embed": 256, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 24, "ffn": 96}


def make_config(family="qwen2", tied=False, **changes):
    return ModelConfig(family=family, tied=tied, scan_layers=False, **(SIZES | changes))


def test_weights_are_those_of_the_decoders_products():
    decoder = nnx.eval_shape(lambda: Decoder(make_config(), rngs=nnx.Rngs(0)))
    linears = [node for _, node in nnx.iter_graph(decoder) if isinstance(node, Linear)]
    counted = ModelFlops.of(make_config())
    assert len(linears) == 7 * SIZES["layers"]
    assert counted.projections == sum(linear.weight.size for linear in linears)
    assert counted.head == decoder.lm_head.weight.size
    assert counted.attention == 2 * 4 * 24
    assert not counted.frozen


def make_abstract(config, lora: bool, rank: int = 0):
    """A model of shapes."""

    def make():
        decoder = Decoder(config, backend="xla", rngs=nnx.Rngs(0))
        return add_lora(decoder, LoraConfig(rank=rank, tag_ids=(3, 4))) if lora else decoder

    return make_trainable(nnx.eval_shape(make))


def test_adapters_are_counted_apart():
    adapted, whole = make_abstract(make_config(), True, rank=3), make_abstract(make_config(), False)
    embed, heads, kv, ffn = 256, 4 * 24, 2 * 24, 96
    ends = (embed + heads) * 2 + (embed + kv) * 2 + (embed + ffn) * 3
    assert adapter_weights(adapted.groups, adapted.params) == 2 * 3 * ends  # not the tag rows
    assert adapter_weights(whole.groups, whole.params) is None


def lowered_flops(model, tokens: int):
    """XLA's count of loss and gradients over all logits, nothing optimised."""
    batch = [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((1, tokens),) * 2 + ((1, 1, tokens),) * 2]

    def loss(params, frozen, *batch):
        hidden, base, tags = model.forward(params, frozen, *batch)
        total = (hidden @ base.T).sum()
        return total if tags is None else total + (hidden @ tags.T).sum()

    lowered = jax.jit(jax.value_and_grad(loss)).lower(model.params, model.frozen, *batch)
    return lowered.cost_analysis()["flops"]


@pytest.mark.parametrize("lora", [pytest.param(False, marks=pytest.mark.slow), True])
def test_products_cost_what_xla_counts(lora):
    """The difference of two sizes: what else the model does is in both. Head and projections have equal parts in it."""
    tokens, sizes = 32, (make_config(), make_config(ffn=480, vocab_size=2354))
    adapters = 0 if lora else None
    ours = [ModelFlops.of(config, adapters).step(tokens, tokens, 0) for config in sizes]
    theirs = [lowered_flops(make_abstract(config, lora), tokens) for config in sizes]
    assert theirs[1] - theirs[0] == pytest.approx(ours[1] - ours[0], rel=0.02)


def test_parts_of_the_count_add_up():
    model = ModelFlops(projections=1000, head=100, adapters=10, attention=7, frozen=True)
    assert model.step(tokens=5, targets=3, pairs=11) == 4 * (1000 * 5 + 100 * 3) + 6 * 10 * 5 + 12 * 7 * 11


def test_attention_costs_two_products_forward_and_four_backward():
    T, N, H = 8, 2, 4
    shape = jax.ShapeDtypeStruct((N, T, H), jnp.float32)
    attend = jax.value_and_grad(lambda q, k, v: ((q @ k.mT) @ v).sum(), argnums=(0, 1, 2))
    assert str(jax.jit(attend).trace(shape, shape, shape).jaxpr).count("dot_general") == 6
    model = ModelFlops(projections=0, head=0, adapters=0, attention=N * H, frozen=False)
    assert model.step(0, 0, T * T) == 6 * 2 * N * T * T * H


def test_visible_pairs_equal_those_of_the_dense_mask():
    B, T, E = 6, 80, 4
    start_BET, end_BET, visible_BTT = packed_batch(seed=3, batch=B, length=T, levels=E)
    row_T = np.arange(T)
    # Every row ends with a document of its own that we call padding; the tokens before it have predecessors.
    first_B = np.array([np.flatnonzero(start_BET[b, 0] == T)[0] for b in range(B)])
    padding_BT = row_T >= first_B[:, None]
    predecessor_BT = np.where(padding_BT, row_T, np.maximum(row_T - 1, 0)).astype(np.int32)
    none_BT = np.zeros((B, T), np.int32)
    batch = Batch(none_BT, none_BT, start_BET, end_BET, none_BT > 0, predecessor_BT, none_BT.astype(np.int8))
    np.testing.assert_array_equal(interval_mask(start_BET, end_BET, T), visible_BTT)
    tokens, pairs = count_visible(batch)
    assert tokens == (~padding_BT).sum()
    assert pairs == (visible_BTT & ~padding_BT[:, None, :]).sum()
    # Where every token but a document's first has a predecessor, the rows are full.
    full = batch._replace(predecessor_BT=np.tile(np.maximum(row_T - 1, 0).astype(np.int32), (B, 1)))
    assert count_visible(full) == (B * T, visible_BTT.sum())


def test_full_rows_have_no_padding():
    batch = next(RandomBatches())
    B, T = batch.tokens_BT.shape
    half = T // 2
    assert count_visible(batch) == (B * T, B * 2 * half * (half + 1) // 2)


@pytest.mark.parametrize(
    ("kinds", "peak"),
    [
        (["TPU v5"] * 4, 4 * 459e12),
        (["TPU v5 lite"], 197e12),
        (["NVIDIA H100 80GB HBM3", "NVIDIA B200"], 989e12 + 2250e12),
        (["TPU v5", "cpu"], None),
        (["NVIDIA H100 PCIe"], None),
        (["TPU7x"], None),
    ],
)
def test_peak_of_known_chips_and_of_no_others(kinds, peak):
    assert peak_flops([SimpleNamespace(device_kind=kind) for kind in kinds]) == peak
