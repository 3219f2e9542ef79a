"""Verbs that are given names of the hub: one commit for a run's whole life, data by name, and the card."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from tiny_run import write_run
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model

from mvjax.bench.config import EngineBench
from mvjax.cli.main import main
from mvjax.data.sources import describe, find_data, open_data
from mvjax.errors import UserError
from mvjax.models import save_checkpoint
from mvjax.planning.shapes import find_shape
from mvjax.tokenizers import load_tokenizer
from mvjax.training.config import TrainConfig
from mvjax.training.config_file import load_config
from mvjax.training.distributed import HostSync
from mvjax.training.origins import find_origins
from mvjax.training.run_directory import run_directory
from mvjax.weights import Checkpoint

CHAT = [
    {"messages": [{"role": "user", "content": f"{n}+1?"}, {"role": "assistant", "content": f"{n + 1}."}]}
    for n in range(8)
]
LINES = "".join(json.dumps(row) + "\n" for row in CHAT).encode()
PRESET = (
    "from mvjax.training.config import TrainConfig\n"
    'config = TrainConfig(name="tiny").replace(model={"path": "owner/tiny"}, lora={"rank": 2}, loss={"chunk": 64},\n'
    '    data={"files": ("hf://datasets/owner/chat",), "row_length": 128, "rows": 2, "levels": 2},\n'
    '    steps={"total": 2}, optimizer={"learning_rate": 1e-2}, output={"tensorboard": False})\n'
)


def gguf(folder, seed):
    config = tiny_config(hidden_size=32, intermediate_size=64)
    path = folder / f"{seed}.gguf"
    write_gguf_model(path, config, tiny_tensors(config, seed), kind="F32", change=lambda w: w.add_eot_token_id(0))
    return {"tiny.gguf": path.read_bytes()}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "preset.py").write_text(PRESET)
    return tmp_path


def adapter(run):
    with safe_open(run / "adapter.safetensors", "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def test_later_starts_of_a_run_find_the_commits_of_the_first(hub, place):
    def commits(config, restart=False):
        with HostSync() as sync:
            return find_origins(config, restart, sync).commits

    def add(seed):
        card = {"README.md": b""}
        model = hub.add("owner/tiny", {"model-q4.gguf": bytes([seed])})
        data = hub.add("datasets/owner/chat", {"train.jsonl": LINES * (seed + 1), **card})
        return {"model.path": f"owner/tiny@{model}", "data.files.0": f"owner/chat@{data}"}

    config, first = load_config(place / "preset.py"), add(0)
    found = commits(config)
    assert found == first
    with HostSync() as sync, run_directory(config, False, sync, found) as directory:
        assert json.loads((directory / "config.json").read_text())["origins"] == first
    second = add(1)
    assert commits(config) == first
    with HostSync() as sync, run_directory(config, False, sync, first):
        pass  # a second start keeps them
    assert commits(config) == first
    assert commits(config, restart=True) == commits(config.replace(name="other")) == second


@pytest.mark.slow
def test_a_resumed_run_reads_the_same_commits(hub, place, capsys):
    """The branches of model and data move between two starts; the run ends as one that was not interrupted."""
    first = (
        hub.add("owner/tiny", gguf(place, 0)),
        hub.add("datasets/owner/chat", {"train.jsonl": LINES, "README.md": b""}),
    )
    assert main(["train", "preset.py", "--name", "whole"]) == 0
    assert main(["train", "preset.py", "--steps.stop-after", "1"]) == 130
    said = capsys.readouterr().out
    assert "data: hf://datasets/owner/chat: chat messages" in said
    hub.add("owner/tiny", gguf(place, 1))
    hub.add("datasets/owner/chat", {"train.jsonl": LINES[::-1], "README.md": b""})
    assert main(["train", "preset.py"]) == 0
    origins = json.loads((place / "runs/tiny/config.json").read_text())["origins"]
    assert origins == {"model.path": f"owner/tiny@{first[0]}", "data.files.0": f"owner/chat@{first[1]}"}
    (resumed, facts), (whole, _) = adapter(place / "runs/tiny"), adapter(place / "runs/whole")
    assert facts["base_model"] == f"owner/tiny@{first[0]}"
    for name, array in whole.items():
        np.testing.assert_array_equal(array, resumed[name])
    # The hub may be away by then.
    hub.status = 503
    assert main(["train", "preset.py"]) == 0
    assert "resumed at step 2" in capsys.readouterr().out
    assert main(["train", "preset.py", "--model.path", "owner/other", "--name", "other"]) == 2
    absent = f"error: owner/other: no such file or directory here; {hub.url} answers 503, and the"
    assert capsys.readouterr().err.splitlines()[-1].startswith(absent)


def test_datasets_by_name(hub):
    hub.add("datasets/owner/chat", {"data/train-0.jsonl": LINES, "data/test-0.jsonl": LINES, "README.md": b""})
    source = find_data("owner/chat")
    assert source.files == ("data/train-0.jsonl",)
    assert [file.name for file in open_data([source])] == ["owner/chat/data/train-0.jsonl"]
    assert [file.name for file in open_data(["hf://datasets/owner/chat/data/test-0.jsonl"])] == [
        "owner/chat/data/test-0.jsonl"
    ]
    assert next(describe(open_data([source]), [source.name])).startswith("data: owner/chat: chat messages")
    hub.add("datasets/owner/none", {"data.csv": b"a", "README.md": b""})
    for name, reason in {
        "owner/none": "no .jsonl, ",
        "hf://owner/chat": "a model, where data is wanted; datasets are hf://datasets/owner/chat",
        "owner/absent": "no such file or directory here, and no such dataset on the hub",
    }.items():
        with pytest.raises(UserError, match=f"^{name}: {reason}"):
            find_data(name)


def test_a_model_is_converted_and_its_card_names_the_commit(hub, place, cache, capsys):
    commit = hub.add("owner/tiny", gguf(place, 0))
    assert main(["convert", "hf://owner/tiny", "out", "--cache", "kept"]) == 0
    assert [*(place / "kept").rglob("*.gguf")]
    assert not cache.exists()
    card = (place / "out/README.md").read_text()
    assert "base_model: owner/tiny\n" in card
    assert f"commit `{commit}`" in card
    capsys.readouterr()
    assert main(["inspect", "--tokenizer", "owner/tiny", str(transcript(place)), "--json"]) == 0
    assert f"owner/tiny: owner/tiny@{commit}" in capsys.readouterr().err
    assert [*cache.rglob("*.gguf")]  # the next command has its own
    named = EngineBench(model="owner/tiny", tokenizer="owner/tiny").here()
    assert (named.model.name, named.tokenizer.name) == ("tiny.gguf", "tiny.gguf")
    assert main(["convert", "owner/tiny", "other", "--tokenizer", "owner/absent"]) == 2
    assert "error: owner/absent: no such file or directory here, and no such model" in capsys.readouterr().err


def transcript(folder):
    (folder / "text.txt").write_text("a")
    return folder / "text.txt"


def test_a_shape_needs_no_weights(hub, place):
    hub.add("owner/shape", {"config.json": json.dumps(tiny_config()).encode(), "model.safetensors": b"not read"})
    shape = find_shape("owner/shape")
    assert shape.source.startswith("owner/shape@")
    assert not any(path.endswith(".safetensors") for _, path in hub.log)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 2])
def test_an_export_fetches_the_base_model_s_weights_only_to_merge(hub, place, rank):
    """Those of a full run are all in its checkpoint, and an adapter is exported without them."""
    config = tiny_config("qwen2", tied=False, hidden_size=32, intermediate_size=64)
    write_gguf_model(place / "words.gguf", tiny_config(), tiny_tensors(tiny_config()))
    checkpoint = Checkpoint(config, tiny_tensors(config), "made up", {"eos_token_id": [2, 0]}).astype("bfloat16")
    save_checkpoint("base", checkpoint, tokenizer=load_tokenizer("words.gguf"))
    settings = TrainConfig(name="mine").replace(model={"path": "base"}, lora={"rank": rank})
    run, _, _ = write_run(settings)
    commit = hub.add("owner/base", {path.name: path.read_bytes() for path in (place / "base").iterdir()})
    assert main(["export", str(run), "--output", "here"]) == 0
    assert main(["export", str(run), "--output", "there", "--base", "owner/base"]) == 0
    assert not [path for _, path in hub.log if path.endswith(".safetensors")]
    names = {path.name for path in (place / "here").iterdir()}
    assert names == {path.name for path in (place / "there").iterdir()}
    for name in names - {"README.md", "adapter_config.json"}:
        same = (place / "here" / name).read_bytes() == (place / "there" / name).read_bytes()
        assert same or name == "adapter_model.safetensors"  # its header names the commit
    assert f"commit `{commit}`" in (place / "there/README.md").read_text()
    if rank:
        assert main(["export", str(run), "--merge", "--output", "merged", "--base", "owner/base"]) == 0
        assert [path for _, path in hub.log if path.endswith(".safetensors")]
