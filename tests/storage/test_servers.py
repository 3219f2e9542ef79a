"""What becomes of a server's answers: one line each, at once where another attempt cannot help."""

import http.server
import os
import subprocess
import sys
import textwrap
import threading

import pytest
from bucket_server import Bucket, environment

from mvjax.errors import UserError
from mvjax.storage import Changed, StoragePath, check_bucket

ANSWERS = {"absent": 404, "refused": 403, "unknown": 401, "away": 503, "odd": 400}
"""Buckets, and the status that any request to them gets; one named "silent" never gets an answer."""


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers by the bucket's name."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        name = self.path.split("/b/")[1].split("/")[0]
        if name == "silent":
            self.server.over.wait(60)
        self.send_response(ANSWERS.get(name, 503))
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_PUT = answer

    def log_message(self, *_: object) -> None: ...


SCRIPT = """
    import time
    from mvjax.storage import StoragePath
    for name in ("absent", "refused", "unknown", "odd", "away", "silent"):
        began = time.monotonic()
        try:
            StoragePath(f"gs://{name}/run/x").patient(0.6).write_bytes(b"1")
        except Exception as error:
            print(name, type(error).__name__, "late" if time.monotonic() - began > 6 else "in time", error, sep="|")
"""


def test_each_fault_is_one_line():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.over = threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        words = [sys.executable, "-c", textwrap.dedent(SCRIPT)]
        done = subprocess.run(
            words, env=os.environ | environment(url), capture_output=True, text=True, timeout=120, check=True
        )
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
    found = {line.split("|")[0]: line.split("|")[1:] for line in done.stdout.splitlines()}
    assert {name: kind for name, (kind, _, _) in found.items()} == {
        **dict.fromkeys(("absent", "refused", "unknown", "odd"), "UserError"),
        **dict.fromkeys(("away", "silent"), "UnreachableError"),
    }
    assert {time for _, time, _ in found.values()} == {"in time"}
    assert "there is no bucket absent; create it" in found["absent"][2]
    assert "access was refused" in found["refused"][2]
    assert "gcloud auth application-default login" in found["unknown"][2]
    assert "could not be reached within 1 s" in found["away"][2]


def test_objects_of_a_bucket(gcs_bucket: Bucket):
    check_objects(StoragePath(gcs_bucket.address) / "a place/ö#?")


def check_objects(place: StoragePath) -> None:
    """Write, read, list and delete in a directory that is not there yet."""
    for name, size in (("empty", 0), ("one", 1), ("large", 300_001)):
        file = place / "sub" / name
        assert not file.exists()
        file.write_bytes(b"x" * size)
        assert file.size() == size
        assert file.has_size(size)
        assert not file.has_size(size + 1)
        assert file.read_bytes(0, size) == file.read_bytes() == b"x" * size
        assert file.read_bytes(size) == b""
    assert list(place.walk()) == ["sub/empty", "sub/large", "sub/one"]
    assert place.children() == [place / "sub"]
    assert (place / "sub").is_dir()
    assert not (place / "sub").is_file()
    with pytest.raises(FileNotFoundError):
        (place / "sub").read_bytes()
    place.parent.delete_tree()
    assert not place.exists()


def test_a_conditional_write_goes_on_from_the_one_before(gcs_bucket: Bucket):
    file = StoragePath(gcs_bucket.address) / "lease"
    before = file.read_version()
    generation = file.write_bytes(b"1", if_generation=before.generation)
    assert file.read_version() == (b"1", generation)
    assert file.write_bytes(b"2", if_generation=generation) != generation


def test_where_runs_can_be_kept(gcs_bucket: Bucket, monkeypatch):
    check_bucket(StoragePath(gcs_bucket.address) / "runs")
    with pytest.raises(UserError, match="there is no bucket no-such-bucket; create it"):
        check_bucket(StoragePath("gs://no-such-bucket/runs"))
    with pytest.raises(UserError, match="not in s3://: Orbax, which writes checkpoints, cannot write there"):
        check_bucket(StoragePath("s3://bucket/runs"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="need the package gcsfs: pip install"):
        check_bucket(StoragePath(gcs_bucket.address) / "runs")
    assert not (StoragePath(gcs_bucket.address) / "runs").exists()


@pytest.mark.slow
def test_objects_of_s3(s3_bucket: str):
    """On moto's server, under an explicit endpoint."""
    check_objects(StoragePath(s3_bucket) / "a place" / "runs")
    file = StoragePath(s3_bucket) / "lease"
    generation = file.write_bytes(b"1", if_generation=file.read_version().generation)
    file.write_bytes(b"2")
    with pytest.raises(Changed):
        file.write_bytes(b"3", if_generation=generation)
    assert not file.is_atomic
    with pytest.raises(UserError, match=r"there is no bucket absent; create it"):
        StoragePath("s3://absent/x").write_bytes(b"1")
