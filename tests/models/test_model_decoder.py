"""The decoder: equal to transformers, scanned as unrolled, documents of a pack apart, paths apart."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from random_trees import token_facts
from tiny_weights import write_gguf_model

from mvjax.language.layout import lay_out
from mvjax.language.tags import TAGS
from mvjax.models import Decoder, from_checkpoint, from_hf, load_checkpoint
from mvjax.models.gguf_checkpoint import rope_factors
from mvjax.models.hf_config import normalised
from mvjax.models.tensors import parameter_count

FIXTURES = Path(__file__).parents[1] / "fixtures" / "models"
TOLERANCE = 2e-5  # of the largest logit, float32


def close(found, wanted, tolerance=TOLERANCE):
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("name", "scan_layers"),
    [("llama", True), ("llama3", False), ("qwen2", True), ("qwen2_tied", True), ("qwen3", True), ("olmo2", True)],
)
def test_logits_equal_those_of_transformers(name, scan_layers, fixture_checkpoint, fixture_expected, causal, logits):
    ids, expected = fixture_expected(name)
    decoder = from_checkpoint(fixture_checkpoint(name), scan_layers=scan_layers)
    close(logits(decoder, ids, *causal(*ids.shape)), expected)


SCALED = json.loads((FIXTURES / "scaled.json").read_text())


@pytest.mark.parametrize("name", SCALED)
def test_scaled_rotary_logits_equal_those_of_transformers(name, fixture_checkpoint, causal, logits):
    with np.load(FIXTURES / "scaled.npz") as file:
        ids, expected, plain = file["ids"], file[name], file["dynamic_within"]
    checkpoint = fixture_checkpoint("qwen2")
    decoder = from_checkpoint(dataclasses.replace(checkpoint, config=checkpoint.config | SCALED[name]))
    close(logits(decoder, ids, *causal(*ids.shape)), expected)
    changed = np.abs(expected - plain).max() / np.abs(plain).max()
    assert changed > 0.05 or name == "dynamic_within"


def test_a_fixed_length_is_that_of_a_sequence_of_this_length(fixture_checkpoint, causal, logits):
    """Dynamic scaling with `length`: every sequence is turned as one of that length is."""
    with np.load(FIXTURES / "scaled.npz") as file:
        ids, expected = file["ids"], file["dynamic"]
    checkpoint = fixture_checkpoint("qwen2")
    config = checkpoint.config | SCALED["dynamic"]
    config["rope_scaling"] = config["rope_scaling"] | {"length": ids.shape[1]}
    decoder = from_checkpoint(dataclasses.replace(checkpoint, config=config))
    close(logits(decoder, ids, *causal(*ids.shape)), expected)
    close(logits(decoder, ids[:, :12], *causal(1, 12)), expected[:, :12])
    assert decoder.config.served() is decoder.config


@pytest.mark.parametrize("name", ["llama3", "qwen2", "qwen3", "olmo2"])
def test_logits_from_a_gguf_file_equal_those_of_transformers(
    name, fixture_checkpoint, fixture_expected, causal, logits, tmp_path
):
    """Rows of Q and K are in the file's order, names are those of the `gguf` package."""
    ids, expected = fixture_expected(name)
    checkpoint = fixture_checkpoint(name)
    config = normalised(checkpoint.config, name)
    extra = {}
    if name == "llama3":
        config["rope_scaling"] = config["rope_scaling"] | {"original_max_position_embeddings": 8192}
        scaling = from_hf(config).rope_scaling
        extra = {"rope_freqs.weight": rope_factors(scaling, config["rope_theta"], 8).astype(np.float32)}
        wanted = from_checkpoint(dataclasses.replace(checkpoint, config=config))
        expected = logits(wanted, ids, *causal(*ids.shape))
    path = write_gguf_model(tmp_path / "m.gguf", config, checkpoint.tensors, extra=extra)
    close(logits(from_checkpoint(load_checkpoint(path)), ids, *causal(*ids.shape)), expected)


def test_scanned_equals_unrolled_equals_rematerialised_with_gradients(tiny, tokens, causal):
    def loss(decoder, tokens, *rows):
        return (decoder(tokens, *rows) ** 2).mean()

    losses, gradients = [], []
    for scan_layers, remat in ((True, "none"), (False, "none"), (True, "full")):
        decoder = tiny(scan_layers=scan_layers)
        decoder.remat = remat
        value, gradient = nnx.jit(nnx.value_and_grad(loss))(decoder, tokens, *causal(*tokens.shape))
        losses.append(float(value))
        gradients.append(gradient)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0] == pytest.approx(losses[2], rel=1e-6)
    scanned, unrolled, rematerialised = (gradient["layers"] for gradient in gradients)
    layers = [dict(nnx.to_flat_state(unrolled[i])) for i in range(2)]
    for path, gradient in nnx.to_flat_state(scanned):
        close(gradient[...], jnp.stack([layer[path][...] for layer in layers]))
        close(gradient[...], dict(nnx.to_flat_state(rematerialised))[path][...])


def test_documents_of_a_pack_do_not_see_each_other(tiny, tokens, causal, logits):
    decoder = tiny()
    length = tokens.shape[1]
    alone = logits(decoder, tokens, *causal(*tokens.shape))
    packed = np.concatenate(list(tokens))[None]
    positions = np.tile(np.arange(length, dtype=np.int32), len(tokens))[None]
    start = (np.arange(packed.shape[1], dtype=np.int32) // length * length + length)[None, None]
    together = logits(decoder, packed, positions, start, np.full_like(start, packed.shape[1]))
    close(together[0].reshape(alone.shape), alone)


def test_paths_do_not_see_their_siblings_through_any_layer(tiny, logits):
    """Other tokens in path 1 change nothing in path 2, and something in the conclusion."""
    outline, path = "<Outline> {k} : </Outline>", "<Path> {k} : {text} </Path>"
    words = ["a b <Parallel> <Goal>", *(outline.format(k=k) for k in (1, 2)), "</Goal>"]
    words += [path.format(k=k, text=text) for k, text in ((1, "x"), (2, "y"))] + [
        "<Conclusion> z </Conclusion> </Parallel>"
    ]
    names = [piece for word in " ".join(words).split() for piece in ([word, "\n"] if word in TAGS else [word])]
    codes_T, colon_T, separator_T = token_facts(names)
    layout = lay_out(codes_T, colon_T, separator_T=separator_T)
    rows = layout.position[None], layout.hide_start[None], layout.hide_end[None]
    ids = np.arange(len(names), dtype=np.int32)[None]
    x, conclusion = names.index("x"), names.index("<Conclusion>")
    second = slice(names.index("y") - 4, conclusion)  # from its <Path> on
    changed = ids.copy()
    changed[0, x] = 60
    decoder = tiny()
    before, after = logits(decoder, ids, *rows)[0], logits(decoder, changed, *rows)[0]
    np.testing.assert_array_equal(before[second], after[second])
    assert np.abs(before[conclusion:] - after[conclusion:]).max() > 1e-3
    assert np.abs(before[x] - after[x]).max() > 1e-3


def test_bfloat16_activations_and_parameters(fixture_checkpoint, fixture_expected, causal):
    ids, expected = fixture_expected("qwen3")
    decoder = from_checkpoint(fixture_checkpoint("qwen3"), dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(decoder))} == {jnp.dtype(jnp.bfloat16)}
    hidden = nnx.jit(lambda decoder, *rows: decoder.hidden(*rows))(decoder, ids, *causal(*ids.shape))
    assert hidden.dtype == jnp.bfloat16
    found = decoder.logits(hidden)
    assert found.dtype == jnp.float32
    close(found, expected, 0.05)


def test_no_weights_are_made_for_an_abstract_decoder(tiny):
    config = tiny().config
    shapes = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(params=0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(shapes))) == parameter_count(config)
