"""Weights straight into sharded arrays and back: what arrives, what is read, and how much memory that takes."""

import socket

import jax
import ml_dtypes
import numpy as np
import pytest
from sharded_models import abstract, check_parts, finish, start
from sparse_model import write_sparse_model
from tiny_weights import tiny_config, tiny_tensors

from mvjax.errors import UserError
from mvjax.models import load_checkpoint, save_checkpoint, transfer
from mvjax.models.export import gathered
from mvjax.models.sharded_loading import flattened, load_sharded
from mvjax.weights import Checkpoint

LARGE = {"hidden_size": 1024, "vocab_size": 32768, "num_attention_heads": 8}
QWEN_32B = {"hidden_size": 5120, "intermediate_size": 27648, "vocab_size": 151936, "num_attention_heads": 40}
QWEN_32B |= {"num_key_value_heads": 8, "head_dim": 128}


def same(a, b, dtype=None):
    """Same names, types, shapes and bits."""
    assert set(a) == set(b)
    for name in a:
        x, y = a[name], b[name] if dtype is None else b[name].astype(dtype)
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()), name


@pytest.mark.parametrize(
    ("layers", "dtype", "scan_layers", "piece"),
    [
        (3, "float32", True, 2**16),
        (1, "bfloat16", True, 20_000),
        (3, "bfloat16", False, 2**16),
        (1, "float32", False, 20_000),
        (3, "float32", True, 2**25),
    ],
)
def test_one_device(monkeypatch, layers, dtype, scan_layers, piece):
    monkeypatch.setattr(transfer, "CHUNK_BYTES", piece)
    hf_config = tiny_config("qwen2", tied=False, num_hidden_layers=layers)
    tensors, taken = tiny_tensors(hf_config, dtype=ml_dtypes.bfloat16), []
    config, state, _ = abstract(hf_config, dtype=dtype, scan_layers=scan_layers)
    progress = lambda name, count: taken.append((name, count))  # noqa: E731
    loaded = load_sharded(Checkpoint(hf_config, tensors), state, config=config, progress=progress)
    assert sorted(taken) == sorted((name, tensor.nbytes) for name, tensor in tensors.items())
    check_parts(loaded, config, tensors)
    assert not any(array.committed for array in jax.tree.leaves(loaded))
    same(gathered(loaded, config), tensors, dtype)


def test_dictionaries_and_places(fixture_checkpoint):
    checkpoint = fixture_checkpoint("qwen3")
    config, state, _ = abstract(checkpoint.config)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    paths = flattened(state)
    for shardings in (place, dict.fromkeys(paths, place), None):
        leaves = {path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for path, x in paths.items()}
        loaded = load_sharded(checkpoint, paths if shardings else leaves, shardings, config=config)
        assert list(loaded) == list(paths)
        assert all(array.committed and array.sharding == place for array in loaded.values())
        check_parts(loaded, config, checkpoint.tensors)


def test_the_arrays_are_copies(fixture_checkpoint):
    checkpoint = fixture_checkpoint("qwen3")
    config, state, _ = abstract(checkpoint.config)
    loaded = load_sharded(checkpoint, state, config=config)
    before = {name: tensor.copy() for name, tensor in checkpoint.tensors.items()}
    for tensor in checkpoint.tensors.values():
        tensor[:] = 7
    check_parts(loaded, config, before)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), r"qwen3: 1 tensor missing: model.layers.1.mlp.up"),
        (
            lambda t: t.update({"model.layers.0.bias": np.zeros(2)}),
            "1 tensor that a qwen3 model .* lacks: model.layers.0.bias",
        ),
        (
            lambda t: t.update({"model.norm.weight": np.zeros(31, np.float32)}),
            r"norm.weight has shape \(31,\), .*\(32",
        ),
        (lambda t: t.update({"model.norm.weight": np.zeros(32, np.int8)}), "model.norm.weight holds int8 numbers"),
    ],
)
@pytest.mark.parametrize("scan_layers", [True, False])
def test_tensors_that_do_not_fit_are_named(fixture_checkpoint, damage, message, scan_layers):
    checkpoint = fixture_checkpoint("qwen3")
    damage(checkpoint.tensors)
    config, state, _ = abstract(checkpoint.config, scan_layers=scan_layers)
    with pytest.raises(UserError, match=message):
        load_sharded(checkpoint, state, config=config)


FAST = [((1, 8, 1, 1), "bfloat16", True, 2**16, 2), ((2, 2, 1, 2), "float32", True, 2**16, 1)]
REST = [((1, 2, 2, 2), "float32", True, 20_000, 4), ((2, 1, 1, 4), "bfloat16", False, 20_000, 2)]


@pytest.mark.parametrize("cases", [FAST, pytest.param(REST, marks=pytest.mark.slow)], ids=["fast", "rest"])
def test_meshes(tmp_path, cases):
    """Rows, columns and copies on 8 devices; columns are exchanged where processes hold but some of a row each."""
    hf_config = tiny_config("qwen2", tied=False, vocab_size=264)
    checkpoint = Checkpoint(hf_config, tiny_tensors(hf_config, dtype=ml_dtypes.bfloat16))
    save_checkpoint(tmp_path / "model", checkpoint, max_shard_bytes=300_000)
    assert finish(start("meshes", 8, str(tmp_path / "model"), cases)) == "equal"


def test_half_of_the_devices_need_half_of_the_bytes(tmp_path):
    """Or all bytes, once, where they hold a copy of everything."""
    hf_config = tiny_config("qwen2", tied=False, vocab_size=2048, num_attention_heads=16, num_key_value_heads=8)
    save_checkpoint(tmp_path / "model", Checkpoint(hf_config, tiny_tensors(hf_config, dtype=ml_dtypes.bfloat16)))
    total = load_checkpoint(tmp_path / "model").nbytes
    columns = 2 * 2 * 256 * 256 * 2  # o_proj and down_proj of 2 layers are split by columns: whole rows are read
    vectors = 5 * 256 * 2  # norms, which all devices hold
    split, copied = finish(start("half", 8, str(tmp_path / "model"), ((1, 1, 1, 8), (2, 1, 1, 4))))
    assert split * total == pytest.approx((total + columns + vectors) / 2, abs=1)
    assert copied * total == pytest.approx(total, abs=1)


def run_processes(tmp_path, mesh):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    targets = [str(tmp_path / "exported"), str(tmp_path / "never")]
    running = [start("processes", 4, str(tmp_path / "model"), targets, mesh, address, number) for number in (0, 1)]
    return [finish(process) for process in running]


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(1, 2, 1, 4), (1, 4, 2, 1)])
def test_two_processes(tmp_path, mesh):
    """Each reads half of the files whatever the mesh; one writes, and its trouble is the trouble of both."""
    hf_config = tiny_config("qwen2", tied=False, vocab_size=1024, num_attention_heads=16, num_key_value_heads=8)
    tensors = tiny_tensors(hf_config, dtype=ml_dtypes.bfloat16)
    save_checkpoint(tmp_path / "model", Checkpoint(hf_config, tensors))
    for found in run_processes(tmp_path, mesh):
        assert 0.5 <= found["share"] < 0.52
        assert found["message"].startswith("no room for model.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exported", "model"]
    same(load_checkpoint(tmp_path / "exported").tensors, tensors, np.float32)


@pytest.mark.parametrize(
    ("dtype", "ffn"),
    [("float32", 4096), ("float32", 16384), ("bfloat16", 16384)],
)
@pytest.mark.slow
def test_memory(tmp_path, dtype, ffn):
    """Loading, converting and exporting take at most twice the largest tensor beside the arrays of the model."""
    hf_config = tiny_config("qwen2", tied=False, **LARGE, intermediate_size=ffn)
    write_sparse_model(tmp_path / "model", hf_config, max_shard_bytes=10**8)
    found = finish(start("memory", 8, str(tmp_path / "model"), (1, 4, 1, 2), dtype, str(tmp_path / "out")))
    assert found["arrays"] > 3e8
    assert found["loading"] <= 2 * found["largest"]
    assert found["exporting"] <= 2 * found["largest"] * np.dtype(dtype).itemsize / 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_for_ten_gigabytes(tmp_path):
    """The same for the first 8 layers of a 32B model."""
    hf_config = tiny_config("qwen2", tied=False, num_hidden_layers=8, **QWEN_32B)
    write_sparse_model(tmp_path / "model", hf_config)
    found = finish(start("memory", 8, str(tmp_path / "model"), (1, 4, 1, 2), "bfloat16"))
    print(found)
    assert found["checkpoint"] > 10.5e9
    assert found["arrays"] >= found["checkpoint"]
    assert found["loading"] <= 2 * found["largest"]


def test_round_trips_keep_every_bit(tmp_path):
    """Orbax to Hugging Face in shards, through arrays on devices, and back."""
    hf_config = tiny_config("llama", tied=True, vocab_size=64)
    bits = np.random.default_rng(0).integers(0, 2**16, 10**6, dtype=np.uint16).view(ml_dtypes.bfloat16)
    tensors = {
        name: np.resize(bits, tensor.shape) for name, tensor in tiny_tensors(hf_config).items()
    }  # NaN with all their payloads, subnormal numbers, both zeros
    save_checkpoint(tmp_path / "a", Checkpoint(hf_config, tensors, generation={"eos_token_id": [2, 3]}), "orbax")
    checkpoint = load_checkpoint(tmp_path / "a")
    config, state, _ = abstract(checkpoint.config, dtype="bfloat16")
    loaded = load_sharded(checkpoint, state, config=config)
    back = Checkpoint(checkpoint.config, gathered(loaded, config), generation=checkpoint.generation)
    save_checkpoint(tmp_path / "b", back, max_shard_bytes=200_000)
    assert len(list((tmp_path / "b").glob("*.safetensors"))) > 2
    save_checkpoint(tmp_path / "c", load_checkpoint(tmp_path / "b"), "orbax")
    for folder in "abc":
        again = load_checkpoint(tmp_path / folder)
        same(again.tensors, tensors)
        assert again.generation == {"eos_token_id": [2, 3]}
        assert again.config == checkpoint.config
