"""A run whose model, data and files are in a bucket, with nothing on its host that lasts, ends as one left alone.

The server is an imitation of Google Cloud Storage; the model comes there from a double of the hub. Here is a cut: one
kill of a model of one matrix, and one of `mvjax train` (slow). `test_bucket_faults` has the rest.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_bucket_run
from bucket_host import STEPS, Host, ended, metrics, sha256
from bucket_server import Bucket
from tiny_training import RandomBatches

from mvjax.storage import StoragePath


def test_a_run_whose_process_was_killed_and_whose_host_is_new_ends_as_one_left_alone(
    gcs_bucket: Bucket, tmp_path, monkeypatch, capsys
):
    directory, cache = f"{gcs_bucket.address}/runs-of-a-matrix", tmp_path / "cache"
    monkeypatch.chdir(tmp_path)
    for name, value in {"MVJAX_CACHE": str(cache), "MVJAX_LAUNCH": "one"}.items():
        monkeypatch.setenv(name, value)
    paths = os.pathsep.join([str(Path(tiny_bucket_run.__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, tiny_bucket_run.__file__, directory, "killed"]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True) as victim:
        said = next((line for line in victim.stdout if line == "stopped\n"), None)
        victim.kill()
    assert said
    shutil.rmtree(cache)
    for name in ("killed", "whole"):
        assert tiny_bucket_run.train(directory, name, RandomBatches()).finished
    assert re.search(r"resumed at step [369]\b", capsys.readouterr().out)
    killed, whole = (StoragePath(directory) / name for name in ("killed", "whole"))
    assert (killed / "matrix.npy").read_bytes() == (whole / "matrix.npy").read_bytes()
    lines = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (killed, whole)]
    assert [line["step"] for line in lines[0]] == [*range(1, tiny_bucket_run.STEPS + 1)]
    assert [line["loss"] for line in lines[0]] == [line["loss"] for line in lines[1]]
    assert {name.split("/")[0] for name in (killed / "checkpoints").walk()} == {"12", "15"}
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


@pytest.mark.slow
def test_killed_with_its_cache_wiped(tmp_path: Path, stocked_bucket: Bucket):
    whole, killed = f"{stocked_bucket.address}/whole", f"{stocked_bucket.address}/killed"
    hosts = [Host(tmp_path / name, stocked_bucket) for name in ("a", "b")]
    alone, victim = hosts[0].start(whole), hosts[1].start(killed)
    hosts[1].kill(victim, after=8)
    said = ended(hosts[1].start(killed))
    assert "resumed at step" in said
    ended(alone)
    assert sha256(killed) == sha256(whole)
    for output in (whole, killed):
        lines = metrics(output)
        assert [line["step"] for line in lines] == [*range(1, STEPS + 1)]
    for one, other in zip(metrics(whole), metrics(killed), strict=True):
        assert one["loss"] == other["loss"]
    for host in hosts:
        assert sorted(path.name for path in host.place.iterdir() if path.name != "cache") == ["preset.py"]
        assert not list(host.cache.rglob("model*.safetensors"))
    steps = {name.split("/")[0] for name in (StoragePath(killed) / "run/checkpoints").walk()}
    assert steps == {"12", "15"}
    assert [name for name in (StoragePath(killed) / ".tokens").walk() if name.endswith("store.json")]
