"""Record files: round trip, and what is skipped, counted, named."""

import json
from dataclasses import asdict, replace

import pytest

from mvjax.data.records import Record, write_records
from mvjax.data.sources import read_records
from mvjax.errors import UserError

GOOD = Record("a", ({"role": "user", "content": "1+1 é?"},), "2", "2", "2", "test", {"n": 1})


def line(**changes):
    return json.dumps({**asdict(GOOD), **changes})


def test_what_is_written_is_read(tmp_path, records):
    path = tmp_path / "records.jsonl"
    assert write_records(path, [GOOD, *records]) == 1 + len(records)
    found = read_records(path)
    assert list(found) == [GOOD, *records]
    assert found.faults == ()
    assert found[0] == GOOD
    assert len(found) == 41


def test_what_may_be_missing(tmp_path):
    path = tmp_path / "records.jsonl"
    fields = {name: value for name, value in asdict(GOOD).items() if name in ("messages", "response", "autoregressive")}
    path.write_text(f"{json.dumps(fields)}\n{json.dumps(fields | {'answer': None})}\n", encoding="utf-8")
    first, second = read_records(path)
    assert first == second == replace(GOOD, id=first.id, answer="", source="", meta={})
    assert len(first.id) == 16


def test_marks_of_a_record_are_kept_and_written_only_where_they_are_set(tmp_path):
    marked = [GOOD, replace(GOOD, cut=True), replace(GOOD, sequential=True, suffix=False)]
    write_records(tmp_path / "records.jsonl", marked)
    assert list(read_records(tmp_path / "records.jsonl")) == marked
    keys = [
        set(json.loads(line)) - {"id", "messages", "answer", "source", "meta"}
        for line in (tmp_path / "records.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert keys == [{"response", "autoregressive", *more} for more in ((), ("cut",), ("sequential", "suffix"))]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        (line(response=None), "'response' is missing or no string in record 'a'"),
        (line(id=3), "'id'"),
        (line(messages=[]), "'messages' is missing or empty"),
        (line(messages=[{"role": "cook", "content": "x"}]), "role"),
        (line(messages=[{"role": "user", "content": 1}]), "content is no string"),
        (line(messages=[{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]), "not the user's"),
        (line(meta=[]), "'meta'"),
        (line(cut=1), "'cut' is neither true nor false in record 'a'"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_a_malformed_record_is_skipped_and_named(tmp_path, bad, reason):
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join([line(), "", bad, line()]) + "\n", encoding="utf-8")
    found = read_records(path, max_bad_share=0.5)
    assert list(found) == [GOOD, GOOD]
    (fault,) = found.faults
    assert fault.name == "records.jsonl:3"
    assert reason in fault.reason
    with pytest.raises(UserError, match=r"1 of 3 records cannot be used.*records\.jsonl:3"):
        read_records(path)


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_records(tmp_path / "none.jsonl")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(UserError, match="no record"):
        read_records(empty)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"no .jsonl, .*file in this folder"):
        read_records(tmp_path / "folder")


def test_bytes_that_are_no_text_cost_their_record_only(tmp_path):
    path = tmp_path / "latin.jsonl"
    good = line().encode()
    path.write_bytes(b"\xef\xbb\xbf" + good + b"\n\n" + "é".encode("latin-1") + b"\n" + good)
    found = read_records(path, max_bad_share=0.5)
    assert list(found) == [GOOD, GOOD]
    assert found.faults[0].name == "latin.jsonl:3"
    assert "not UTF-8 text (byte 1 of the line); save the file as UTF-8" in found.faults[0].reason


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "records.jsonl"
    write_records(path, [GOOD])

    def failing():
        yield GOOD
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_records(path, failing())
    assert list(read_records(path)) == [GOOD]
    assert [file.name for file in tmp_path.iterdir()] == ["records.jsonl"]
