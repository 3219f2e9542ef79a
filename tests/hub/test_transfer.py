"""Fetch and push: what breaks goes on, a token that may not write is one line, and nothing changes on the way round."""

import contextlib
import json

import pytest
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model

from mvjax.cli.main import main
from mvjax.errors import UserError
from mvjax.hub.faults import UnreachableError
from mvjax.hub.transfer import fetch, push
from mvjax.models import load_checkpoint, save_checkpoint
from mvjax.storage import StoragePath
from mvjax.tokenizers import load_tokenizer

MODEL = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    **{f"model-0000{n}-of-00002.safetensors": bytes([n]) * 5000 for n in (1, 2)},
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {n: f"model-0000{n}-of-00002.safetensors" for n in "12"}}
    ).encode(),
}


def files(place):
    return {name: (place / name).read_bytes() for name in place.walk() if name != "origin.json"}


def test_a_fetch_goes_on_where_it_broke_with_the_same_commit(hub, monkeypatch, tmp_path):
    commit = hub.add("owner/name", MODEL)
    target = StoragePath("memory://fetched/name")
    write, written = StoragePath.write_bytes, []

    def breaks(self, data, **options):
        if str(self).startswith("memory://") and self.name.endswith((".safetensors", "tokenizer.json")):
            if len(written) == 2:
                raise UserError("the bucket is away")
            written.append(self.name)
        return write(self, data, **options)

    with monkeypatch.context() as patch:
        patch.setattr(StoragePath, "write_bytes", breaks)
        with pytest.raises(UserError, match="away"):
            fetch("owner/name", target, say=lambda _: None)
    assert not (target / "config.json").exists()
    hub.add("owner/name", MODEL | {"config.json": b'{"moved": 1}'})
    hub.log.clear()
    said = []
    source = fetch("owner/name", target, say=said.append)
    assert said[0] == f"memory://fetched/name: goes on with owner/name@{commit}"
    assert source.commit == commit
    assert files(target) == MODEL
    assert not [path for verb, path in hub.log if verb == "GET" and path.endswith(".safetensors")]  # in the cache
    other = StoragePath(str(tmp_path / "other"))
    assert fetch("owner/name", other, cache=str(tmp_path / "cache"), say=lambda _: None).commit != commit
    assert (tmp_path / "cache").is_dir()


def test_a_transfer_that_breaks_goes_on_at_its_byte(hub, tmp_path, monkeypatch):
    """Each one breaks after 3,000 bytes, so only what goes on there ends."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    hub.add("owner/name", MODEL)
    hub.cut = 3000
    target = StoragePath(str(tmp_path / "here"))
    for _ in range(4):  # by itself, or by the same command, as the version of huggingface_hub has it
        with contextlib.suppress(UnreachableError):
            fetch("owner/name", target, say=lambda _: None)
    assert files(target) == MODEL


def test_targets_that_hold_something_else(hub, tmp_path):
    hub.add("owner/name", MODEL)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "data").write_text("x")
    with pytest.raises(UserError, match=r"full: holds data and is no fetch of a model; name another directory"):
        fetch("owner/name", StoragePath(str(tmp_path / "full")))
    target = StoragePath(str(tmp_path / "here"))
    fetch("owner/name", target, say=lambda _: None)
    with pytest.raises(UserError, match=r"here: is a fetch of owner/name, not of owner/other"):
        fetch("owner/other", target)
    with pytest.raises(UserError, match="a/b/c: no repository of the hub"):
        fetch("a/b/c", target)


def test_from_the_hub_and_back_bit_for_bit(hub, tmp_path, monkeypatch, capsys):
    """hub -> convert -> push -> fetch: the same tensors, tokenizer and files."""
    monkeypatch.chdir(tmp_path)
    config = tiny_config(hidden_size=32, intermediate_size=64)
    tensors = tiny_tensors(config)
    write_gguf_model(tmp_path / "tiny.gguf", config, tensors, kind="F32", change=lambda w: w.add_eot_token_id(0))
    save_checkpoint(tmp_path / "base", load_checkpoint("tiny.gguf"), tokenizer=load_tokenizer("tiny.gguf"))
    base = {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()}
    commit = hub.add("owner/base", base)
    assert main(["convert", "owner/base", "converted"]) == 0
    assert main(["push", "converted", "me/copy"]) == 0
    pushed = capsys.readouterr().out.splitlines()[-1]
    assert hub.private["me/copy"] is True
    assert main(["fetch", "me/copy", "memory://bucket/copy"]) == 0
    assert capsys.readouterr().out.strip() == f"memory://bucket/copy: {pushed}"
    assert files(StoragePath("memory://bucket/copy")) == base
    assert commit in hub.files("me/copy")["README.md"].decode()


def run_directory(folder, **files):
    folder.mkdir()
    config = {"name": "mine", "model": {"path": "owner/base"}, "origins": {"model.path": "owner/base@c0ffee"}}
    (folder / "config.json").write_text(json.dumps(config))
    for name, text in files.items():
        (folder / name).write_bytes(text)
    return StoragePath(str(folder))


def test_what_is_pushed_of_a_run(hub, tmp_path):
    run = run_directory(tmp_path / "run", **{"adapter.safetensors": b"adapter", "metrics.jsonl": b"{}"})
    commit = push(run, "me/adapter", private=False)
    pushed = hub.files("me/adapter", commit)
    assert set(pushed) == {".gitattributes", "README.md", "adapter.safetensors"}
    assert b"base_model: owner/base\n" in pushed["README.md"]
    assert b"c0ffee" in pushed["README.md"]
    assert hub.private["me/adapter"] is False
    push(run, "me/adapter")  # once more
    (tmp_path / "run" / "model").mkdir()
    for name, data in MODEL.items():
        (tmp_path / "run" / "model" / name).write_bytes(data)
    assert set(hub.files("me/whole", push(run, "me/whole"))) == {".gitattributes", *MODEL}
    remote = StoragePath("memory://pushed/run")
    for name, data in {"config.json": (run / "config.json").read_bytes(), "model/config.json": b"{}"}.items():
        (remote / name).write_bytes(data)
    assert "config.json" in hub.files("me/remote", push(remote, "me/remote"))


def test_an_adapter_of_peft_is_pushed(hub):
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"adapter", "tokenizer.json": b"{}"}
    for name, data in files.items():
        (StoragePath("memory://pushed/peft") / name).write_bytes(data)
    assert set(hub.files("me/peft", push(StoragePath("memory://pushed/peft"), "me/peft"))) == {".gitattributes", *files}


def test_pushes_that_are_refused(hub, tmp_path):
    run = run_directory(tmp_path / "run")
    with pytest.raises(UserError, match=r"run: the run has no model and no adapter.safetensors: it is not finished"):
        push(run, "me/name")
    with pytest.raises(UserError, match=r"none: neither a run nor a model \(no config.json\)"):
        push(StoragePath(str(tmp_path / "none")), "me/name")
    with pytest.raises(UserError, match="me/name@v1: no name of a repository of models"):
        push(run, "me/name@v1")
    hub.add("me/name", {".gitattributes": b""})
    hub.read_only = True
    (tmp_path / "run" / "adapter.safetensors").write_bytes(b"adapter")
    for name in ("me/name", "me/new"):
        with pytest.raises(UserError, match=rf"^{name}: the token may not write to it \(403\); give a token .*$"):
            push(run, name)
