"""Which of the files in a place are the model: stale indexes, shards without one, split files, and what is no model."""

import json
import shutil

import gguf
import numpy as np
import pytest
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model

from mvjax.cli.main import main
from mvjax.errors import Caution, UserError
from mvjax.models import load_checkpoint, save_checkpoint
from mvjax.placeholders import placeholder
from mvjax.tokenizers import load_tokenizer
from mvjax.weights import Checkpoint

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"
SIZES = {"vocab_size": 20, "hidden_size": 32, "intermediate_size": 32}


def equal(a, b):
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture
def sharded(tmp_path):
    """A tiny model in four shards, with its index: its directory, tensors and shards."""
    config = tiny_config(**SIZES)
    tensors = tiny_tensors(config)
    save_checkpoint(tmp_path / "m", Checkpoint(config, tensors), max_shard_bytes=22_000)
    shards = sorted((tmp_path / "m").glob("*.safetensors"))
    assert len(shards) == 4
    return tmp_path / "m", tensors, shards


@pytest.mark.parametrize("gone", [False, True])
def test_the_single_file_comes_before_an_index(sharded, tmp_path, gone):
    path, _, shards = sharded
    config = tiny_config(**SIZES)
    newer = tiny_tensors(config, seed=1)
    save_checkpoint(tmp_path / "new", Checkpoint(config, newer))
    shutil.copy(tmp_path / "new" / "model.safetensors", path)
    if gone:
        for shard in shards:
            shard.unlink()
    with pytest.warns(Caution, match=r"model\.safetensors is read, as transformers does; model\.safetensors\.index"):
        equal(load_checkpoint(path).tensors, newer)


def test_an_index_whose_shards_are_replaced_names_the_way_out(sharded):
    path, tensors, shards = sharded
    for number, shard in enumerate(shards, start=1):
        shard.rename(path / f"weights-{number:05d}-of-00004.safetensors")
    with pytest.raises(UserError, match=r"4 shard\(s\) that are absent: .*delete the index if weights-00001-of-00004"):
        load_checkpoint(path)
    (path / "model.safetensors.index.json").unlink()
    with pytest.warns(Caution, match=r"no model\.safetensors\.index\.json: its 4 shards are read"):
        equal(load_checkpoint(path).tensors, tensors)


def test_shards_without_an_index(sharded):
    path, tensors, shards = sharded
    (path / "model.safetensors.index.json").unlink()
    with pytest.warns(Caution, match="its 4 shards are read as they are"):
        equal(load_checkpoint(path).tensors, tensors)
    third = shards[2].rename(path / "kept")
    with pytest.raises(UserError, match=r"1 of its 4 shards are absent: model-00003-of-00004\.safetensors; fetch"):
        load_checkpoint(path)
    shutil.copy(shards[0], shards[2])
    with pytest.warns(Caution), pytest.raises(UserError, match="in two of its shards"):
        load_checkpoint(path)
    third.rename(shards[2])
    for shard in shards:
        shutil.copy(shard, path / shard.name.replace("model-", "other-"))
    with pytest.raises(UserError, match=r"several whole sets of shards: model-00001.*other-00001"):
        load_checkpoint(path)


@pytest.fixture
def split(tmp_path):
    """A tiny GGUF model in three parts, its vocabulary in the first: its tensors and parts."""
    config = tiny_config(vocab_size=260, hidden_size=32, intermediate_size=32)
    tensors = tiny_tensors(config)
    whole = gguf.GGUFReader(write_gguf_model(tmp_path / "whole.gguf", config, tensors))
    parts = [tmp_path / f"m-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]
    for number, part in enumerate(parts):
        writer = gguf.GGUFWriter(part, "llama")
        for name, field in whole.fields.items():
            if not number and not name.startswith(("GGUF.", "general.architecture")):
                inner = field.types[-1] if len(field.types) > 1 else None
                writer.add_key_value(name, field.contents(), field.types[0], inner)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", 3)
        writer.add_int32("split.tensors.count", len(whole.tensors))
        for tensor in whole.tensors[number::3]:
            writer.add_tensor(tensor.name, np.array(tensor.data))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return tensors, parts


def test_a_split_model_is_read_from_any_part(split, tmp_path):
    tensors, parts = split
    whole = load_tokenizer(tmp_path / "whole.gguf")
    for part in parts:
        equal(load_checkpoint(part).tensors, tensors)
        assert load_tokenizer(part).fingerprint == whole.fingerprint
    for part, name in zip(parts, ("x", parts[0], parts[1])):
        part.rename(tmp_path / name)
    (tmp_path / "x").rename(parts[2])  # the names' numbers are not those of the parts any more
    equal(load_checkpoint(parts[0]).tensors, tensors)
    assert load_tokenizer(parts[0]).fingerprint == whole.fingerprint
    for part, name in zip(parts, "abc"):
        part.rename(tmp_path / f"{name}.gguf")
    equal(load_checkpoint(tmp_path / "b.gguf").tensors, tensors)
    assert load_tokenizer(tmp_path / "a.gguf").fingerprint == whole.fingerprint


def test_parts_that_are_absent_or_do_not_belong_together_are_named(split):
    _, parts = split
    kept = parts[0].rename(parts[0].with_suffix(".kept"))
    absent = r"m-00002.* is part 2 of a model in 3 parts; absent beside it: m-00001-of-00003\.gguf; fetch it"
    with pytest.raises(UserError, match=absent):
        load_checkpoint(parts[1])
    with pytest.raises(UserError, match="first part"):
        load_tokenizer(parts[1])
    shutil.copy(parts[2], parts[0])
    with pytest.raises(UserError, match=r"m-00003.* and m-00001.* are both part 3 of 3"):
        load_checkpoint(parts[1])
    kept.rename(parts[0])
    parts[1].write_bytes(LFS)
    with pytest.raises(UserError, match=r"m-00002.* is a Git LFS pointer"):
        load_checkpoint(parts[0])


PLACEHOLDERS = {
    "lfs": (LFS, "is a Git LFS pointer, not the file of 12,345 bytes itself: run `git lfs install && git lfs pull`"),
    "old_lfs": (b"version https://hawser.github.com/spec/v1\r\n", "Git LFS pointer"),
    "annex": (b"/annex/objects/SHA256E-s5--aa.gguf\n", "git-annex pointer"),
    "xet": (b"# xet version 0\nfilesize = 3\n", "Git Xet pointer"),
    "page": (
        b"\n <!DOCTYPE html>\n<html><head><title>m \xc3\xa9</title>",
        r"is a web page \('m é'\) saved under this name",
    ),
    "bare_page": (b"<!-- x --><HTML>", "is a web page saved"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "AccessDenied.*the download failed"),
    "json": (b'{"error":"Access to model x is restricted"}', "restricted.*the download failed"),
    "text": (b"Entry not found", r"holds a text and no data \('Entry not found'\)"),
}


@pytest.mark.parametrize("kind", PLACEHOLDERS)
def test_what_stands_in_the_place_of_weights_is_named(sharded, tmp_path, kind, capsys):
    path, _, shards = sharded
    content, reason = PLACEHOLDERS[kind]
    (tmp_path / "m.gguf").write_bytes(content)
    for load in (load_checkpoint, load_tokenizer):
        with pytest.raises(UserError, match=rf"m\.gguf .*{reason}"):
            load(tmp_path / "m.gguf")
    (path / "tokenizer.model").write_bytes(content)
    with pytest.raises(UserError, match=rf"tokenizer\.model .*{reason}"):
        load_tokenizer(path)
    shards[1].write_bytes(content)
    with pytest.raises(UserError, match=rf"model-00002-of-00004\.safetensors .*{reason}"):
        load_checkpoint(path)
    assert main(["convert", str(path), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    (path / "model.safetensors").write_bytes(content)
    with pytest.warns(Caution), pytest.raises(UserError, match=rf"model\.safetensors .*{reason}"):
        load_checkpoint(path)
    if kind not in ("text", "json"):
        (path / "tokenizer.json").write_bytes(content)
        with pytest.raises(UserError, match=rf"tokenizer\.json .*{reason}"):
            load_tokenizer(path)
        (path / "model.safetensors.index.json").write_bytes(content)
        (path / "model.safetensors").unlink()
        with pytest.raises(UserError, match=rf"index\.json .*{reason}"):
            load_checkpoint(path)


def test_files_that_are_what_they_seem_are_no_placeholders(sharded, tmp_path):
    path, _, shards = sharded
    config = tiny_config(**SIZES)
    files = [shards[0], path / "config.json", path / "model.safetensors.index.json"]
    files.append(write_gguf_model(tmp_path / "m.gguf", config, tiny_tensors(config)))
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": {"type": "BPE"}}))
    assert [placeholder(file) for file in [*files, tmp_path / "tokenizer.json", tmp_path / "none"]] == [None] * 6


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (
            ["config.json", "pytorch_model.bin"],
            r"only pytorch_model\.bin: .*M\.from_pretrained\('.*'\)\.save_pretrained",
        ),
        (["config.json", "pytorch_model-00001-of-00002.bin"], r"only pytorch_model-00001-of-00002\.bin: "),
        (["consolidated.00.pth", "params.json"], r"only consolidated\.00\.pth: this is Meta's own layout"),
        (["config.json", "model.pt"], r"only model\.pt: fetch the model's safetensors"),
        (["adapter_config.json", "adapter_model.safetensors"], "is a PEFT adapter, name the model"),
        (["consolidated.safetensors"], r"consolidated\.safetensors bears no name of a whole model; rename"),
        (["config.json", "m.gguf"], r"did you mean .*m\.gguf"),
    ],
)
def test_directories_of_other_formats_name_the_way_out(tmp_path, files, reason):
    for file in files:
        (tmp_path / file).write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match=reason):
        load_checkpoint(tmp_path)
    if files[-1].endswith((".bin", ".pt")):
        with pytest.raises(UserError, match=r"in a format that mvjax does not read: fetch the model's safetensors"):
            load_checkpoint(tmp_path / files[-1])


def test_links_that_lead_nowhere_are_named(tmp_path):
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blobs" / "abc")
    with pytest.raises(UserError, match=r"model\.safetensors leads nowhere; fetch the model again"):
        load_checkpoint(tmp_path)
    with pytest.raises(UserError, match=r"is a link to .*abc, which is absent"):
        load_checkpoint(tmp_path / "model.safetensors")


def test_a_piece_of_a_cut_file_says_how_it_becomes_whole(tmp_path):
    config = tiny_config(**SIZES)
    path = write_gguf_model(tmp_path / "m.gguf", config, tiny_tensors(config))
    piece = path.with_name("m.gguf-split-a")
    piece.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match="one piece of a file that was cut up, join the pieces with cat"):
        load_checkpoint(piece)
