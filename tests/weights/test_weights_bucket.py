"""A model that is written into a bucket: file by file, and a model only with the last of them."""

import pytest
from tiny_weights import tiny_config, tiny_tensors

from mvjax.errors import UserError
from mvjax.models import load_checkpoint, save_checkpoint
from mvjax.storage import StoragePath, copy_tree
from mvjax.weights import Checkpoint, bucket

CONFIG = tiny_config("llama", hidden_size=32, intermediate_size=64)
INDEX = "model.safetensors.index.json"


@pytest.fixture
def place(tmp_path, monkeypatch) -> StoragePath:
    """A directory of a bucket in memory."""
    monkeypatch.setenv("MVJAX_CACHE", str(tmp_path / "cache"))
    return StoragePath(f"memory://{tmp_path.name}-{id(tmp_path)}") / "model"


@pytest.fixture
def log(monkeypatch) -> list[str]:
    """What is written (+) and deleted (-) in buckets, in order."""
    found, write, delete = [], StoragePath.write_bytes, StoragePath.delete

    def noted(sign, call):
        def method(path, *arguments, **options):
            if path.local is None:
                found.append(sign + path.name)
            return call(path, *arguments, **options)

        return method

    monkeypatch.setattr(StoragePath, "write_bytes", noted("+", write))
    monkeypatch.setattr(StoragePath, "delete", noted("-", delete))
    return found


def test_in_order_and_read_back(place, log, tmp_path):
    tensors = tiny_tensors(CONFIG)
    save_checkpoint(str(place), Checkpoint(CONFIG, tensors), card="text\n", max_shard_bytes=50_000)
    shards = [name for name in log if name.endswith(".safetensors")]
    assert len(shards) > 2
    assert log[: len(shards)] == shards == sorted(shards)
    assert {*log[-2:]} == {"+config.json", f"+{INDEX}"}
    assert (place / "README.md").read_text() == "text\n"
    assert not list((tmp_path / "cache").iterdir())
    copy_tree(place, StoragePath(str(tmp_path / "back")))
    back = load_checkpoint(tmp_path / "back").tensors
    assert {name: back[name].tobytes() for name in back} == {name: x.tobytes() for name, x in tensors.items()}
    before = len(log)
    save_checkpoint(place, Checkpoint(CONFIG, tensors))
    assert {*log[before : before + 2]} == {"-config.json", f"-{INDEX}"}
    assert place.files() == ["config.json", "generation_config.json", "model.safetensors"]


def test_what_is_cut_off_is_no_model_and_is_replaced(place, monkeypatch):
    tensors = tiny_tensors(CONFIG)

    def fail(*_, **__):
        raise OSError("the network is gone")

    save_checkpoint(place, Checkpoint(CONFIG, tensors), max_shard_bytes=50_000)
    with monkeypatch.context() as patch:
        patch.setattr(bucket, "copy_tree", fail)
        with pytest.raises(OSError, match="gone"):
            save_checkpoint(place, Checkpoint(CONFIG, tensors), max_shard_bytes=50_000)
    assert all(name.endswith(".safetensors") for name in place.files())
    save_checkpoint(place, Checkpoint(CONFIG, tensors), max_shard_bytes=50_000)
    assert (place / "config.json").is_file()


def test_what_is_refused(place):
    model = Checkpoint(CONFIG, tiny_tensors(CONFIG))
    (place / "config.json").write_text("{}")
    (place / "checkpoints/1/x").write_text("")
    with pytest.raises(UserError, match=r"model holds files that are no model: name another directory"):
        save_checkpoint(place, model)
    assert (place / "checkpoints/1/x").exists()
    with pytest.raises(UserError, match=r"written into buckets as safetensors, not as orbax"):
        save_checkpoint(place / "other", model, "orbax")
