"""Orbax model directories: round trips, what Orbax itself sees, damage."""

import os
import shutil

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from tiny_weights import tiny_config, tiny_tensors

from mvjax.errors import UserError
from mvjax.models import load_checkpoint, save_checkpoint
from mvjax.weights import Checkpoint, LazyTensor, LazyTensors


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_round_trips_keep_every_bit(tmp_path, dtype):
    config = tiny_config("qwen2", tied=False, vocab_size=20, hidden_size=32, intermediate_size=48)
    tensors = tiny_tensors(config, dtype=dtype)
    checkpoint = Checkpoint(config, tensors, generation={"eos_token_id": [2, 3]})
    save_checkpoint(tmp_path / "a", checkpoint, "orbax")
    save_checkpoint(tmp_path / "b", load_checkpoint(tmp_path / "a"), "safetensors")
    save_checkpoint(tmp_path / "c", load_checkpoint(tmp_path / "b"), "orbax")
    for folder in "abc":
        loaded = load_checkpoint(tmp_path / folder)
        assert set(loaded.tensors) == set(tensors)
        assert {key: loaded.config[key] for key in config} == config
        assert loaded.generation == {"eos_token_id": [2, 3]}
        for name, array in tensors.items():
            found = loaded.tensors[name]
            assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes()), name


def test_orbax_itself_restores_the_tree(tmp_path):
    config = tiny_config(vocab_size=20, hidden_size=32, intermediate_size=48)
    tensors = tiny_tensors(config)
    save_checkpoint(tmp_path / "m", Checkpoint(config, tensors), "orbax")
    restored = ocp.PyTreeCheckpointer().restore((tmp_path / "m" / "tensors").absolute())
    assert set(restored) == set(tensors)
    assert all(np.array_equal(restored[name], tensors[name]) for name in tensors)


def test_a_tensor_is_read_when_the_one_before_it_is_written(tmp_path):
    config = tiny_config(vocab_size=20, hidden_size=32, intermediate_size=48)
    events = []
    entries = {
        name: LazyTensor(array.shape, array.dtype, lambda name=name, array=array: (events.append(name), array)[1])
        for name, array in tiny_tensors(config).items()
    }
    progress = lambda name, count: events.append((name, count))  # noqa: E731
    save_checkpoint(tmp_path / "m", Checkpoint(config, LazyTensors(entries)), "orbax", progress=progress)
    assert events[1::2] == [(name, entries[name].nbytes) for name in events[::2]]
    assert sorted(events[::2]) == sorted(entries)


def test_a_user_error_while_reading_stays_one(tmp_path):
    config = tiny_config(vocab_size=20, hidden_size=32, intermediate_size=48)
    tensors = tiny_tensors(config)
    tensors["model.norm.weight"][0] = 1e9
    with pytest.raises(UserError, match=r"model\.norm\.weight has values beyond float16"):
        save_checkpoint(tmp_path / "m", Checkpoint(config, tensors).astype("float16"), "orbax")
    assert os.listdir(tmp_path) == []


def test_damage_is_named(tmp_path):
    config = tiny_config(vocab_size=20, hidden_size=32, intermediate_size=48)
    save_checkpoint(tmp_path / "m", Checkpoint(config, tiny_tensors(config)), "orbax")
    loaded = load_checkpoint(tmp_path / "m")
    for data in (tmp_path / "m" / "tensors").rglob("d/*"):
        data.write_bytes(b"")
    with pytest.raises(UserError, match=r"tensor model\.norm\.weight cannot be read"):
        loaded.tensors["model.norm.weight"]
    shutil.rmtree(tmp_path / "m" / "tensors")
    (tmp_path / "m" / "tensors").mkdir()
    with pytest.raises(UserError, match="no complete Orbax checkpoint"):
        load_checkpoint(tmp_path / "m")
