"""StoragePath: the same behaviour for local files, memory and (as far as no server is needed) addresses of buckets."""

import threading
from pathlib import Path

import pytest

from mvjax.errors import UserError
from mvjax.storage import Changed, StoragePath


@pytest.fixture(params=["local", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> StoragePath:
    """An empty directory of each kind."""
    return StoragePath(str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}-{id(tmp_path)}")


@pytest.mark.parametrize(
    ("text", "address", "name", "parent"),
    [
        ("gs://bucket/runs//x/", "gs://bucket/runs/x", "x", "gs://bucket/runs"),
        ("gs://bucket/x.json", "gs://bucket/x.json", "x.json", "gs://bucket/"),
        ("gs://bucket", "gs://bucket/", "", "gs://bucket/"),
        ("s3://bucket/a/b", "s3://bucket/a/b", "b", "s3://bucket/a"),
        ("memory://a/b", "memory://a/b", "b", "memory://a"),
        ("file:///a/b", "/a/b", "b", "/a"),
        ("runs/x/", "runs/x", "x", "runs"),
    ],
)
def test_names(text, address, name, parent):
    path = StoragePath(text)
    assert (str(path), path.name, str(path.parent)) == (address, name, parent)
    assert path / "sub" / "file.bin" == path / "sub/file.bin"
    assert (path / "file.bin").parent == path
    assert (path / "file.bin").suffix == ".bin"
    assert StoragePath(path) == path
    assert (path.patient(600) / "a").parent.patience == 600


def test_schemes():
    assert StoragePath("gs://b/runs").local is None
    assert StoragePath("file:///runs").local == Path("/runs")
    assert StoragePath("runs").local == Path("runs")
    assert [StoragePath(text).scheme for text in ("gs://b/x", "s3://b/x", "memory://x", "x")] == [
        *("gs", "s3", "memory", "file")
    ]
    assert StoragePath("gs://bucket/a/b").key == "a/b"
    assert not StoragePath("s3://b/x").is_atomic


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("http://host/x", "http:// is not a kind of storage"),
        ("gs:///x", "names no bucket"),
        ("gs://bucket/../x", "no parts"),
        ("file://a/b", "three slashes"),
    ],
)
def test_addresses_that_make_no_sense(text, part):
    with pytest.raises(UserError, match=part):
        StoragePath(text)


def test_reading_and_writing(place):
    file = place / "a/b.bin"
    assert not file.exists()
    assert not file.is_file()
    with pytest.raises(FileNotFoundError, match=r"b\.bin"):
        file.read_bytes()
    file.write_bytes(b"0123456789")
    assert file.read_bytes() == b"0123456789"
    assert file.read_bytes(3, 5) == b"34"
    assert file.read_bytes(8) == b"89"
    assert file.read_bytes(3, 3) == b""
    with pytest.raises(UserError, match="cut short"):
        file.read_bytes(8, 11)
    assert file.exists()
    assert file.is_file()
    assert not file.is_dir()
    assert (place / "a").exists()
    assert (place / "a").is_dir()
    (place / "c.txt").write_text("Größe")
    assert (place / "c.txt").read_text() == "Größe"
    assert list(place.walk()) == ["a/b.bin", "c.txt"]
    assert place.children() == [place / "a", place / "c.txt"]
    assert (place / "nothing").children() == []
    file.delete()
    file.delete()
    assert list(place.walk()) == ["c.txt"]
    place.delete_tree()
    place.delete_tree()
    assert list(place.walk()) == []


@pytest.mark.parametrize("size", [0, 1, 2, 17, 65_537, 3_000_001])
def test_size_without_reading(place, size):
    file = place / "x"
    file.write_bytes(b"." * size)
    assert file.size() == size
    assert [file.has_size(size + off) for off in (-1, 0, 1) if size + off >= 0][-2:] == [True, False]
    assert not file.has_size(size + 1)


def test_a_directory_is_no_prefix_of_a_name(place):
    for name in ("run/a", "run2/b", "run.json", "run/ö"):
        (place / name).write_bytes(b"")
    assert list((place / "run").walk()) == ["a", "ö"]
    (place / "run").delete_tree()
    assert list(place.walk()) == ["run.json", "run2/b"]


def test_conditional_writes(place):
    file = place / "a/lease"
    nothing = file.read_version()
    assert nothing.data is None
    first = file.write_bytes(b"1", if_generation=nothing.generation)
    with pytest.raises(Changed):
        file.write_bytes(b"2", if_generation=nothing.generation)
    assert file.read_version() == (b"1", first)
    second = file.write_bytes(b"3", if_generation=first)
    assert second != first
    with pytest.raises(Changed):
        file.write_bytes(b"4", if_generation=first)
    assert file.read_bytes() == b"3"
    assert list(place.walk()) == ["a/lease"]


def test_of_sixteen_conditional_writes_one_is_done():
    file = StoragePath("memory://one-of-sixteen/lease")
    before, barrier, done = file.read_version().generation, threading.Barrier(16), []

    def write(number: int) -> None:
        barrier.wait()
        try:
            file.write_bytes(str(number).encode(), if_generation=before)
        except Changed:
            return
        done.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 1
    assert file.read_text() == str(done[0])
