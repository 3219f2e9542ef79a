"""Names of the hub: only needed files, the cache, and one line for all that can go wrong."""

import json
from pathlib import Path

import pytest
from hub_double import serve

from mvjax.data.sources import find_data
from mvjax.errors import UserError
from mvjax.hub import HubName, parse_name, resolve

SHARDS = {f"model-0000{n}-of-00002.safetensors": bytes([n]) * 100 for n in (1, 2)}
INDEX = json.dumps({"weight_map": dict.fromkeys("ab", "model-00001-of-00002.safetensors") | {"c": [*SHARDS][1]}})
SMALL = {"config.json": b"{}", "tokenizer.json": b"{}", "tokenizer_config.json": b"{}", "generation_config.json": b"{}"}
REPOSITORY = {
    **SMALL,
    **SHARDS,
    "model.safetensors.index.json": INDEX.encode(),
    "consolidated.safetensors": b"the same once more",
    "pytorch_model.bin": b"and again",
    "original/params.json": b"{}",
    "README.md": b"card",
}
NEEDED = {*SMALL, *SHARDS, "model.safetensors.index.json"}


def below(path):
    return {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Qwen/Qwen2.5-0.5B", HubName("Qwen/Qwen2.5-0.5B")),
        ("hf://a/b", HubName("a/b")),
        ("a/b@v1.0", HubName("a/b", "v1.0")),
        ("hf://a/b@refs/pr/3/model-q4.gguf", HubName("a/b", "refs/pr/3", "model-q4.gguf")),
        ("hf://datasets/a/b/data/train.jsonl", HubName("a/b", "", "data/train.jsonl", True)),
        *(
            (path, None)
            for path in ("model", "./a/b", "/a/b", "a/b/c", "a/b.gguf", "gs://a/b", "a/b.safetensors", "../a")
        ),
    ],
)
def test_what_is_a_name(text, name):
    assert parse_name(text) == name
    if name is not None and text.startswith("hf://"):
        assert str(name) == text


def test_a_local_path_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    source = resolve("owner/name")
    assert (str(source.path), source.repository, source.pinned) == ("owner/name", "", "owner/name")
    assert resolve(f"file://{tmp_path}/owner").path == tmp_path / "owner"
    for address in ("https://example.org/model", Path("https://example.org/model")):
        for find in (resolve, find_data):
            with pytest.raises(
                UserError, match=r"https://example.org/model: models and data are read from files, from"
            ):
                find(address)
    with pytest.raises(UserError, match=r"gs://bucket/: names a whole bucket; name a directory in it"):
        resolve("gs://bucket/")
    with pytest.raises(UserError, match=r"hf://owner: no name of a repository; write hf://OWNER/NAME"):
        resolve("hf://owner")


def test_only_needed_files_come(hub, cache):
    commit = hub.add("owner/name", REPOSITORY)
    source = resolve("owner/name")
    assert (source.repository, source.commit, source.pinned) == ("owner/name", commit, f"owner/name@{commit}")
    assert below(source.path) == NEEDED
    assert (source.path / "model-00002-of-00002.safetensors").read_bytes() == bytes([2]) * 100
    assert cache in source.path.parents
    hub.add("owner/tokens", REPOSITORY)
    assert below(resolve("owner/tokens", "tokenizer").path) == {*SMALL, "model.safetensors.index.json"}
    elsewhere = resolve("owner/name", cache=str(cache / "other"))
    assert cache / "other" in elsewhere.path.parents


def test_revisions(hub):
    old = hub.add("owner/name", {**SMALL, "model.safetensors": b"old"}, "v1")
    new = hub.add("owner/name", {**SMALL, "model.safetensors": b"new"})
    for name, commit in (("owner/name", new), ("owner/name@v1", old), (f"hf://owner/name@{old}", old)):
        source = resolve(name)
        assert source.commit == commit
        assert (source.path / "model.safetensors").read_bytes() == (b"old" if commit == old else b"new")
    # What a record says holds, whatever the branch has become.
    assert resolve("owner/name", commit=old).commit == old


@pytest.mark.parametrize(
    ("files", "name", "path"),
    [
        ({"model-q4.gguf": b"GGUF"}, "a/b", "model-q4.gguf"),
        ({"q4.gguf": b"GGUF", "q8.gguf": b"8"}, "hf://a/b/q8.gguf", "q8.gguf"),
        ({"m-00001-of-00002.gguf": b"1", "m-00002-of-00002.gguf": b"2"}, "a/b", "m-00001-of-00002.gguf"),
        ({**SMALL, "model.safetensors": b"m", "q4.gguf": b"GGUF"}, "a/b", ""),
        ({f"sub/{name}": data for name, data in {**SMALL, "model.safetensors": b"m"}.items()}, "hf://a/b/sub", "sub"),
    ],
)
def test_one_file_or_a_folder_of_a_repository(hub, files, name, path):
    hub.add("a/b", files | {"other/model.safetensors": b"x"})
    source = resolve(name)
    assert str(source.path).endswith(f"/{source.commit}/{path}".rstrip("/"))
    assert "other/model.safetensors" not in below(source.path if source.path.is_dir() else source.path.parent)
    assert all((source.path.parent / name).exists() for name in files if source.path.suffix and name[:2] == "m-")


def test_a_configuration_comes_without_safetensors_but_with_the_gguf_file_that_holds_it(hub):
    tokens = {"tokenizer.json": SMALL["tokenizer.json"]}
    for name, files, chosen in (
        ("a/whole", {**SMALL, "model.safetensors": b"m"}, SMALL),
        ("a/old", {**SMALL, "pytorch_model.bin": b"x"}, SMALL),
        ("a/gguf", {**tokens, "q4.gguf": b"GGUF"}, {"q4.gguf"}),
    ):
        hub.add(name, files)
        path = resolve(name, "config").path
        assert below(path) == {*chosen} if path.is_dir() else {path.name} == chosen


def test_adapters(hub):
    hub.add("a/lora", {"adapter_config.json": b"{}", "adapter_model.safetensors": b"a", "README.md": b""})
    assert resolve("a/lora", "adapter").path.name == "adapter_model.safetensors"
    with pytest.raises(UserError, match=r"a/lora: holds no .safetensors or .gguf weights; it has README.md, "):
        resolve("a/lora")


def test_names_that_are_refused(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "qwen").mkdir(parents=True)
    hub.add("owner/name", REPOSITORY)
    hub.add("owner/gated", REPOSITORY)
    hub.gated.add("owner/gated")
    hub.add("owner/old", {**SMALL, "pytorch_model.bin": b"x"})
    hub.add("owner/many", {"q4.gguf": b"4", "q8.gguf": b"8"})
    faults = {
        "owner/gated": f"owner/gated: gated; accept its terms at {hub.url}/owner/gated and give a token",
        "owner/absent": "owner/absent: no such file or directory here, and no such model on the hub (http://127.0",
        "hf://owner/absent": "hf://owner/absent: no such model on the hub (",
        "model/qwen": "model/qwen: no such file or directory here; did you mean models/qwen?, and no such model",
        "models/qwem": "models/qwem: no such file or directory here; did you mean models/qwen?, and no such model",
        "owner/name@v9": "owner/name@v9: the repository has no revision 'v9'; name another",
        "owner/old": "owner/old: holds no .safetensors or .gguf weights, only pytorch_model.bin: use a revision or",
        "owner/many": "owner/many: has several models; name one, as hf://owner/many/q4.gguf",
        "hf://owner/many/q5.gguf": "hf://owner/many/q5.gguf: the repository has no file q5.gguf; it has q4.gguf",
        "hf://datasets/owner/name": "hf://datasets/owner/name: a dataset, where a model is wanted",
    }
    for name, message in faults.items():
        with pytest.raises(UserError) as caught:
            resolve(name)
        assert str(caught.value).startswith(message), name
        assert "\n" not in str(caught.value)


def test_the_cache_answers_where_the_hub_does_not(hub, cache, monkeypatch):
    from huggingface_hub import constants

    hub.add("owner/name", REPOSITORY)
    hub.add("owner/tokens", REPOSITORY)
    found, part = resolve("owner/name"), resolve("owner/tokens", "tokenizer")

    def check(why):
        assert resolve("owner/name") == found
        assert resolve(f"owner/name@{found.commit}").path == found.path
        assert resolve("owner/tokens", "tokenizer") == part
        with pytest.raises(UserError, match=r"owner/tokens: the hub is not reached, and the cache .* only a part"):
            resolve("owner/tokens")
        local = "no such file or directory here; "
        words = rf"^owner/other: {local}{why}.*, and the cache {cache} does not hold all of it$"
        with pytest.raises(UserError, match=words):
            resolve("owner/other")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    check("HF_HUB_OFFLINE is set")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    serve(monkeypatch, "http://127.0.0.1:9")
    check("http://127.0.0.1:9 cannot be reached")
    (found.path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="owner/name: the hub is not reached, and the cache"):
        resolve("owner/name")


def test_a_server_that_fails(hub):
    hub.add("owner/name", REPOSITORY)
    hub.status = 500
    with pytest.raises(
        UserError, match=r"owner/name: no such .* here; http://127.* answers 500, and the cache .* does not hold all"
    ):
        resolve("owner/name")
    hub.status = 401
    with pytest.raises(UserError, match=r"owner/name: the token may not read it \(401\); give a token of an account"):
        resolve("owner/name")
