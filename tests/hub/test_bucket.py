"""Models and data by the address of a bucket: what is copied here, what is read from there, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model

from mvjax.cli import convert
from mvjax.data.sources import find_data, open_data
from mvjax.errors import UserError
from mvjax.hub import resolve
from mvjax.models import load_checkpoint, save_checkpoint
from mvjax.models.load import load_with_tags
from mvjax.planning.shapes import find_shape
from mvjax.storage import StoragePath, copy_tree
from mvjax.tokenizers import load_tokenizer
from mvjax.weights import Checkpoint

CONFIG = tiny_config("qwen2", tied=False, hidden_size=32, intermediate_size=64)
CHAT = json.dumps({"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]})


@pytest.fixture(params=["memory", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("gs", "s3"))])
def bucket(request, tmp_path, monkeypatch) -> StoragePath:
    """A directory of a bucket of each kind, and an empty cache."""
    monkeypatch.setenv("MVJAX_CACHE", str(tmp_path / "cache"))
    name = f"{tmp_path.name}-{id(tmp_path)}"
    if request.param == "gs":
        return StoragePath(request.getfixturevalue("gcs_bucket").address) / name
    if request.param == "s3":
        return StoragePath(request.getfixturevalue("s3_bucket")) / name
    return StoragePath(f"memory://{name}")


@pytest.fixture
def model(bucket, tmp_path) -> StoragePath:
    """A model in shards there."""
    gguf = write_gguf_model(tmp_path / "tiny.gguf", CONFIG, tiny_tensors(CONFIG))
    tensors = tiny_tensors(CONFIG)
    local = tmp_path / "local"
    save_checkpoint(local, Checkpoint(CONFIG, tensors), tokenizer=load_tokenizer(gguf), max_shard_bytes=50_000)
    assert len(list(local.glob("*.safetensors"))) > 2
    copy_tree(StoragePath(str(local)), bucket / "models/tiny")
    return bucket / "models/tiny"


def test_weights_stay_in_the_bucket(model, tmp_path):
    wanted = load_checkpoint(tmp_path / "local").tensors
    source = resolve(str(model))
    assert (source.path.name, source.pinned, source.repository) == ("tiny", str(model), "")
    assert not [*source.path.glob("*.safetensors")]
    checkpoint = load_checkpoint(source.path)
    assert checkpoint.source == str(model)
    for name, tensor in checkpoint.tensors.items():
        np.testing.assert_array_equal(tensor, wanted[name])
        tensor[...] = 0  # an array of its own
    rows = checkpoint.tensors.entries["lm_head.weight"].read_part((slice(7, 9), slice(3, 5)))
    np.testing.assert_array_equal(rows, wanted["lm_head.weight"][7:9, 3:5])
    assert load_tokenizer(source.path).fingerprint == load_tokenizer(tmp_path / "local").fingerprint
    assert resolve(Path(str(model))).path == source.path  # pathlib makes one slash of two


def test_what_is_written_anew_is_read_anew(model):
    before = resolve(str(model), "tokenizer").path
    (model / "chat_template.jinja").delete()
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"rope_theta": 7.0}))
    after = resolve(str(model), "tokenizer").path
    assert after != before
    assert not (after / "chat_template.jinja").exists()
    assert json.loads((after / "config.json").read_text())["rope_theta"] == 7.0


def test_single_files(bucket, model, tmp_path):
    (bucket / "a/tiny.gguf").write_bytes((tmp_path / "tiny.gguf").read_bytes())
    for name in ("a/tiny.gguf", "a"):
        path = resolve(str(bucket / name)).path
        assert load_checkpoint(path).nbytes > 0
        assert path.read_bytes() == (tmp_path / "tiny.gguf").read_bytes()
    vocabulary = resolve(str(model / "tokenizer.json"), "tokenizer").path
    assert load_tokenizer(vocabulary).fingerprint == load_tokenizer(tmp_path / "local").fingerprint
    (bucket / "adapter.safetensors").write_bytes(b"x" * 9)
    assert resolve(str(bucket / "adapter.safetensors"), "adapter").path.read_bytes() == b"x" * 9


def test_the_commit_of_a_fetch(model):
    origin = {"name": "owner/name", "repository": "owner/name", "commit": "c" * 40}
    (model / "origin.json").write_text(json.dumps(origin))
    assert resolve(str(model)).pinned == f"owner/name@{'c' * 40}"
    assert resolve(str(model), commit="c" * 40).commit == "c" * 40
    with pytest.raises(UserError, match=r"holds commit c+, and the run began with commit ddd; put that back"):
        resolve(str(model), commit="ddd")


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("none", "model", "nothing is there; correct the address"),
        ("none.gguf", "model", "nothing is there; correct the address"),
        ("models/tiny/model-00001-of-00002.safetensors", "model", "nothing is there"),
        ("pickles", "model", "holds no .safetensors or .gguf weights, only pytorch_model.bin"),
        ("models/tiny", "adapter", "holds no adapter"),
    ],
)
def test_what_is_refused(bucket, model, name, kind, words):
    (bucket / "pickles/pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=f"{bucket / name}: {words}"):
        resolve(str(bucket / name), kind)


def test_damage_is_named_by_its_address(model):
    shards = [file for file in model.files() if file.endswith(".safetensors")]
    whole = (model / shards[0]).read_bytes()
    for data, words in ((whole[:-1], "is truncated: "), (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS")):
        (model / shards[0]).write_bytes(data)
        with pytest.raises(UserError, match=f"{model / shards[0]} is .*{words}|{words}"):
            load_checkpoint(resolve(str(model)).path)
    (model / shards[0]).write_bytes(whole)
    (model / shards[1]).delete()
    with pytest.raises(UserError, match=f"index.json lists 1 shard.* absent: {shards[1]}"):
        load_checkpoint(resolve(str(model)).path)


def test_data(bucket):
    (bucket / "data/a.jsonl").write_text(CHAT + "\n")
    (bucket / "folder/train-0.jsonl").write_text(CHAT + "\n")
    (bucket / "folder/test-0.jsonl").write_text(CHAT + "\n")
    (bucket / "x.zip").write_bytes(b"")
    one, several = open_data([str(bucket / "data/a.jsonl"), str(bucket / "folder")])
    assert (one.name, several.name) == ("a.jsonl", "folder/train-0.jsonl")
    assert one.format == several.format != "records"
    assert next(iter(one.records())).messages
    for name, words in (("none", "nothing is there"), ("x.zip", ".zip files cannot be read")):
        with pytest.raises(UserError, match=words):
            find_data(str(bucket / name))


def test_verbs_take_addresses(model, tmp_path):
    convert.main([str(model), str(tmp_path / "converted")])
    wanted, found = load_checkpoint(tmp_path / "local").tensors, load_checkpoint(tmp_path / "converted").tensors
    assert {name: x.tobytes() for name, x in found.items()} == {name: x.tobytes() for name, x in wanted.items()}
    there = model.parent / "anew"
    for words in ((), ("--overwrite",)):
        convert.main([str(tmp_path / "converted"), str(there), *words])
    with pytest.raises(UserError, match=f"{there} is not empty: name another directory, or --overwrite"):
        convert.main([str(tmp_path / "converted"), str(there)])
    with pytest.raises(UserError, match=f"{there} is the source, which would be deleted"):
        convert.main([str(there), str(there), "--overwrite"])
    copy_tree(there, StoragePath(str(tmp_path / "back")))
    for file in (tmp_path / "converted").iterdir():
        assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes()
    shape = find_shape(str(model), "qwen2.5-0.5b")
    assert (shape.config.embed, shape.source) == (32, str(model))
    tokenizer, decoder = load_with_tags(Path(str(model)))
    assert decoder.config.vocab_size == max(tokenizer.tag_ids) + 1
