"""Data people have: the same rows from JSON lines, JSON, Parquet and Arrow; formats by their keys; what is refused."""

import io
import json
import sys
from dataclasses import replace

import pyarrow
import pytest
from identical import assert_identical
from pyarrow import ipc, parquet
from rich.console import Console

from mvjax.data import parts, readers
from mvjax.data.build import build_store
from mvjax.data.corpus import Corpus
from mvjax.data.encode import FORMS
from mvjax.data.records import to_fields
from mvjax.data.schedule import PipelineConfig
from mvjax.data.sources import choose_split, describe, open_data, read_records
from mvjax.data.store import open_store, store_path
from mvjax.errors import UserError

SAID = [
    [("user", "1+1?"), ("assistant", "2.")],
    [("system", "Be short."), ("user", "2+2? é"), ("assistant", "4."), ("user", "Sure?"), ("assistant", "Yes.")],
    [("user", "3+3?"), ("assistant", "6.")],
]
NAMES = {"user": "human", "assistant": "gpt", "system": "system"}
FIXTURES = {
    "messages": [{"messages": [{"role": role, "content": text} for role, text in turns]} for turns in SAID],
    "sharegpt": [
        {"id": number, "conversations": [{"from": NAMES[role], "value": text} for role, text in turns]}
        for number, turns in enumerate(SAID)
    ],
    "prompt": [{"prompt": turns[0][1], "response": turns[-1][1]} for turns in SAID],
    "problem": [
        {"id": f"p{number}", "problem": turns[0][1], "solution": turns[-1][1], "answer": number, "source": "sums"}
        for number, turns in enumerate(SAID)
    ],
}
"""One fixture a format; that of our own records is `records`."""
BAD = {
    "records": {"messages": [{"role": "user", "content": "?"}], "response": "a"},
    "messages": {"messages": [{"role": "user", "content": "?"}]},
    "sharegpt": {"id": 9, "conversations": [{"from": "human", "value": "?"}]},
    "prompt": {"prompt": "?"},
    "problem": {"id": "p9", "problem": "?", "answer": 1},
}
REASONS = {
    "records": "'autoregressive' is missing",
    "messages": "the last message is the user's, not the assistant's",
    "sharegpt": "the last message is the user's, not the assistant's",
    "prompt": "'response' is missing or no string",
    "problem": "'solution' is missing or no string",
}


def write(path, rows):
    """The rows as a file, or a folder that `datasets` saved, by the suffix of its name."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    elif path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)
    elif path.suffix == ".arrow":
        table = pyarrow.Table.from_pylist(rows)
        with ipc.new_file(path, table.schema) as file:
            file.write_table(table, max_chunksize=2)
    else:
        path.mkdir()
        table = pyarrow.Table.from_pylist(rows)
        with ipc.new_stream(path / "data-00000-of-00001.arrow", table.schema) as stream:
            stream.write_table(table, max_chunksize=2)
        (path / "dataset_info.json").write_text("{}")
        (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    return path


def fixture(name, records):
    if name != "records":
        return FIXTURES[name]
    return [{**to_fields(record), "meta": {"degree": 2}} for record in records[:3]]


def encode(path, tokenizer, directory, format="auto"):
    files = open_data([path], format)
    place = store_path(files, tokenizer, directory)
    build_store(place, files, tokenizer, console=Console(file=io.StringIO()))
    return open_store(place)


@pytest.mark.parametrize("name", ["records", *FIXTURES])
def test_the_same_rows_from_every_kind_of_file(tmp_path, tokenizer, records, name, monkeypatch):
    monkeypatch.setattr(parts, "PART_BYTES", 300)
    rows = fixture(name, records)
    kinds = ("data.jsonl", "data.json", "data.parquet", "data.arrow", "saved")
    paths = [write(tmp_path / kind, rows) for kind in kinds]
    stores = [encode(path, tokenizer, tmp_path / "tokens") for path in paths]
    assert len({store.fingerprint for store in stores}) == len(kinds)
    documents = [(number, form) for number in range(3) for form in FORMS]
    expected = stores[0].examples(documents)
    assert len({example.id for example in expected}) == 3
    for store in stores:
        assert store.faulty == ()
        assert store.index.line_N.tolist() == [1, 2, 3]
        for one, other in zip(store.examples(documents), expected, strict=True):
            assert_identical(one, other)
    assert list(read_records(paths[2])) == list(read_records(paths[0])) == list(read_records(paths[4]))
    if name != "records":  # taught as sequential text in either form
        for one, other in zip(expected[::2], expected[1::2], strict=True):
            assert_identical(one, replace(other, mode="multiverse"))


@pytest.mark.parametrize("name", ["records", *FIXTURES])
@pytest.mark.parametrize("kind", ["data.jsonl", "data.json", "data.parquet", "saved"])
def test_a_bad_row_is_named_by_file_and_row(tmp_path, tokenizer, records, name, kind):
    rows = fixture(name, records)
    path = write(tmp_path / kind, [rows[0], rows[1], BAD[name], rows[2]])
    store = encode(path, tokenizer, tmp_path / "tokens")
    place = f"{kind}/data-00000-of-00001.arrow:3" if kind == "saved" else f"{kind}:3"
    (fault,) = [store.fault(*fault) for fault in store.faulty]
    assert fault.name == place
    assert REASONS[name] in fault.reason
    assert store.index.line_N.tolist() == [1, 2, 4]
    with pytest.raises(UserError, match=rf"1 of 4 records cannot be used .*{place}: .*{REASONS[name]}"):
        Corpus(store, PipelineConfig(row_length=4096))


def test_the_format_is_said_aloud_and_can_be_named(tmp_path, records):
    paths = [write(tmp_path / f"{name}.jsonl", fixture(name, records)) for name in ("records", *FIXTURES)]
    assert [file.format for file in open_data(paths)] == ["records", *FIXTURES]
    lines = list(describe(open_data(paths), [path.name for path in paths]))
    assert lines[0] == "data: records.jsonl: records in both forms (messages, response, autoregressive)"
    assert lines[1] == "data: messages.jsonl: chat messages (messages of role, content), taught as sequential text"
    both = [{**prompt, **problem} for prompt, problem in zip(FIXTURES["prompt"], FIXTURES["problem"], strict=True)]
    both = [{**row, "solution": "S"} for row in both]
    path = write(tmp_path / "both.jsonl", both)
    assert {record.response for record in read_records(path)} == {"S"}
    assert {record.response for record in read_records(path, "prompt")} == {"2.", "Yes.", "6."}
    unknown = write(tmp_path / "unknown.jsonl", [{"text": "a", "url": "b"}])
    with pytest.raises(UserError, match=r"unknown.jsonl:1: keys text, url are those of no known format: records \("):
        open_data([unknown])
    assert next(iter(open_data([unknown], "messages"))).format == "messages"


@pytest.mark.parametrize(
    ("row", "messages", "response"),
    [
        ({"instruction": "Add.", "input": "1 1", "output": "2"}, [("user", "Add.\n\n1 1")], "2"),
        ({"prompt": [{"role": "user", "content": "?"}], "completion": "!"}, [("user", "?")], "!"),
        ({"question": "1+1?", "answer": "It is\n#### 2"}, [("user", "1+1?")], "It is\n#### 2"),
        (
            {"system": "S", "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": " ! "}]},
            [("system", "S"), ("user", "?")],
            "!",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "a"}]},
                    {"role": "assistant", "content": "b"},
                ]
            },
            [("user", "a")],
            "b",
        ),
    ],
)
def test_layouts_that_datasets_have(tmp_path, row, messages, response):
    (record,) = read_records(write(tmp_path / "data.jsonl", [row]))
    assert [(message["role"], message["content"]) for message in record.messages] == messages
    assert (record.response, record.autoregressive, record.sequential, record.suffix) == (
        response,
        response,
        True,
        False,
    )


def chat(*turns, **more):
    return {"messages": [{"role": role, "content": text} for role, text in turns], **more}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (chat(("user", "?"), ("assistant", "\n<Parallel>\n")), "a line <Parallel>"),
        (chat(("user", "?"), ("tool", "3"), ("assistant", "!")), "a message without a role"),
        (chat(("user", "?"), ("assistant", None)), "content is no string"),
        (chat(("user", "?"), ("assistant", " ")), "the last answer is empty"),
        (chat(("assistant", "!")), "no message of the user"),
        (chat(("user", "?"), ("assistant", "!"), ("assistant", "!!")), "before the last answer is not the user's"),
        (chat(("user", "?"), ("assistant", "!"), tools=[{"name": "f"}]), "calls of tools"),
        ({"conversations": [{"from": "narrator", "value": "?"}]}, "a turn from 'narrator'"),
    ],
)
def test_rows_that_cannot_be_taught(tmp_path, row, reason):
    rows = [chat(("user", "?"), ("assistant", "!")) if "messages" in row else FIXTURES["sharegpt"][0], row]
    file = read_records(write(tmp_path / "data.jsonl", rows), max_bad_share=0.5)
    assert [fault.name for fault in file.faults] == ["data.jsonl:2"]
    assert reason in file.faults[0].reason


def test_folders_and_splits(tmp_path):
    rows = FIXTURES["prompt"]
    (tmp_path / "set" / "data").mkdir(parents=True)
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        write(tmp_path / "set" / "data" / f"{name}.parquet", rows)
    write(tmp_path / "set" / "data" / "train-00001-of-00002.parquet", rows[:1])
    files = open_data([tmp_path / "set", tmp_path / "set" / "data" / "test-00000-of-00001.parquet"])
    assert [(file.name, file.entry) for file in files] == [
        ("set/data/train-00000-of-00002.parquet", 0),
        ("set/data/train-00001-of-00002.parquet", 0),
        ("test-00000-of-00001.parquet", 1),
    ]
    assert ", 2 files: prompts" in next(describe(files, ["set", "other"]))
    (tmp_path / "splits").mkdir()
    for split in ("test", "train"):
        write(tmp_path / "splits" / split, rows)
    (tmp_path / "splits" / "dataset_dict.json").write_text('{"splits": ["test", "train"]}')
    assert [file.path.parent.name for file in open_data([tmp_path / "splits"])] == ["train"]
    (tmp_path / "splits" / "dataset_dict.json").write_text('{"splits": ["test", "extra"]}')
    with pytest.raises(UserError, match=r"has the splits test, extra and none is train; name the folder of one"):
        open_data([tmp_path / "splits"])


def test_the_split_that_is_chosen():
    assert choose_split(["a.jsonl", "b.jsonl"]) == ["a.jsonl", "b.jsonl"]
    assert choose_split(["default/train/0.parquet", "default/test/0.parquet"]) == ["default/train/0.parquet"]
    assert choose_split(["my_train.jsonl", "my_dev.jsonl", "constraint.jsonl"]) == ["my_train.jsonl"]
    with pytest.raises(UserError, match="none is of a training split"):
        choose_split(["test.jsonl", "validation.jsonl"])


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    for name in ("data.csv", "data.jsonl.gz"):
        (tmp_path / name).write_text("a")
        with pytest.raises(UserError, match=r"files cannot be read; data is in .jsonl, "):
            open_data([tmp_path / name])
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(UserError, match=r"damaged.parquet: cannot be read \(.*; fetch or save it again"):
        open_data([damaged])
    (tmp_path / "cut.json").write_text('[{"prompt": "a", "response": "b"}, {"prompt": ')
    with pytest.raises(UserError, match=r"cut.json: not JSON \(.* in item 2 of the array\); repair the file"):
        read_records(tmp_path / "cut.json")
    whole = write(tmp_path / "data.parquet", FIXTURES["prompt"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"data.parquet: needs pyarrow: pip install 'mvjax\[data\]'$"):
        open_data([whole])


def test_a_json_array_is_read_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "CHUNK", 7)
    rows = [{"prompt": f"é {number}", "response": "x" * number} for number in range(1, 20)]
    path = write(tmp_path / "data.json", rows)
    assert [len(record.response) for record in read_records(path)] == list(range(1, 20))
    lines = tmp_path / "lines.json"  # JSON lines under this suffix
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(read_records(lines)) == list(read_records(path))


def test_tables_are_divided(tmp_path):
    rows = [{"prompt": "?" * 50, "response": str(number) * 50} for number in range(20)]
    for name in ("data.parquet", "data.arrow"):
        (file,) = open_data([write(tmp_path / name, rows)])
        spans = file.spans(200)
        assert len(spans) > 2
        assert [row for span in spans for row in file.rows(span)] == rows
        assert sum(span.n_bytes for span in spans) <= file.n_bytes()
