"""Runs in a bucket: taking the directory, and a kill; those of `mvjax train` are in tests/launch/test_bucket.py."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_bucket_run
from bucket_server import Bucket
from tiny_training import RandomBatches

from mvjax.errors import UserError
from mvjax.storage import StoragePath
from mvjax.training import bucket_directory
from mvjax.training.bucket_directory import take
from mvjax.training.config import TrainConfig


def test_a_damaged_configuration_is_named_and_a_restart_replaces_it(monkeypatch, tmp_path):
    monkeypatch.setattr(bucket_directory, "check_bucket", lambda place: None)
    run = StoragePath(f"memory://{tmp_path.name}-{id(tmp_path)}/run")
    (run / "config.json").write_text("{")
    (run / "metrics.jsonl").write_text("{}\n")
    with contextlib.ExitStack() as stack, pytest.raises(UserError, match=r"config\.json: cannot be read \(.*--restart"):
        take(run, TrainConfig(), False, stack)
    with contextlib.ExitStack() as stack:
        take(run, TrainConfig(), True, stack)
        assert list(run.walk()) == ["lease.json"]


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
