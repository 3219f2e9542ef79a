"""Weights in a byte a number: the same numbers for every split, and an engine that agrees with the training forward."""

import contextlib
import dataclasses
import types

import jax
import jax.numpy as jnp
import mvjax_kernels
import numpy as np
import pytest
from flax import nnx
from mvjax_kernels.quantised import quantise as quantise_slots
from played_steps import LANES, play, transcripts
from tensor_models import checkpoint, run
from tiny_weights import tiny_config

from mvjax.errors import UserError
from mvjax.models import DecoderStepModel, from_checkpoint, from_hf
from mvjax.models.number_formats import LARGEST, no_fp8, number_formats
from mvjax.models.quantised import QuantisedRows, dequantised, quantise
from mvjax.models.sharded_loading import Parameter
from mvjax.models.tensor_split import Source, TensorSplit
from mvjax.models.tensors import expected_shapes
from mvjax.models.transfer import chunk_bytes
from mvjax.weights.checkpoint import Checkpoint, LazyTensor, LazyTensors, lazily, lazy


@pytest.mark.parametrize("dtype", LARGEST, ids=str)
def test_rows_are_rounded_to_their_scale(dtype):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(9, 50)).astype(np.float32) * np.logspace(-30, 30, 9, dtype=np.float32)[:, None]
    rows[3], rows[5] = 0, 1e-42
    values, scales = quantise("w", rows.astype(jnp.bfloat16), dtype)
    rows = rows.astype(jnp.bfloat16).astype(np.float32)
    assert (values.dtype, scales.dtype) == (dtype, np.float32)
    wide = values.astype(np.float32)
    assert not wide[[3, 5]].any()
    alive = [0, 1, 2, 4, 6, 7, 8]
    assert (np.abs(wide[alive]).max(axis=1) == LARGEST[dtype]).all()
    np.testing.assert_array_equal(scales[alive], np.abs(rows[alive]).max(axis=1) / np.float32(LARGEST[dtype]))
    # Half a step of int8; of float8's three digits half a unit of the last, or of the smallest number's.
    step = 0.5 if dtype == np.int8 else np.maximum(np.abs(wide) / 15, 2**-10)
    assert (np.abs(wide * scales[:, None] - rows) <= 1.001 * scales[:, None] * step + 1e-41).all()


def test_numbers_that_are_not_finite_are_refused():
    rows = np.ones((3, 4), np.float32)
    rows[1, 2] = np.nan
    with pytest.raises(UserError, match=r"^layer\.weight has numbers that are not finite: it cannot be quantised$"):
        quantise("layer.weight", rows, np.dtype(np.int8))


def test_parts_have_the_numbers_of_whole_rows_and_rows_are_read_once():
    whole, reads = np.random.default_rng(0).normal(size=(40, 12)).astype(np.float32), []

    def read_rows(start, stop):
        reads.extend(range(start, stop))
        return whole[start:stop].copy()

    values, scales = quantise("w", whole, np.dtype(np.int8))
    for entry in (
        LazyTensor(whole.shape, whole.dtype, lambda: whole, read_rows),
        dataclasses.replace(lazy(whole), read_rows=None),
    ):
        rows = QuantisedRows("w", entry, np.dtype(np.int8))
        reads.clear()
        np.testing.assert_array_equal(rows.values.read_part((slice(0, 30), slice(3, 7))), values[:30, 3:7])
        np.testing.assert_array_equal(rows.scales.read_part((slice(0, 30),)), scales[:30])
        assert reads in (list(range(30)), [])
        np.testing.assert_array_equal(rows.scales.read_part((slice(25, 40),)), scales[25:])


@pytest.mark.parametrize(("family", "kv_heads", "size"), [("qwen2", 2, 1), ("olmo2", 2, 8), ("qwen3", 4, 2)])
def test_every_split_has_the_same_numbers(family, kv_heads, size):
    """Those of the whole matrices, quantised before they are split."""
    made = checkpoint(family, kv_heads)
    split, formats = TensorSplit(from_hf(made.config), size), number_formats("int8")
    source = Source(lazily(made.tensors), formats)
    plain = Source(lazily(dequantised(made, "int8").tensors), number_formats("float32"))
    matrices = 0
    for pieces, prefix in ((split.layer, "model.layers.1."), ({"embed": split.outer["embed"]}, "model.")):
        for piece in pieces.values():
            wanted = piece.tensor(plain, prefix).read()
            if piece.matrix:
                matrices += 1
                values, scales = (each.tensor(source, prefix).read() for each in piece.quantised)
                assert (values.dtype, scales.dtype) == (np.int8, np.float32)
                np.testing.assert_array_equal(values * scales[:, None], wanted)
            else:
                np.testing.assert_array_equal(piece.tensor(source, prefix).read(), wanted)
    assert matrices == 5


@pytest.mark.slow
@pytest.mark.parametrize(("family", "unroll"), [("qwen2", False), ("qwen3", True), ("olmo2", True)])
def test_the_engine_agrees_with_the_training_forward_of_its_weights(family, unroll, logits):
    made = checkpoint(family, 2)
    model = DecoderStepModel.from_checkpoint(made, weight_dtype="int8", unroll=unroll)
    assert model.params["embed"].dtype == np.int8
    decoder, exact = from_checkpoint(dequantised(made, "int8")), from_checkpoint(made)
    (layout,) = transcripts(1, seed=2)
    ids = np.random.default_rng(1).integers(0, model.vocab_size, len(layout.segment)).astype(np.int32)
    fed = play(model, [layout], [ids])[0]
    rows = ids[None], layout.position[None], layout.hide_start[None], layout.hide_end[None]
    wanted, others = logits(decoder, *rows)[0], logits(exact, *rows)[0]
    assert len(fed) > LANES
    for token, row in fed.items():
        assert np.abs(row - wanted[token]).max() <= 2e-6 * np.abs(wanted).max(), token
    assert np.abs(wanted - others).max() > 2e-4 * np.abs(wanted).max(), "the weights were not quantised"


@pytest.fixture
def rounded_attention(monkeypatch):
    """The training forward with keys and values that were rounded slot by slot, as the engine keeps them."""
    attention = mvjax_kernels.attention

    def rounded(q, k, v, *rest, **options):
        k, v = ((values * scale[..., None]).astype(q.dtype) for values, scale in map(quantise_slots, (k, v)))
        return attention(q, k, v, *rest, **options)

    @contextlib.contextmanager
    def patched():
        with monkeypatch.context() as patch:
            patch.setattr(mvjax_kernels, "attention", rounded)
            yield

    return patched


@pytest.mark.parametrize(
    ("unroll", "backend", "head_dim"),
    [
        (True, "xla", 8),
        pytest.param(False, "xla", 8, marks=pytest.mark.slow),
        pytest.param(False, "tpu_interpret", 64, marks=pytest.mark.slow),
    ],
)
def test_int8_gives_the_logits_of_rounded_numbers(unroll, backend, head_dim, rounded_attention):
    """Weights, keys and values; however the prompt is cut into chunks, as `play` does: a slot's numbers depend on
    itself alone."""
    made = checkpoint("qwen2", 2, head_dim=head_dim)
    options = {"unroll": unroll, "backend": backend, "page_size": 128 if backend == "tpu_interpret" else 16}
    model = DecoderStepModel.from_checkpoint(made, weight_dtype="int8", kv_dtype="int8", **options)
    (layout,) = transcripts(1, seed=2)
    ids = np.random.default_rng(1).integers(0, model.vocab_size, len(layout.segment)).astype(np.int32)
    fed = play(model, [layout], [ids])[0]
    rows = ids[None], layout.position[None], layout.hide_start[None], layout.hide_end[None]

    graph, state = nnx.split(from_checkpoint(dequantised(made, "int8")))

    def forward():
        return np.asarray(jax.jit(lambda state: nnx.merge(graph, state)(*rows))(state))[0]

    with rounded_attention():
        wanted = forward()
    largest, unrounded = np.abs(wanted).max(), forward()
    errors = np.array([np.abs(row - wanted[token]).max() for token, row in fed.items()]) / largest
    assert len(errors) > LANES
    # A number on the border between two may be rounded to one here and to the other there, and changes what sees it.
    assert np.median(errors) < 2e-6
    assert errors.max() < 1e-3
    assert all(np.abs(row - unrounded[token]).max() > 1e-4 * largest for token, row in list(fed.items())[8:])


def test_int8_needs_pages():
    model = DecoderStepModel.described(from_hf(checkpoint("qwen2", 2).config), kv_dtype="int8")
    assert model.page_size
    complaint = r"^kv dtype int8: only keys and values in pages have scales, and these streams are contiguous; use"
    with pytest.raises(UserError, match=complaint):
        DecoderStepModel.described(model.config, kv_dtype="int8", page_size=None)
    with pytest.raises(UserError, match=complaint):
        model.init_kv(1, 8)


def test_formats_by_platform(monkeypatch):
    def chip(platform, kind="", **more):
        return types.SimpleNamespace(platform=platform, device_kind=kind, **more)

    assert number_formats() == number_formats("float32", "float32")
    found = number_formats("int8", "bfloat16")
    assert (found.weights, found.activations, found.kv) == (np.int8, np.float32, jnp.bfloat16)
    with pytest.raises(UserError, match=r"^weight dtype fp8: processors do not compute with it; use int8$"):
        number_formats("fp8")
    with pytest.raises(UserError, match=r"^weight dtype int4: use one of auto, float32, bfloat16, int8, fp8$"):
        number_formats("int4")
    with pytest.raises(UserError, match=r"^kv dtype fp8: use one of auto, float32, bfloat16, int8$"):
        number_formats("auto", "fp8")
    chips = [chip("tpu", "TPU v6 lite"), chip("tpu", "TPU7x")]
    chips += [chip("cuda", compute_capability=capability) for capability in ("8.0", "9.0")]
    assert [no_fp8(each) is None for each in chips] == [False, True, False, True]


@pytest.mark.slow
def test_a_device_never_holds_more_than_the_quantised_weights_and_a_chunk(monkeypatch):
    """A model with all sizes of Qwen2.5-32B's matrices an eighth: a 64th of its weights."""
    sizes = {"hidden_size": 640, "intermediate_size": 3456, "num_attention_heads": 5, "num_key_value_heads": 1}
    sizes |= {"head_dim": 128, "vocab_size": 19008, "num_hidden_layers": 64}
    hf_config = tiny_config("qwen2", **sizes, tied=False)
    row = np.random.default_rng(0).normal(size=2**16).astype(np.float32)

    def entry(shape):
        def read_rows(start, stop):
            count = (stop - start) * int(np.prod(shape[1:]))
            return np.resize(np.roll(row, start), count).reshape(stop - start, *shape[1:])

        return LazyTensor(shape, row.dtype, lambda: read_rows(0, shape[0]), read_rows)

    shapes = expected_shapes(from_hf(hf_config))
    made = Checkpoint(hf_config, LazyTensors({name: entry(shape) for name, shape in shapes.items()}))
    before, held, put = sum(array.nbytes for array in jax.live_arrays()), [], Parameter.put

    def watched(self, *arguments):
        placed = put(self, *arguments)
        held.append(sum(array.nbytes for array in jax.live_arrays()) - before)
        return placed

    monkeypatch.setattr(Parameter, "put", watched)
    model = DecoderStepModel.from_checkpoint(made, weight_dtype="int8")
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
    assert weights < 0.27 * made.nbytes
    assert max(held) <= weights + 2 * chunk_bytes(max(4 * int(np.prod(shape)) for shape in shapes.values()))


@pytest.mark.slow
@pytest.mark.parametrize("formats", [{"weight_dtype": "int8"}, {"weight_dtype": "int8", "kv_dtype": "int8"}])
def test_several_devices_give_the_logits_of_one(formats):
    found = run("played", "qwen2", 4, 8, False, 16, 1, **formats)
    assert found["error"] < (1e-3 if "kv_dtype" in formats else 2e-6)
    assert all(found["same"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "formats"),
    [("qwen2", {}), ("qwen3", {}), ("qwen2", {"kv_dtype": "int8"})],
)
def test_eight_devices_give_the_tokens_of_one(family, formats):
    found = run("many", family, 8, 20, weight_dtype="int8", **formats)
    assert found["blocks"] > 4
    assert not found["runs"][0]["differ"]
    assert found["runs"][0]["preempted"]
