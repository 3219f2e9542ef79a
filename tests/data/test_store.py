"""The store: what is read is what encoding gives; a store is whole or not there; faults are named by their place."""

import dataclasses
import io
import json
import random
import re
import subprocess
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
from identical import assert_identical
from rich.console import Console

from mvjax.data import build, parts
from mvjax.data.build import build_store
from mvjax.data.encode import FORMS, encode_record
from mvjax.data.readers import DataFile
from mvjax.data.records import write_records
from mvjax.data.sources import open_data
from mvjax.data.store import Index, is_whole, open_store, store_path
from mvjax.errors import UserError

QUIET = Console(file=io.StringIO())


@pytest.fixture
def place(tmp_path, records):
    """A file of records, and a directory for stores."""
    write_records(tmp_path / "data.jsonl", records)
    return tmp_path / "data.jsonl", tmp_path / "tokens"


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(parts, "PART_BYTES", 4000)


def make(place, tokenizer, **arguments):
    file, directory = place
    files = open_data([file])
    path = store_path(files, tokenizer, directory)
    build_store(path, files, tokenizer, **{"console": QUIET, **arguments})
    return open_store(path)


def same(a, b):
    return all(np.array_equal(getattr(a.index, f.name), getattr(b.index, f.name)) for f in dataclasses.fields(Index))


def test_what_is_read_is_what_encoding_gives(store, tokenizer, records):
    assert len(store) == len(records)
    assert store.faulty == ()
    documents = [(number, form) for number in range(len(records)) for form in FORMS]
    for (number, form), example in zip(documents, store.examples(documents), strict=True):
        assert_identical(example, encode_record(tokenizer, records[number], form))


def test_the_index_says_what_the_layouts_do(store, tokenizer, records):
    for number, record in enumerate(records):
        assert store.index.name(number) == record.id
        assert (store.index.file_N[number], store.index.line_N[number]) == (0, number + 1)
        for column, form in enumerate(FORMS):
            layout = encode_record(tokenizer, record, form).layout
            found = [getattr(store.index, f"{name}_NF")[number, column] for name in ("length", "prompt", "critical")]
            assert found == [len(layout.segment), layout.prompt_length, layout.critical_path]
            assert store.index.depth_NF[number, column] == layout.depth


def test_a_second_start_finds_it_and_a_change_makes_a_new_one(place, tokenizer, records, monkeypatch):
    first = make(place, tokenizer)
    with monkeypatch.context() as patch:
        patch.setattr(build, "encode_part", None)
        assert make(place, tokenizer).path == first.path
    write_records(place[0], records[:-1])
    changed = make(place, tokenizer)
    assert changed.path != first.path
    assert len(changed) == len(first) - 1
    settings = dataclasses.replace(tokenizer.settings, chat_template=tokenizer.settings.chat_template + " ")
    other = dataclasses.replace(tokenizer, settings=settings)
    assert store_path(open_data([place[0]]), other, place[1]) not in (first.path, changed.path)
    assert first.path.exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_parts_and_processes_change_nothing(place, tokenizer, records, store, monkeypatch, small_parts, workers):
    file, directory = place
    divided = parts.divide(open_data([file, file]))
    assert len(divided) > 10
    texts = [line for part in divided for line in part.source.rows(part.span)]
    assert b"".join(texts) == 2 * file.read_bytes()
    found = make(place, tokenizer, workers=workers)
    assert same(found, store)
    assert len(found.parts) > 5
    for number in (0, 17, len(records) - 1):
        assert_identical(*(s.examples([(number, "multiverse")])[0] for s in (found, store)))
    expected = {"lock", "store.json", "index.npz", "faults.jsonl", *(name for name, _ in found.parts)}
    assert {path.name for path in found.path.iterdir()} == expected
    assert [path.name for path in directory.iterdir()] == [found.path.name]


def test_a_line_that_begins_where_a_part_does_is_of_that_part(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_BYTES", 20)
    (tmp_path / "data").write_bytes(b"".join(b"line %04d\n" % number for number in range(10)) + b"end")
    divided = parts.divide([DataFile(tmp_path / "data", "data", "lines")])
    lines = [list(part.source.rows(part.span)) for part in divided]
    assert [len(some) for some in lines] == [2] * 5 + [1]
    assert b"".join(line for some in lines for line in some) == (tmp_path / "data").read_bytes()


def test_faults_are_named_by_file_and_line(place, tokenizer, records, small_parts):
    file, directory = place
    lines = [json.dumps(dataclasses.asdict(record)).encode() for record in records]
    broken = dataclasses.replace(records[2], id="broken", response=records[2].response + "\n</Path>")
    lines[20:20] = [
        b"",
        b"{",
        json.dumps(dataclasses.asdict(broken)).encode(),
        b'{"id": "\xff"}',
        lines[3].replace(records[3].id.encode(), b"half").replace(b'"response": "', b'"response": "\\ud800', 1),
        b"[" * 100_000,
    ]
    second = directory.parent / "second.jsonl"
    second.write_bytes(b"\xef\xbb\xbf" + lines[0] + b"\nno JSON")
    file.write_bytes(b"\n".join(lines) + b"\n")
    files = open_data([file, second])
    path = store_path(files, tokenizer, directory)
    build_store(path, files, tokenizer, console=QUIET)
    store = open_store(path)
    faults = [store.fault(*fault) for fault in store.faulty]
    assert [fault.name for fault in faults] == [
        *(f"data.jsonl:{line}" for line in (22, 23, 24, 25, 26)),
        "second.jsonl:2",
    ]
    reasons = ["not JSON", r"broken: token \d+: </Path>", "not UTF-8", "half: .*surrogate", "JSON nested", "not JSON"]
    for fault, reason in zip(faults, reasons, strict=True):
        assert re.match(reason, fault.reason), fault
    assert len(store) == len(records) + 1
    assert store.index.line_N[19:21].tolist() == [20, 27]
    assert [store.index.file_N[-1], store.index.line_N[-1]] == [1, 1]
    assert_identical(store.examples([(20, "multiverse")])[0], encode_record(tokenizer, records[20]))


def test_an_interrupted_build_leaves_no_store_and_goes_on(place, tokenizer, store, monkeypatch, small_parts):
    file, directory = place
    encoded = []

    def encode(part, *arguments, **options):
        if len(encoded) == 3:
            # Killed within a part: a file is half written.
            (arguments[1] / f".{part.name}.left").write_bytes(b"half")
            raise KeyboardInterrupt
        encoded.append(part.number)
        return parts.encode_part(part, *arguments, **options)

    monkeypatch.setattr(build, "encode_part", encode)
    with pytest.raises(KeyboardInterrupt):
        make(place, tokenizer)
    with pytest.raises(UserError, match="no encoded records"):
        open_store(store_path(open_data([file]), tokenizer, directory))
    encoded[:3] = [-1] * 4
    found = make(place, tokenizer)
    assert encoded[4:] == list(range(3, len(found.parts)))
    assert same(found, store)
    assert not [path for path in found.path.iterdir() if path.name.endswith("left")]


def test_a_stopped_worker_leaves_nothing(place, tokenizer, tmp_path):
    (part,) = parts.divide(open_data([place[0]]))
    asked = iter([False] * 5 + [True])
    (tmp_path / "work").mkdir()
    with pytest.raises(KeyboardInterrupt):
        parts.encode_part(part, tokenizer, tmp_path / "work", lambda: next(asked))
    assert not list((tmp_path / "work").iterdir())


def test_of_two_processes_one_builds(place, tokenizer, monkeypatch):
    started, go, encoded, said = threading.Event(), threading.Event(), [], io.StringIO()

    def encode(part, *arguments):
        encoded.append(part.number)
        started.set()
        assert go.wait(60)
        parts.encode_part(part, *arguments)

    monkeypatch.setattr(build, "encode_part", encode)
    paths = []

    def run(console):
        paths.append(make(place, tokenizer, console=console).path)

    # The lock is one of open files, so threads stand for processes.
    threads = [threading.Thread(target=run, args=[console]) for console in (QUIET, Console(file=said))]
    threads[0].start()
    assert started.wait(60)
    threads[1].start()
    while "waiting for another process" not in said.getvalue():
        assert threads[1].is_alive()
        threads[1].join(0.01)
    go.set()
    for thread in threads:
        thread.join(60)
    assert encoded == [0]
    assert paths[0] == paths[1]
    assert [path.name for path in place[1].iterdir()] == [paths[0].name]


def test_a_damaged_store_is_made_anew(place, tokenizer, store):
    found = make(place, tokenizer)
    part = found.path / found.parts[0][0]
    whole = part.read_bytes()
    part.write_bytes(whole[:-100])
    with pytest.raises(UserError, match="no encoded records"):
        open_store(found.path)
    assert same(make(place, tokenizer), store)
    # The size is right, the bytes are not.
    part.write_bytes(whole[:5000] + bytes(byte ^ 255 for byte in whole[5000:9000]) + whole[9000:])
    damaged = open_store(found.path)
    with pytest.raises(UserError, match="delete it"):
        damaged.examples([(number, form) for number in range(len(damaged)) for form in FORMS])
    (found.path / "index.npz").write_bytes(bytes((found.path / "index.npz").stat().st_size))
    with pytest.raises(UserError, match="delete it"):
        open_store(found.path)


def test_a_host_that_sees_other_data_is_told(place, tokenizer, records, tmp_path):
    make(place, tokenizer)
    write_records(place[0], records[1:])
    with pytest.raises(UserError, match="no encoded records here; all hosts must see the same data"):
        open_store(store_path(open_data([place[0]]), tokenizer, place[1]), patience=0.1)


def test_what_keeps_a_store_from_being_built(place, tokenizer, monkeypatch):
    file, directory = place
    with pytest.raises(UserError, match="No such file"):
        open_data([file, file.with_name("none.jsonl")])
    with pytest.raises(UserError, match="file system"):
        store_path(open_data([file]), tokenizer, "gs://bucket/tokens")
    with pytest.raises(UserError, match="cannot hold encoded records"):
        make((file, file), tokenizer)
    with pytest.raises(UserError, match="join some"):
        build_store(directory / "many", open_data([file]) * 257, tokenizer, console=QUIET)
    no_template = dataclasses.replace(tokenizer, settings=dataclasses.replace(tokenizer.settings, chat_template=None))
    with pytest.raises(UserError, match=r"^the tokenizer has no chat template"):
        make(place, no_template)

    def full(*_):
        raise RuntimeError("write() failed: No space left on device; writing part")

    monkeypatch.setattr(parts, "ArrayRecordWriter", full)
    with pytest.raises(UserError, match="no space left"):
        make(place, tokenizer)
    monkeypatch.undo()
    assert len(make(place, tokenizer)) == 40


def test_one_line_is_in_memory_at_a_time(tmp_path, tokenizer):
    megabyte = 1 << 20
    with open(tmp_path / "data.jsonl", "wb") as file:
        for _ in range(24):
            file.write(b'{"id": "' + b"x" * megabyte + b"\n")
    tracemalloc.start()
    found = make((tmp_path / "data.jsonl", tmp_path / "tokens"), tokenizer, workers=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * megabyte
    assert len(found.faulty) == 24


def test_progress_is_shown(place, tokenizer, monkeypatch, small_parts):
    monkeypatch.setattr(build, "SECONDS_PER_LINE", 0)
    said = io.StringIO()
    make(place, tokenizer, console=Console(file=said))
    lines = said.getvalue().splitlines()
    assert lines[0].startswith("data: encoding 0.1 MB of records")
    assert lines[-1] == "data: 100% encoded"
    assert len(lines) > 5


SCRIPT = """
import sys
from mvjax.data import parts
from mvjax.data.build import build_store
from mvjax.data.sources import open_data
from mvjax.data.store import store_path
from mvjax.tokenizers import load_tokenizer

parts.PART_BYTES = 4000
if __name__ == "__main__":
    file, tokenizer = sys.argv[1], load_tokenizer(sys.argv[2]).with_control_tags()
    files = open_data([file])
    build_store(store_path(files, tokenizer, sys.argv[3]), files, tokenizer, workers=int(sys.argv[4]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_build_that_is_killed_again_and_again_ends_with_the_same_store(
    place, tokenizer, store, tmp_path, small_parts, workers
):
    file, directory = place
    tokenizer.save(tmp_path / "tokenizer")
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py", str(file), "tokenizer", str(directory), str(workers)]
    rng, path, kills = random.Random(workers), store_path(open_data([file]), tokenizer, directory), 0
    work = directory / f".{path.name}.parts"
    while not path.exists():
        before = len(list(work.glob("*.npz")))
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while process.poll() is None and len(list(work.glob("*.npz"))) == before:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        _, errors = process.communicate()
        assert process.returncode in (0, -9), errors.decode()
        kills += process.returncode == -9
        assert not path.exists() or is_whole(path)
    assert kills >= 3
    found = open_store(path)
    assert same(found, store)
    assert [entry.name for entry in directory.iterdir()] == [path.name]
