"""Taking the directory of a run that is in a bucket; whole runs are in tests/launch/test_bucket.py."""

import contextlib

import pytest

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
