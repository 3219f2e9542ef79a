"""Adapters and tag rows: what they train, merging, files."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from mvjax.errors import UserError
from mvjax.models import (
    TRAINABLE,
    Decoder,
    LoraConfig,
    add_lora,
    is_adapted,
    load_adapter,
    merge,
    read_adapter,
    remove_adapter,
    save_adapter,
    to_checkpoint,
)
from mvjax.models.families import FAMILIES
from mvjax.models.load import demo_adapter
from mvjax.models.low_rank import folded, folds, low_rank
from mvjax.weights.tensor_file import read_tensor_file

CONFIG = LoraConfig(rank=3, alpha=6.0, tag_ids=(5, 9, 60))
SHAPES = [
    {"scan_layers": True},
    {"scan_layers": False, "tied": False, "family": "qwen2"},
    pytest.param({"tied": False, "family": "olmo2"}, marks=pytest.mark.slow),
]


def adapted(decoder, config=CONFIG, seed=3):
    """The decoder with an adapter whose parameters all differ from their start."""
    add_lora(decoder, config)
    rng = np.random.default_rng(seed)
    for _, variable in nnx.to_flat_state(nnx.state(decoder, TRAINABLE)):
        moved = np.asarray(variable[...]) + 0.1 * rng.normal(size=variable.shape)
        variable[...] = jnp.asarray(moved, variable.dtype)
    return decoder


def test_folding_the_update_into_the_weight_changes_outputs_and_gradients_by_rounding_only():
    rng = np.random.default_rng(0)
    x, w, a, b, seen = (rng.normal(size=size) for size in ((2, 20, 12), (9, 12), (3, 12), (9, 3), (2, 20, 9)))

    def beside(x, w, a, b):
        return jnp.einsum("...i,oi->...o", x, w) + low_rank(x, a, b)

    def plain(x, w, a, b):
        return jnp.einsum("...i,oi->...o", x, w) + jnp.einsum("...i,ri,or->...o", x, a, b)

    results = [
        jax.jit(jax.value_and_grad(lambda *args, f=f: (f(*args) * seen).sum(), (0, 1, 2, 3)))(x, w, a, b)
        for f in (plain, beside, folded)
    ]
    for value, gradients in results[1:]:
        np.testing.assert_allclose(value, results[0][0], rtol=1e-5)
        for got, wanted in zip(gradients, results[0][1], strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())


def test_updates_are_folded_where_that_is_exact_enough_and_cheaper():
    assert folds(2048, 576, jnp.float32)
    assert not folds(256, 576, jnp.float32)
    assert not folds(2048, 576, jnp.bfloat16)


@pytest.fixture
def run(tokens, causal, logits):
    return lambda decoder: logits(decoder, tokens, *causal(*tokens.shape))


@pytest.mark.parametrize("shape", [pytest.param(SHAPES[0], marks=pytest.mark.slow), *SHAPES[1:]])
def test_a_new_adapter_changes_nothing_and_merging_a_trained_one_neither(tiny, run, shape):
    decoder = tiny(**shape)
    before = run(decoder)
    add_lora(decoder, CONFIG)
    assert is_adapted(decoder)
    np.testing.assert_allclose(run(decoder), before, atol=1e-5 * np.abs(before).max())
    remove_adapter(decoder)
    after = run(adapted(decoder))
    assert np.abs(after - before).max() > 0.1 * np.abs(before).max()
    merged = run(merge(decoder))
    assert not is_adapted(decoder)
    np.testing.assert_allclose(merged, after, atol=2e-5 * np.abs(after).max())


@pytest.mark.parametrize("shape", [SHAPES[0], pytest.param(SHAPES[1], marks=pytest.mark.slow), SHAPES[2]])
def test_gradients_are_of_adapters_and_tag_rows_alone(tiny, tokens, causal, shape):
    decoder = adapted(tiny(**shape))
    frozen = nnx.state(decoder, nnx.Not(TRAINABLE))

    def loss(decoder):
        return (decoder(tokens, *causal(*tokens.shape)) ** 2).mean()

    gradients = nnx.jit(nnx.grad(loss, argnums=nnx.DiffState(0, TRAINABLE)))(decoder)
    flat = dict(nnx.to_flat_state(gradients))
    assert {path[-1] for path in flat} == {"lora_a", "lora_b", "tag_rows"}
    layers = 1 if decoder.config.scan_layers else 2
    tables = 1 if decoder.config.tied else 2
    assert len(flat) == 7 * 2 * layers + tables
    for path, gradient in flat.items():
        assert np.abs(gradient[...]).max() > 0, path
    for path, before in nnx.to_flat_state(frozen):
        np.testing.assert_array_equal(before[...], dict(nnx.to_flat_state(nnx.state(decoder)))[path][...])


def test_tag_rows_stand_in_for_rows_of_the_matrix_in_both_uses(tiny, tokens, causal):
    decoder = tiny()
    add_lora(decoder, LoraConfig(rank=0, tag_ids=(5, 9, 60)))
    assert not jax.tree.leaves(nnx.state(decoder, nnx.LoRAParam))
    decoder.embed_tokens.tag_rows[...] = jnp.ones((3, 32))
    matrix = decoder.head.matrix()
    np.testing.assert_array_equal(matrix[jnp.array([5, 9, 60])], 1.0)
    hidden = nnx.jit(lambda decoder, *rows: decoder.hidden(*rows))(decoder, tokens, *causal(*tokens.shape))
    np.testing.assert_allclose(decoder.logits(hidden), hidden @ matrix.T, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(
        decoder.embed_tokens.lookup(jnp.array([9, 4]), jnp.float32), matrix[jnp.array([9, 4])]
    )


def test_only_chosen_layers_are_adapted(tiny):
    decoder = add_lora(tiny(), LoraConfig(rank=2, targets=("q_proj", "v_proj")))
    assert {path[-2] for path, _ in nnx.to_flat_state(nnx.state(decoder, TRAINABLE))} == {"q_proj", "v_proj"}


def test_a_checkpoint_of_an_adapted_decoder_is_merged_and_leaves_it_adapted(tiny):
    decoder = adapted(tiny())
    tensors = to_checkpoint(decoder).tensors
    assert is_adapted(decoder)
    merge(decoder)
    for name, tensor in to_checkpoint(decoder).tensors.items():
        np.testing.assert_array_equal(tensors[name], tensor)


@pytest.mark.parametrize(
    ("scanned_first", "dtype"),
    [
        (False, jnp.bfloat16),
        pytest.param(True, jnp.float32, marks=pytest.mark.slow),
        pytest.param(False, jnp.float32, marks=pytest.mark.slow),
        pytest.param(True, jnp.bfloat16, marks=pytest.mark.slow),
    ],
)
def test_round_trip_between_scanned_and_unrolled(tiny, run, tmp_path, scanned_first, dtype):
    path = tmp_path / "adapter.safetensors"
    decoder = adapted(tiny(scan_layers=scanned_first))
    wanted = run(decoder)
    save_adapter(path, decoder, dtype=dtype, metadata={"tokenizer": "abc"})
    other = tiny(scan_layers=not scanned_first)
    load_adapter(path, other, tokenizer="abc")
    tolerance = 2e-5 if dtype == jnp.float32 else 0.02
    np.testing.assert_allclose(run(other), wanted, atol=tolerance * np.abs(wanted).max())
    assert read_adapter(path).facts["tokenizer"] == "abc"


def test_adapters_of_version_0_1_load(tiny, run, tmp_path):
    """They say `qkv_bias` and `qk_norm`, which follow from the family, and not `attention_bias`."""
    path, old = tmp_path / "adapter.safetensors", tmp_path / "old.safetensors"
    decoder = adapted(tiny())
    save_adapter(path, decoder, dtype=jnp.float32)
    header = read_tensor_file(path)[1]
    base = json.loads(header["base"]) | {"qkv_bias": False, "qk_norm": False}
    assert base.pop("attention_bias") is False
    save_file(load_file(path), old, metadata=header | {"base": json.dumps(base)})
    np.testing.assert_array_equal(run(load_adapter(old, tiny())), run(decoder))
    with pytest.raises(UserError, match="attention_bias False, this model has True"):
        load_adapter(old, tiny(attention_bias=True))


def test_the_adapter_of_the_demo_belongs_to_its_model():
    shape, _ = FAMILIES["llama"].published()["smollm2-135m"]
    config = dataclasses.replace(shape, vocab_size=shape.vocab_size + 12)
    decoder = nnx.eval_shape(lambda: load_adapter(demo_adapter(), Decoder(config, rngs=nnx.Rngs(0))))
    assert (decoder.lora.rank, decoder.lora.tag_ids) == (16, tuple(range(49152, 49164)))
    assert is_adapted(decoder)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"ffn": 64}, "ffn"), ({"layers": 3}, "layers"), ({"vocab_size": 66}, "vocab_size"), ({"tied": False}, "tied")],
)
def test_an_adapter_of_another_shape_is_refused_and_nothing_is_left(tiny, tmp_path, changes, named):
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, adapted(tiny()))
    other = tiny(**changes)
    with pytest.raises(UserError, match=named):
        load_adapter(path, other)
    assert not is_adapted(other)


def test_bad_adapter_files_are_user_errors(tiny, tmp_path):
    path, damaged = tmp_path / "adapter.safetensors", tmp_path / "damaged.safetensors"
    save_adapter(path, adapted(tiny()), metadata={"tokenizer": "abc"}, dtype=jnp.float32)
    header, tensors = read_tensor_file(path)[1], load_file(path)
    first = next(name for name in tensors if name.endswith("lora_a"))
    cases = {
        "missing": {name: tensor for name, tensor in tensors.items() if name != first},
        "shape": tensors | {first: tensors[first][:, :-1]},
    }
    for named, content in cases.items():
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in content.items()}, damaged, metadata=header)
        other = tiny()
        with pytest.raises(UserError, match=named):
            load_adapter(damaged, other)
        assert not is_adapted(other)
    save_file(tensors, damaged)
    with pytest.raises(UserError, match="no adapter file"):
        load_adapter(damaged, tiny())
    damaged.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be read"):
        load_adapter(damaged, tiny())
    with pytest.raises(UserError, match="cannot be read"):
        load_adapter(tmp_path / "absent", tiny())
    with pytest.raises(UserError, match="another tokenizer"):
        load_adapter(path, tiny(), tokenizer="xyz")


def test_bad_requests_are_user_errors(tiny, tmp_path):
    with pytest.raises(UserError, match="down"):
        LoraConfig(targets=("down",))
    with pytest.raises(UserError, match="64"):
        add_lora(tiny(), LoraConfig(tag_ids=(64,)))
    with pytest.raises(UserError, match="already"):
        add_lora(add_lora(tiny(), CONFIG), CONFIG)
    with pytest.raises(UserError, match="no adapter"):
        save_adapter(tmp_path / "none.safetensors", tiny())
