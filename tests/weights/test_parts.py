"""Parts of tensors: the same numbers as in the whole, and no more read or held than they need."""

import shutil
import tracemalloc

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model

from mvjax.errors import UserError
from mvjax.models import load_checkpoint, save_checkpoint
from mvjax.storage import StoragePath
from mvjax.weights import Checkpoint, LazyTensor, LazyTensors, add_tag_rows, orbax
from mvjax.weights import checkpoint as checkpoints
from mvjax.weights.tensor_file import read_tensor_file, write_tensor_file

CONFIG = tiny_config("llama", tied=False, vocab_size=20)
KINDS = ["memory", "safetensors", "F32", "F16", "Q8_0", "Q4_0", "orbax"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """One model in every form that is read."""
    place, tensors = tmp_path_factory.mktemp("models"), tiny_tensors(CONFIG)
    found = {"memory": Checkpoint(CONFIG, tensors)}
    save_checkpoint(place / "safetensors", found["memory"], max_shard_bytes=300_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orbax, "CHUNK", 20_000)
        save_checkpoint(place / "orbax", found["memory"], "orbax")
    for kind in ("F32", "F16", "Q8_0", "Q4_0"):
        write_gguf_model(place / kind, CONFIG, tensors, kind=kind)
    return found | {kind: load_checkpoint(place / kind) for kind in KINDS[1:]}


def parts(shape):
    """Slices of some of the first axes."""
    axes = [st.tuples(st.integers(0, size), st.integers(0, size)).map(sorted) for size in shape]
    return st.integers(0, len(shape)).flatmap(
        lambda count: st.tuples(*axes[:count]).map(lambda spans: tuple(slice(*span) for span in spans))
    )


@pytest.mark.parametrize("changed", [(), ("bfloat16",), ("tags",), ("bfloat16", "tags"), ("tags", "float16")])
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_a_part_is_what_the_whole_has_there(models, kind, changed, data):
    checkpoint = models[kind]
    for change in changed:
        if change == "tags":
            checkpoint = add_tag_rows(checkpoint, [25, 18, 20, 21, 22, 23, 24], [[i, i + 1] for i in range(7)])
        else:
            checkpoint = checkpoint.astype(change)
    name = data.draw(st.sampled_from(["embed_tokens", "layers.1.self_attn.q_proj", "layers.0.mlp.up_proj", "norm"]))
    entry = checkpoints.lazily(checkpoint.tensors)[f"model.{name}.weight"]
    index = data.draw(parts(entry.shape))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "CHUNK_BYTES", data.draw(st.sampled_from([1, 5000, 2**24])))
        whole, part = entry.read(), entry.read_part(index)
    assert (whole.shape, whole.dtype) == (entry.shape, entry.dtype)
    assert (part.dtype, part.shape) == (entry.dtype, whole[index].shape)
    assert part.tobytes() == whole[index].tobytes()


def test_all_formats_read_rows(models):
    """A tensor that can only be read whole would pass every other test."""
    for kind in KINDS[1:]:
        for changed in (models[kind], models[kind].astype("float16"), add_tag_rows(models[kind], [20], [[0]])):
            for name, entry in changed.tensors.entries.items():
                assert entry.read_rows is not None, (kind, name)


@pytest.fixture
def reads(monkeypatch):
    """Bytes of each read from a file of weights."""
    found, read_into = [], StoragePath.read_into

    def counting(path, out, start):
        found.append(len(out))
        read_into(path, out, start)

    monkeypatch.setattr(StoragePath, "read_into", counting)
    return found


def test_no_more_is_read_than_the_rows(models, reads, monkeypatch):
    name, row = "model.layers.0.mlp.up_proj.weight", 256 * 4
    entry = models["safetensors"].tensors.entries[name]
    entry.read_part((slice(3, 40),))
    assert reads == [37 * row]
    del reads[:]
    monkeypatch.setattr(checkpoints, "CHUNK_BYTES", 10 * row)
    entry.read_part((slice(3, 40), slice(5, 9)))
    assert reads == [10 * row] * 3 + [7 * row]
    del reads[:]
    models["Q8_0"].tensors.entries[name].read_part((slice(0, 8),))
    assert reads == [8 * 256 // 32 * 34]
    del reads[:]
    models["F32"].tensors.entries["model.layers.0.self_attn.q_proj.weight"].read_part((slice(17, 40),))
    assert reads == [32 * row]  # heads 1 and 2, of 16 rows each
    del reads[:]
    assert entry.read_part((slice(7, 7),)).shape == (0, 256)
    assert entry.read_part((slice(0, 9), slice(3, 3))).shape == (9, 0)
    assert reads == []


def test_tags_read_the_rows_of_their_pieces_and_no_others(models, reads):
    tagged = add_tag_rows(models["safetensors"], [20, 21], [[3, 4], [5]]).tensors.entries["lm_head.weight"]
    row = 256 * 4
    tagged.read_part((slice(0, 6),))
    assert reads == [6 * row]
    del reads[:]
    tagged.read_part((slice(20, 22),))
    assert reads == [row] * 3


def test_what_is_held_beside_the_result_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "CHUNK_BYTES", 2**18)
    array = np.arange(2**22, dtype=np.float32).reshape(2**11, -1)
    write_tensor_file(tmp_path / "f", checkpoints.lazily({"a": array}))
    plain = read_tensor_file(tmp_path / "f")[0]["a"]
    tagged = add_tag_rows(
        Checkpoint({"vocab_size": 2**11}, LazyTensors({"lm_head.weight": plain})), [2**11], [[0, 1]]
    ).tensors.entries["lm_head.weight"]
    cast = checkpoints.cast("a", plain, np.dtype(ml_dtypes.bfloat16))
    columns = (slice(None), slice(0, 2**10))
    for read in (cast.read, tagged.read, lambda: cast.read_part(columns), lambda: plain.read_part(columns)):
        tracemalloc.start()
        nbytes = read().nbytes
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < nbytes + 5 * 2**18 < nbytes + plain.nbytes / 8


def test_a_tensor_that_is_only_read_whole_is_read_once():
    array, reads = np.arange(12.0).reshape(4, 3), []
    whole = LazyTensor((4, 3), array.dtype, lambda: (reads.append(1), array)[1])
    part = whole.read_part((slice(1, 3), slice(0, 2)))
    assert part.tolist() == [[3, 4], [6, 7]]
    assert part.base is None  # does not keep the rest alive
    checkpoints.cast("a", whole, np.dtype(np.float32)).read()
    assert len(reads) == 2


@pytest.mark.parametrize("index", [(slice(0, 4, 2),), (slice(None, None, -1),), (slice(0, 1),) * 3])
def test_indices_that_are_no_parts_are_refused(index):
    with pytest.raises(ValueError, match="is no part of a tensor of shape"):
        checkpoints.lazy(np.zeros((4, 3))).read_part(index)


def test_orbax_stores_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(orbax, "CHUNK", 20_000)
    save_checkpoint(tmp_path / "m", Checkpoint(CONFIG, tiny_tensors(CONFIG)), "orbax")
    for leaf in ocp.PyTreeCheckpointer().metadata(tmp_path / "m" / "tensors").item_metadata.tree.values():
        assert np.prod(leaf.storage.chunk_shape) * 4 <= 20_000
    loaded = load_checkpoint(tmp_path / "m")
    for data in (tmp_path / "m" / "tensors").rglob("d/*"):
        data.write_bytes(b"")
    with pytest.raises(UserError, match=r"tensor model\.norm\.weight cannot be read: the checkpoint is damaged"):
        loaded.tensors.entries["model.norm.weight"].read_part((slice(0, 5),))


@pytest.mark.parametrize("options", [{"use_ocdbt": False}, {"use_ocdbt": True, "use_zarr3": True}])
def test_other_orbax_layouts_are_read_too(tmp_path, options):
    tensors = tiny_tensors(CONFIG)
    save_checkpoint(tmp_path / "m", Checkpoint(CONFIG, tensors), "orbax")
    shutil.rmtree(tmp_path / "m" / "tensors")
    handler = ocp.PyTreeCheckpointHandler(**options)
    ocp.Checkpointer(handler).save(tmp_path / "m" / "tensors", args=ocp.args.PyTreeSave(tensors))
    loaded = load_checkpoint(tmp_path / "m")
    for name, entry in loaded.tensors.entries.items():
        part = entry.read_part((slice(2, 9),))
        np.testing.assert_array_equal(part, tensors[name][2:9])
        assert entry.read_rows is not None
