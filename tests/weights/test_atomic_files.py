"""Files and directories that appear whole or not at all."""

import errno
import os

import pytest

from mvjax.files import atomic_directory, atomic_path

FAILURES = [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError("no")]


def write_half(atomic, name, failure):
    """Fail in the middle of a write."""
    with atomic as temporary:
        (temporary / name if name else temporary).write_text("half")
        raise failure


def test_a_file_replaces_the_old_one_only_at_the_end(tmp_path):
    path = tmp_path / "new" / "model.safetensors"
    for text in ("one", "two"):
        with atomic_path(path) as temporary:
            temporary.write_text(text)
            assert temporary.suffix == path.suffix
            assert not path.exists() or path.read_text() == "one"
        assert path.read_text() == text
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_a_failed_write_leaves_the_old_file(tmp_path, failure):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(type(failure)):
        write_half(atomic_path(path), "", failure)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_body_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "file"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_link_is_followed(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with atomic_path(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_contents_are_on_disk_before_the_name_changes(tmp_path, monkeypatch):
    events = []
    fsync, rename, replace = os.fsync, os.rename, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    monkeypatch.setattr(os, "rename", lambda a, b: (events.append("rename"), rename(a, b)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("rename"), replace(a, b)))
    with atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("x")
    assert events == [str(temporary), "rename", str(tmp_path)]
    events.clear()
    with atomic_directory(tmp_path / "folder") as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "a").write_text("x")
    assert events[-2:] == ["rename", str(tmp_path)]
    assert {str(temporary / "inner" / "a"), str(temporary / "inner"), str(temporary)} <= set(events[:-2])


def test_a_directory_replaces_the_old_one_whole(tmp_path):
    path = tmp_path / "model"
    with atomic_directory(path) as temporary:
        (temporary / "a").write_text("1")
        assert not path.exists()
    with atomic_directory(path) as temporary:
        (temporary / "b").write_text("2")
        assert os.listdir(path) == ["a"]
    assert os.listdir(path) == ["b"]
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_a_failed_directory_leaves_the_old_one(tmp_path, failure):
    path = tmp_path / "model"
    path.mkdir()
    (path / "a").write_text("old")
    with pytest.raises(type(failure)):
        write_half(atomic_directory(path), "a", failure)
    assert (path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["model"]


def test_a_failed_second_rename_puts_the_old_directory_back(tmp_path, monkeypatch):
    path = tmp_path / "model"
    path.mkdir()
    (path / "a").write_text("old")
    rename, calls = os.rename, []

    def failing(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="Input/output"), atomic_directory(path) as temporary:
        (temporary / "a").write_text("new")
    assert (path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["model"]
