"""Copies resume, and a mirror sends what has changed and fetches what the bucket has."""

import time
from pathlib import Path

import pytest

from mvjax.storage import Mirror, StoragePath, copy_tree, transfer


@pytest.fixture
def remote(tmp_path: Path) -> StoragePath:
    """An empty place in memory."""
    return StoragePath(f"memory://{tmp_path.name}-{id(tmp_path)}/run")


def contents(place: StoragePath) -> dict[str, bytes]:
    """All files."""
    return {name: (place / name).read_bytes() for name in place.walk()}


def test_a_tree_there_and_back(tmp_path, remote, monkeypatch):
    monkeypatch.setattr(transfer, "CHUNK", 10)
    wanted = {"a.bin": b"0123456789" * 3 + b"x", "b/c": b"", "b/d": b"0123456789", "index.json": b"{}"}
    here, back = StoragePath(str(tmp_path / "here")), StoragePath(str(tmp_path / "back"))
    for name, data in wanted.items():
        (here / name).write_bytes(data)
    order = []
    copy_tree(here, remote, last=lambda name: name == "a.bin", progress=lambda name, size: order.append((name, size)))
    assert order == [("b/c", 0), ("b/d", 10), ("index.json", 2), ("a.bin", 31)]
    assert contents(remote) == wanted
    copy_tree(remote, back)
    assert contents(back) == wanted


def test_a_copy_holds_little_in_memory(tmp_path, remote, monkeypatch):
    """A chunk of each file that comes to this machine, and one large file at a time that goes to a bucket."""
    monkeypatch.setattr(transfer, "CHUNK", 10)
    read, held, most = StoragePath.read_bytes, [], []

    def counted(path, start=0, stop=None):
        data = read(path, start, stop)
        held.append(len(data))
        most.append(sum(size for size in held if size > 10))
        time.sleep(0.01)  # for the other threads
        held.remove(len(data))
        return data

    here = StoragePath(str(tmp_path / "here"))
    for name in "abcdef":
        (here / name).write_bytes(name.encode() * 31)
    monkeypatch.setattr(StoragePath, "read_bytes", counted)
    copy_tree(here, StoragePath(str(tmp_path / "there")))
    assert max(most) == 0
    copy_tree(here, remote)
    assert max(most) == 31
    monkeypatch.undo()
    assert contents(StoragePath(str(tmp_path / "there"))) == contents(remote) == contents(here)


def test_a_copy_goes_on_where_it_broke(tmp_path, remote, monkeypatch):
    here, copied = StoragePath(str(tmp_path)), []
    for name in ("a", "b", "c"):
        (here / name).write_bytes(name.encode())
    (remote / "a").write_bytes(b"a")
    (remote / "b").write_bytes(b"half of it")
    copy = transfer.copy_file
    monkeypatch.setattr(
        transfer, "copy_file", lambda source, target: copied.append(source.name) or copy(source, target)
    )
    copy_tree(here, remote)
    assert sorted(copied) == ["b", "c"]
    assert contents(remote) == {"a": b"a", "b": b"b", "c": b"c"}


def test_a_mirror_sends_what_has_changed(tmp_path, remote, monkeypatch):
    mirror = Mirror(tmp_path, remote, wanted=lambda name: not name.startswith("checkpoints/"))
    for name in ("metrics.jsonl", "tensorboard/events", ".lock", "checkpoints/1/x", "samples/.half.json"):
        StoragePath(str(tmp_path / name)).write_bytes(b"1")
    mirror.push()
    assert contents(remote) == {"metrics.jsonl": b"1", "tensorboard/events": b"1"}
    (remote / "tensorboard/events").write_bytes(b"left alone")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write("2")
    mirror.push()
    assert contents(remote) == {"metrics.jsonl": b"12", "tensorboard/events": b"left alone"}


def test_a_mirror_fetches_what_the_bucket_has(tmp_path, remote):
    (tmp_path / "old").write_bytes(b"of another run")
    (tmp_path / "metrics.jsonl").write_bytes(b"same size, other run"[:2])
    (remote / "metrics.jsonl").write_bytes(b"12")
    (remote / "checkpoints/1/state").write_bytes(b"large")
    mirror = Mirror(tmp_path, remote, wanted=lambda name: not name.startswith("checkpoints/"))
    mirror.pull()
    assert contents(StoragePath(str(tmp_path))) == {"metrics.jsonl": b"12"}
    (remote / "metrics.jsonl").delete()
    mirror.push()
    assert not (remote / "metrics.jsonl").exists()


def test_a_mirror_works_by_itself(tmp_path, remote):
    with Mirror(tmp_path, remote, every=0.01):
        (tmp_path / "a").write_bytes(b"1")
        end = time.monotonic() + 30
        while not (remote / "a").exists() and time.monotonic() < end:
            time.sleep(0.01)
    assert contents(remote) == {"a": b"1"}
