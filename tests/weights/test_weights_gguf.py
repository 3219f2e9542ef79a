"""GGUF files: every storage type, the order of Q and K rows, configurations, and damaged files."""

import os
import struct

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf_blocks import BLOCKS, decode, random_blocks
from tiny_weights import permuted, tiny_config, tiny_tensors, write_gguf_model

from mvjax.errors import UserError
from mvjax.models import LinearScaling, Llama3Scaling, YarnScaling, from_hf, load_checkpoint, save_checkpoint
from mvjax.models.gguf_checkpoint import rope_factors
from mvjax.weights.gguf import unpermuted
from mvjax.weights.gguf_header import read_header

GATE = "model.layers.0.mlp.gate_proj.weight"
SLOW_MODEL = os.environ.get("MVJAX_SMOLLM2")


@pytest.fixture
def small():
    """Configuration and tensors small enough to write many times."""
    config = tiny_config(vocab_size=8)
    return config, tiny_tensors(config)


@pytest.mark.parametrize("kind", ["F32", "F16"])
def test_plain_types_keep_their_bits(tmp_path, small, kind):
    config, tensors = small
    loaded = load_checkpoint(write_gguf_model(tmp_path / "m.gguf", config, tensors, kind=kind))
    assert list(loaded.tensors) == list(tensors)
    for name, array in tensors.items():
        expected = array.astype(np.float16) if kind == "F16" and array.ndim == 2 else array
        assert loaded.tensors[name].dtype == expected.dtype
        np.testing.assert_array_equal(loaded.tensors[name], expected, err_msg=name)


def test_bfloat16_keeps_its_bits(tmp_path, small):
    config, tensors = small
    raw = {GATE: tensors[GATE].astype(ml_dtypes.bfloat16).view(np.uint8)}
    loaded = load_checkpoint(write_gguf_model(tmp_path / "m.gguf", config, tensors, kind="BF16", raw=raw))
    assert loaded.tensors[GATE].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(loaded.tensors[GATE], tensors[GATE].astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("kind", BLOCKS)
def test_quantised_blocks_decode_as_their_format_says(tmp_path, kind):
    config = tiny_config(vocab_size=8, intermediate_size=16)
    tensors, raw = tiny_tensors(config), {GATE: random_blocks(kind, 16, 256)}
    loaded = load_checkpoint(write_gguf_model(tmp_path / "m.gguf", config, tensors, kind=kind, raw=raw))
    found = loaded.tensors[GATE]
    assert found.dtype == np.float32
    expected = decode(kind, raw[GATE])
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_a_whole_model_in_each_type_that_can_be_written(tmp_path, kind):
    config = tiny_config(vocab_size=8)
    tensors = tiny_tensors(config)
    loaded = load_checkpoint(write_gguf_model(tmp_path / "m.gguf", config, tensors, kind=kind))
    storage = gguf.GGMLQuantizationType[kind]
    for name, array in tensors.items():
        expected = array
        if array.ndim == 2 and array.shape[1] % 32 == 0:
            expected = gguf.quants.dequantize(gguf.quants.quantize(array, storage), storage)
        np.testing.assert_allclose(loaded.tensors[name], expected, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("family", "tied"), [("llama", True), ("llama", False), ("qwen2", False), ("qwen3", True), ("olmo2", False)]
)
def test_the_configuration_of_each_architecture(tmp_path, family, tied):
    config = tiny_config(family, tied=tied, vocab_size=8)
    tensors = tiny_tensors(config)
    loaded = load_checkpoint(write_gguf_model(tmp_path / "m.gguf", config, tensors))
    assert {key: loaded.config[key] for key in config} == config
    assert loaded.generation == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    for name, array in tensors.items():
        np.testing.assert_array_equal(loaded.tensors[name], array, err_msg=name)
    save_checkpoint(tmp_path / "saved", loaded)
    again = load_checkpoint(tmp_path / "saved")
    assert again.config == loaded.config
    assert all(np.array_equal(again.tensors[name], tensors[name]) for name in tensors)


def test_llama_biases_are_unpermuted_too(tmp_path):
    config = tiny_config(vocab_size=8, attention_bias=True)
    tensors = tiny_tensors(config)
    loaded = load_checkpoint(write_gguf_model(tmp_path / "m.gguf", config, tensors))
    assert loaded.config["attention_bias"] is True
    for name, array in tensors.items():
        np.testing.assert_array_equal(loaded.tensors[name], array, err_msg=name)


def test_all_ends_of_a_turn_are_kept(tmp_path, small):
    config, tensors = small

    def change(writer):
        writer.add_eot_token_id(5)
        writer.add_uint32("tokenizer.ggml.eom_token_id", 2)

    loaded = load_checkpoint(write_gguf_model(tmp_path / "m.gguf", config, tensors, change=change))
    assert loaded.generation["eos_token_id"] == [2, 5]
    assert loaded.config["eos_token_id"] == 2


@pytest.mark.parametrize(("heads", "width", "columns"), [(1, 2, 3), (3, 8, 5), (4, 64, 1)])
def test_the_permutation_is_undone(heads, width, columns):
    rows = np.arange(heads * width * columns).reshape(heads * width, columns)
    np.testing.assert_array_equal(unpermuted(permuted(rows, heads), heads), rows)
    np.testing.assert_array_equal(unpermuted(permuted(rows[:, 0], heads), heads), rows[:, 0])


def test_rotary_in_halves_on_our_rows_is_rotary_in_pairs_on_the_files():
    rng = np.random.default_rng(0)
    heads, width, inputs = 2, 16, 12
    angles = 10000.0 ** (-np.arange(0, width, 2) / width)

    def scores(rows_q, rows_k, pairs):
        def turned(rows, x, position):
            y = (rows @ x).reshape(heads, width)
            a, b = (y[:, 0::2], y[:, 1::2]) if pairs else (y[:, : width // 2], y[:, width // 2 :])
            cos, sin = np.cos(position * angles), np.sin(position * angles)
            return np.stack([a * cos - b * sin, a * sin + b * cos])

        x, y = rng_x, rng_y
        return np.sum(turned(rows_q, x, 7) * turned(rows_k, y, 3), axis=(0, 2))

    rng_x, rng_y = rng.standard_normal((2, inputs))
    file_q, file_k = rng.standard_normal((2, heads * width, inputs))
    ours = scores(unpermuted(file_q, heads), unpermuted(file_k, heads), pairs=False)
    np.testing.assert_allclose(ours, scores(file_q, file_k, pairs=True), rtol=1e-12)
    assert not np.allclose(scores(file_q, file_k, pairs=False), ours)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_rotary_scaling_is_recovered(tmp_path, small, factor):
    config, tensors = small
    config = config | {"rope_theta": 500000.0}
    scaling = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 8192
    factors = rope_factors(Llama3Scaling(factor, 1.0, 4.0, 8192), 500000.0, 16).astype(np.float32)
    assert factors[0] == 1.0
    assert factors[-1] == factor
    path = write_gguf_model(tmp_path / "m.gguf", config, tensors, extra={"rope_freqs.weight": factors})
    loaded = load_checkpoint(path)
    assert loaded.config["rope_scaling"] == scaling
    assert "rope_freqs.weight" not in loaded.tensors
    path = write_gguf_model(tmp_path / "n.gguf", config, tensors, extra={"rope_freqs.weight": factors**2})
    with pytest.raises(UserError, match="rotary factors other than Llama 3's"):
        load_checkpoint(path)


def test_llama3_factors_are_transformers_formula():
    for i, found in enumerate(rope_factors(Llama3Scaling(8.0, 1.0, 4.0, 8192), 500000.0, 128)):
        frequency = 500000.0 ** (-2 * i / 128)
        wavelength = 2 * np.pi / frequency
        if wavelength < 8192 / 4:
            expected = frequency
        elif wavelength > 8192:
            expected = frequency / 8
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            expected = (1 - smooth) * frequency / 8 + smooth * frequency
        assert found == pytest.approx(frequency / expected, rel=1e-12)


def test_scaling_in_the_metadata_is_carried(tmp_path, small):
    config, tensors = small

    def change(writer):
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(64)

    loaded = load_checkpoint(write_gguf_model(tmp_path / "m.gguf", config, tensors, change=change))
    expected = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    assert loaded.config["rope_scaling"] == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda w: w.add_float32("llama.rope.scale_linear", 2.5), LinearScaling(2.5)),
        (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.NONE), None),
        (
            lambda w: [w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR), w.add_rope_scaling_factor(3.0)],
            LinearScaling(3.0),
        ),
        (
            lambda w: [
                w.add_rope_scaling_type(gguf.RopeScalingType.YARN),
                w.add_rope_scaling_factor(4.0),
                w.add_float32("llama.rope.scaling.attn_factor", 2.0),
                w.add_float32("llama.rope.scaling.yarn_beta_fast", 16.0),
            ],
            YarnScaling(4.0, 128, beta_fast=16.0, attention=2 * (0.1 * np.log(4.0) + 1)),
        ),
    ],
)
def test_scaling_by_other_keys(tmp_path, change, expected):
    config = tiny_config(vocab_size=8, hidden_size=32, intermediate_size=32)
    tensors = tiny_tensors(config)
    loaded = load_checkpoint(write_gguf_model(tmp_path / "m.gguf", config, tensors, change=change))
    assert from_hf(loaded.config).rope_scaling == expected


def test_the_header_agrees_with_the_gguf_package(tmp_path, small):
    config, tensors = small
    path = write_gguf_model(
        tmp_path / "m.gguf", config, tensors, kind="Q4_1", change=lambda w: w.add_array("x.y", [1, 2])
    )
    reference, header = gguf.GGUFReader(path), read_header(path)
    assert [(t.name, tuple(reversed(t.shape.tolist())), t.tensor_type, t.data_offset) for t in reference.tensors] == [
        (t.name, t.shape, t.kind, t.offset) for t in header.tensors
    ]
    fields = {key: field.contents() for key, field in reference.fields.items() if not key.startswith("GGUF.")}
    assert fields == header.metadata


def test_long_arrays_are_passed_over(tmp_path):
    config = tiny_config(vocab_size=5000, hidden_size=32, intermediate_size=32)
    tensors = tiny_tensors(config)
    path = write_gguf_model(tmp_path / "m.gguf", config, tensors)
    assert not {"tokenizer.ggml.tokens", "tokenizer.ggml.token_type"} & set(read_header(path).metadata)
    np.testing.assert_array_equal(load_checkpoint(path).tensors["model.norm.weight"], tensors["model.norm.weight"])


def test_truncated_files_are_named_wherever_they_end(tmp_path, small):
    config, tensors = small
    path = write_gguf_model(tmp_path / "m.gguf", config, tensors)
    whole, header = path.read_bytes(), read_header(path)
    start = min(info.offset for info in header.tensors)
    for size in [*range(4, start, 97), start, start + 1, len(whole) - 40]:
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"m\.gguf is truncated"):
            load_checkpoint(path)
    path.write_bytes(whole[:3])
    with pytest.raises(UserError, match="unknown or damaged format"):
        load_checkpoint(path)


def test_random_damage_to_the_header_is_an_error_or_harmless(tmp_path, small):
    config, tensors = small
    path = write_gguf_model(tmp_path / "m.gguf", config, tensors)
    whole = path.read_bytes()
    start = min(info.offset for info in read_header(path).tensors)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.integers(4, start)] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            load_checkpoint(path)
        except UserError:
            refused += 1
    assert refused > 50


def test_other_versions_and_byte_orders_are_named(tmp_path, small):
    config, tensors = small
    path = write_gguf_model(tmp_path / "m.gguf", config, tensors)
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + struct.pack("<I", 1) + whole[8:])
    with pytest.raises(UserError, match="GGUF version 1 is not supported"):
        load_checkpoint(path)
    path.write_bytes(whole[:4] + struct.pack(">I", 3) + whole[8:])
    with pytest.raises(UserError, match="other byte order"):
        load_checkpoint(path)


def test_unsupported_storage_is_named_with_its_count(tmp_path, small):
    config, tensors = small
    path = write_gguf_model(tmp_path / "m.gguf", config, tensors)
    whole = path.read_bytes()

    def stored_as(number):
        entry = b"blk.0.ffn_gate.weight" + struct.pack("<IQQ", 2, 256, 256)
        at = whole.index(entry) + len(entry)
        path.write_bytes(whole[:at] + struct.pack("<I", number) + whole[at + 4 :])

    stored_as(gguf.GGMLQuantizationType.IQ4_NL)
    with pytest.raises(
        UserError, match=r"quantisation IQ4_NL \(1 tensor\) is not supported: use a file with F32, .*Q6_K"
    ):
        load_checkpoint(path)
    stored_as(4711)
    with pytest.raises(UserError, match="quantisation 4711"):
        load_checkpoint(path)


def test_missing_superfluous_and_misshapen_tensors_are_named(tmp_path, small):
    config, tensors = small
    some = {name: array for name, array in tensors.items() if "v_proj" not in name}
    with pytest.raises(UserError, match=r"2 tensors missing: model\.layers\.0\.self_attn\.v_proj\.weight"):
        load_checkpoint(write_gguf_model(tmp_path / "a.gguf", config, some))
    extra = {"blk.0.ffn_gate_exps.weight": np.ones((2, 2), np.float32)}
    with pytest.raises(UserError, match=r"blk\.0\.ffn_gate_exps\.weight belongs to no llama model"):
        load_checkpoint(write_gguf_model(tmp_path / "b.gguf", config, tensors, extra=extra))
    wrong = tensors | {GATE: np.ones((3, 256), np.float32)}
    with pytest.raises(UserError, match=r"gate_proj\.weight has shape \(3, 256\), the configuration says \(256, 256\)"):
        load_checkpoint(write_gguf_model(tmp_path / "c.gguf", config, wrong))
    without = {name: array for name, array in tensors.items() if "embed" not in name}
    with pytest.raises(UserError, match=r"1 tensor missing: token_embd\.weight"):
        load_checkpoint(write_gguf_model(tmp_path / "d.gguf", config, without))


def test_models_that_are_not_supported_are_named(tmp_path, small):
    config, tensors = small
    path = write_gguf_model(tmp_path / "a.gguf", config, tensors)
    path.write_bytes(path.read_bytes().replace(b"llama", b"gemma"))
    with pytest.raises(UserError, match="architecture 'gemma' is not supported"):
        load_checkpoint(path)
    path = write_gguf_model(tmp_path / "b.gguf", config, tensors, change=lambda w: w.add_expert_count(8))
    with pytest.raises(UserError, match="mixtures of experts"):
        load_checkpoint(path)
    path = write_gguf_model(tmp_path / "w.gguf", config, tensors, change=lambda w: w.add_sliding_window(64))
    with pytest.raises(UserError, match="sliding windows are not supported"):
        load_checkpoint(path)
    path = write_gguf_model(
        tmp_path / "c.gguf",
        config,
        tensors,
        skip=["attention.head_count_kv"],
        change=lambda w: w.add_array("llama.attention.head_count_kv", [2, 4]),
    )
    with pytest.raises(UserError, match=r"llama\.attention\.head_count_kv differs between layers"):
        load_checkpoint(path)
    path = write_gguf_model(tmp_path / "d.gguf", config, tensors, skip=["embedding_length"])
    with pytest.raises(UserError, match="hidden_size should be a positive integer"):
        load_checkpoint(path)


@pytest.mark.slow
@pytest.mark.skipif(not SLOW_MODEL, reason="MVJAX_SMOLLM2 names no SmolLM2-135M-Instruct GGUF file")
def test_the_real_model_becomes_what_transformers_loads(tmp_path):
    transformers = pytest.importorskip("transformers")
    checkpoint = load_checkpoint(SLOW_MODEL)
    assert checkpoint.config["rope_theta"] == 100000.0
    assert checkpoint.config["rms_norm_eps"] == 1e-5
    assert checkpoint.config["tie_word_embeddings"] is True
    save_checkpoint(tmp_path / "m", checkpoint, max_shard_bytes=2 * 10**8)
    model, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    state = model.state_dict()
    for name in checkpoint.tensors:
        np.testing.assert_array_equal(state[name].numpy(), checkpoint.tensors[name], err_msg=name)
    text = transformers.AutoConfig.from_pretrained(tmp_path / "m").to_json_string(use_diff=False)
    assert "100000.0" in text
