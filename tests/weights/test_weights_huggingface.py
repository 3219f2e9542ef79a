"""Hugging Face directories: round trips, shards, laziness, and every way they can be wrong."""

import builtins
import errno
import json
import os
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_weights import tiny_config, tiny_tensors

from mvjax.errors import Caution, UserError
from mvjax.models import load_checkpoint, save_checkpoint
from mvjax.weights import Checkpoint, LazyTensor, LazyTensors, lazily
from mvjax.weights.tensor_file import DTYPE_NAMES, read_tensor_file, write_tensor_file


def equal(a, b):
    """Same names, types, shapes and bits."""
    assert set(a) == set(b)
    for name in a:
        x, y = np.asarray(a[name]), np.asarray(b[name])
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()), name


@pytest.fixture
def saved(tmp_path):
    """A saved tiny model: its directory and its tensors."""
    config = tiny_config("qwen2", tied=False, vocab_size=20)
    tensors = tiny_tensors(config)
    save_checkpoint(tmp_path / "model", Checkpoint(config, tensors))
    return tmp_path / "model", tensors


def edit(path, **changes):
    """Change keys of a JSON file; None removes one."""
    value = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: item for key, item in value.items() if item is not None}))


@pytest.mark.parametrize(
    ("family", "tied"), [("llama", True), ("llama", False), ("qwen2", False), ("qwen3", True), ("olmo2", False)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_round_trip_keeps_every_bit(tmp_path, family, tied, dtype):
    config = tiny_config(family, tied=tied, vocab_size=20)
    tensors = tiny_tensors(config, dtype=dtype)
    save_checkpoint(tmp_path / "m", Checkpoint(config, tensors, generation={"eos_token_id": [2, 3]}))
    loaded = load_checkpoint(tmp_path / "m")
    equal(loaded.tensors, tensors)
    assert {key: loaded.config[key] for key in config} == config
    assert loaded.generation == {"eos_token_id": [2, 3]}
    assert loaded.source == tmp_path / "m"


@pytest.mark.parametrize("most", [1, 70_000, 300_000])
def test_shards_hold_at_most_the_size_asked_for_or_one_tensor(tmp_path, most):
    config = tiny_config(vocab_size=20)
    tensors = tiny_tensors(config)
    save_checkpoint(tmp_path / "m", Checkpoint(config, tensors), max_shard_bytes=most)
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in tensors.values())
    files = sorted(path.name for path in (tmp_path / "m").glob("*.safetensors"))
    assert files == sorted(set(index["weight_map"].values()))
    assert files == [f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)]
    sizes, first = [], []
    for file in files:
        shard = [tensors[name].nbytes for name, place in index["weight_map"].items() if place == file]
        assert set(load_file(tmp_path / "m" / file)) == {n for n, p in index["weight_map"].items() if p == file}
        assert sum(shard) <= most or len(shard) == 1
        sizes.append(sum(shard))
        first.append(shard[0])
    for size, after in zip(sizes, first[1:]):
        assert size + after > most  # no smaller than need be
    equal(load_checkpoint(tmp_path / "m").tensors, tensors)


def test_a_shard_is_filled_to_the_last_byte(tmp_path):
    config = tiny_config(vocab_size=20)
    tensors = tiny_tensors(config)
    sizes = [array.nbytes for array in tensors.values()]
    save_checkpoint(tmp_path / "exact", Checkpoint(config, tensors), max_shard_bytes=sum(sizes[:4]))
    save_checkpoint(tmp_path / "less", Checkpoint(config, tensors), max_shard_bytes=sum(sizes[:4]) - 1)
    counts = [len(load_file(min((tmp_path / name).glob("*.safetensors")))) for name in ("exact", "less")]
    assert counts == [4, 3]


def test_a_smaller_model_saved_over_a_sharded_one_leaves_no_old_shard(tmp_path):
    config = tiny_config(vocab_size=20)
    tensors = tiny_tensors(config)
    save_checkpoint(tmp_path / "m", Checkpoint(config, tensors), max_shard_bytes=300_000)
    save_checkpoint(tmp_path / "m", Checkpoint(config, tensors))
    assert sorted(os.listdir(tmp_path / "m")) == ["config.json", "generation_config.json", "model.safetensors"]


@pytest.mark.parametrize("name", DTYPE_NAMES)
def test_files_of_the_safetensors_package_and_ours_are_alike(tmp_path, name):
    dtype = DTYPE_NAMES[name]
    bits = np.random.default_rng(0).integers(0, 2 if name == "BOOL" else 256, 24 * dtype.itemsize, dtype=np.uint8)
    tensors = {
        "a": bits.view(dtype).reshape(2, 3, 4),
        "scalar": bits.view(dtype)[:1].reshape(()),
        "empty": bits.view(dtype)[:0],
    }
    write_tensor_file(tmp_path / "ours", lazily(tensors), {"format": "pt"})
    entries, metadata = read_tensor_file(tmp_path / "ours")
    equal(LazyTensors(entries), tensors)
    assert metadata == {"format": "pt"}
    if not name.startswith("F8"):  # the package's NumPy side has no 8-bit floats in every version
        equal(load_file(tmp_path / "ours"), tensors)
        save_file(tensors, tmp_path / "theirs")
        equal(LazyTensors(read_tensor_file(tmp_path / "theirs")[0]), tensors)


def test_one_tensor_is_in_memory_at_a_time(tmp_path):
    config = tiny_config(num_hidden_layers=12, vocab_size=300)
    one = lazily(tiny_tensors(config))
    save_checkpoint(tmp_path / "a", Checkpoint(config, LazyTensors(one)))
    total, largest = sum(entry.nbytes for entry in one.values()), max(entry.nbytes for entry in one.values())
    del one
    tracemalloc.start()
    checkpoint = load_checkpoint(tmp_path / "a").astype("bfloat16")
    save_checkpoint(tmp_path / "b", checkpoint, max_shard_bytes=10**6)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * largest + 10**6 < total / 4


def test_each_tensor_is_read_once_and_only_when_saved(tmp_path):
    config = tiny_config(vocab_size=20)
    reads = []
    entries = {
        name: LazyTensor(array.shape, array.dtype, lambda name=name, array=array: (reads.append(name), array)[1])
        for name, array in tiny_tensors(config).items()
    }
    checkpoint = Checkpoint(config, LazyTensors(entries)).astype("float16")
    assert "model.norm.weight" in checkpoint.tensors
    assert len(checkpoint.tensors) == len(entries)
    assert checkpoint.nbytes == sum(entry.nbytes for entry in entries.values()) // 2
    assert reads == []
    progress = []
    save_checkpoint(tmp_path / "m", checkpoint, progress=lambda name, count: progress.append((name, count)))
    assert reads == list(entries)
    assert progress == [(name, entry.nbytes // 2) for name, entry in entries.items()]


def test_types_are_converted_on_reading(tmp_path):
    config = tiny_config(vocab_size=20)
    tensors = tiny_tensors(config)
    for dtype in ("float32", "bfloat16", "float16"):
        converted = Checkpoint(config, tensors).astype(dtype)
        assert converted.config["torch_dtype"] == dtype
        equal(
            converted.tensors,
            {
                name: array.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
                for name, array in tensors.items()
            },
        )
    assert Checkpoint(config, tensors).astype("keep").tensors is tensors
    with pytest.raises(UserError, match="unknown weight type 'int3'"):
        Checkpoint(config, tensors).astype("int3")
    tensors["model.norm.weight"][3] = 1e6
    with pytest.raises(UserError, match=r"model\.norm\.weight has values beyond float16"):
        Checkpoint(config, tensors).astype("float16").tensors["model.norm.weight"]


def test_places_and_defaults_of_other_versions_are_understood(saved):
    path, _ = saved
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope = {"rope_theta": 5000.0, **scaling}
    edit(path / "config.json", rope_theta=None, rope_scaling=None, rope_parameters=rope, head_dim=None, dtype="float32",
         tie_word_embeddings=None, num_attention_heads=32, num_key_value_heads=None)  # fmt: skip
    with pytest.raises(UserError, match="shape"):  # 32 key/value heads by default
        load_checkpoint(path)
    edit(path / "config.json", num_attention_heads=4, num_key_value_heads=2, head_dim=16)
    config = load_checkpoint(path).config
    assert config["rope_theta"] == 5000.0
    assert config["rope_scaling"] == scaling
    assert config["torch_dtype"] == "float32"
    assert config["tie_word_embeddings"] is False
    assert "rope_parameters" not in config
    edit(path / "config.json", rope_parameters={"rope_theta": 1e4, "rope_type": "default"})
    assert load_checkpoint(path).config["rope_scaling"] is None


def test_a_tied_model_saved_with_its_output_matrix_loads_without_it(tmp_path):
    config = tiny_config(vocab_size=20)
    tensors = tiny_tensors(config)
    save_checkpoint(tmp_path / "m", Checkpoint(config, tensors))
    doubled = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}
    doubled["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)
    save_file(doubled, tmp_path / "m" / "model.safetensors")
    equal(load_checkpoint(tmp_path / "m").tensors, tensors)


def test_truncated_files_are_named(saved):
    path, _ = saved
    file = path / "model.safetensors"
    whole = file.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for size in (0, 5, 8, header // 2, header, header + 1000, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(UserError, match="truncated"):
            load_checkpoint(path)
    file.write_bytes(b"\xff" * len(whole))
    with pytest.raises(UserError, match="truncated or no safetensors file"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}},
        {"a": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 8]}},
        {"a": {"shape": [2]}},
        {"a": 3},
        [1],
    ],
)
def test_damaged_headers_are_named(tmp_path, header):
    text = json.dumps(header).encode()
    (tmp_path / "f").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(UserError, match="truncated or no safetensors file"):
        read_tensor_file(tmp_path / "f")


def test_absent_shards_and_bad_indexes_are_named(tmp_path):
    config = tiny_config(vocab_size=20)
    tensors = tiny_tensors(config)
    save_checkpoint(tmp_path / "m", Checkpoint(config, tensors), max_shard_bytes=300_000)
    index = tmp_path / "m" / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    edit(index, weight_map=places | {"model.norm.weight": places["model.embed_tokens.weight"]})
    with pytest.warns(Caution, match=r"out of date: 1 tensor read from another shard .*model\.norm\.weight"):
        equal(load_checkpoint(tmp_path / "m").tensors, tensors)
    edit(index, weight_map=places | {"model.extra.weight": places["model.norm.weight"]})
    with pytest.raises(UserError, match=r"1 tensor in none of its shards: model\.extra\.weight"):
        load_checkpoint(tmp_path / "m")
    some = {name: file for name, file in places.items() if "q_proj" not in name}
    edit(index, weight_map=some)
    equal(load_checkpoint(tmp_path / "m").tensors, tensors)
    edit(index, weight_map=places | {"model.norm.weight": "../secret.safetensors"})
    with pytest.raises(UserError, match="outside its directory"):
        load_checkpoint(tmp_path / "m")
    edit(index, weight_map=places)
    gone = sorted(set(places.values()))[1]
    (tmp_path / "m" / gone).unlink()
    with pytest.raises(UserError, match=rf"1 shard\(s\) that are absent: {gone}"):
        load_checkpoint(tmp_path / "m")
    index.write_text("{}")
    with pytest.raises(UserError, match="no weight_map"):
        load_checkpoint(tmp_path / "m")


def test_missing_superfluous_and_misshapen_tensors_are_named(saved):
    path, tensors = saved
    file = path / "model.safetensors"
    save_file({name: array for name, array in tensors.items() if "k_proj" not in name}, file)
    with pytest.raises(UserError, match=r"4 tensors missing: model\.layers\.0\.self_attn\.k_proj\.weight, .*, \.\.\.;"):
        load_checkpoint(path)
    save_file(tensors | {"model.layers.0.self_attn.q_proj.lora_A": np.ones(2)}, file)
    with pytest.raises(UserError, match=r"1 tensor that a qwen2 model of this configuration lacks: .*lora_A"):
        load_checkpoint(path)
    save_file(tensors | {"lm_head.weight": np.ones((20, 255), np.float32)}, file)
    with pytest.raises(UserError, match=r"lm_head\.weight has shape \(20, 255\), the configuration says \(20, 256\)"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "architecture 'gpt2' is not supported: use one of llama, qwen2, qwen3"),
        ({"model_type": None}, "architecture None is not supported"),
        ({"head_dim": 1.5, "vocab_size": "many"}, "vocab_size, head_dim should be a positive integer"),
        ({"hidden_size": None}, "hidden_size should be a positive integer"),
        ({"rope_scaling": "llama3"}, "rope_scaling is no JSON object"),
        ({"rope_theta": "1e4"}, "rope_theta should be a number"),
        ({"quantization_config": {"bits": 4}}, "quantised in the Hugging Face way"),
        ({"mlp_bias": True}, "mlp_bias is not supported"),
        ({"num_hidden_layers": 10**12}, "1000000000000 layers in the configuration, only 27 tensors"),
    ],
)
def test_configurations_that_cannot_be_used_are_named(saved, changes, message):
    path, _ = saved
    edit(path / "config.json", **changes)
    with pytest.raises(UserError, match=message):
        load_checkpoint(path)


def test_unknown_places_are_named(tmp_path, saved):
    path, _ = saved
    with pytest.raises(UserError, match="does not exist"):
        load_checkpoint(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no weights in a format"):
        load_checkpoint(tmp_path / "empty")
    (tmp_path / "empty" / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"did you mean .*x\.gguf"):
        load_checkpoint(tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match="unknown or damaged format"):
        load_checkpoint(tmp_path / "notes.txt")
    with pytest.raises(UserError, match="one file of a model: name its directory"):
        load_checkpoint(path / "model.safetensors")
    (path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is no valid JSON"):
        load_checkpoint(path)
    (path / "config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"config\.json is no valid JSON"):
        load_checkpoint(path)
    (path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="no JSON object"):
        load_checkpoint(path)
    (path / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is missing"):
        load_checkpoint(path)


def test_saving_refuses_what_would_not_load(tmp_path):
    config = tiny_config(vocab_size=20)
    tensors = tiny_tensors(config)
    with pytest.raises(UserError, match="unknown format 'gguf'"):
        save_checkpoint(tmp_path / "m", Checkpoint(config, tensors), "gguf")
    del tensors["model.norm.weight"]
    with pytest.raises(UserError, match=r"the model: 1 tensor missing: model\.norm\.weight"):
        save_checkpoint(tmp_path / "m", Checkpoint(config, tensors))
    assert os.listdir(tmp_path) == []


def test_saving_replaces_models_only(tmp_path):
    config = tiny_config(vocab_size=20)
    checkpoint = Checkpoint(config, tiny_tensors(config))
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("x")
    with pytest.raises(UserError, match="no model"):
        save_checkpoint(tmp_path / "letters", checkpoint)
    with pytest.raises(UserError, match="is a file"):
        save_checkpoint(tmp_path / "letters" / "dear.txt", checkpoint)
    assert (tmp_path / "letters" / "dear.txt").read_text() == "x"


class FullDisk:
    """A file that takes so many bytes and no more."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)


def test_a_full_disk_leaves_the_previous_model(saved, monkeypatch):
    path, tensors = saved
    config = load_checkpoint(path).config
    opened = builtins.open

    def full(file, mode="r", *arguments, **options):
        real = opened(file, mode, *arguments, **options)
        return FullDisk(real, 500_000) if mode == "wb" else real

    monkeypatch.setattr(builtins, "open", full)
    with pytest.raises(UserError, match=r"no space left on the disk, the model takes \d MB; nothing was changed"):
        save_checkpoint(path, Checkpoint(config, tiny_tensors(config, seed=1)))
    monkeypatch.undo()
    equal(load_checkpoint(path).tensors, tensors)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("format", ["safetensors", "orbax"])
def test_an_interrupted_save_leaves_the_previous_model(saved, format):
    path, tensors = saved
    config = load_checkpoint(path).config

    def interrupt(name, count):
        if "layers.1" in name:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, Checkpoint(config, tiny_tensors(config, seed=1)), format, progress=interrupt)
    equal(load_checkpoint(path).tensors, tensors)
    assert os.listdir(path.parent) == [path.name]


def test_a_model_can_be_saved_over_itself(saved):
    path, tensors = saved
    save_checkpoint(path, load_checkpoint(path).astype("bfloat16"))
    equal(load_checkpoint(path).tensors, {name: array.astype(ml_dtypes.bfloat16) for name, array in tensors.items()})
