"""A run whose model, data and files are in a bucket, with nothing on its host that lasts, ends as one left alone.

The server is an imitation of Google Cloud Storage; the model comes there from a double of the hub. Here is a cut;
`test_bucket_faults` has the rest, and `tests/training/test_bucket_directory` a kill in the fast suite.
"""

from pathlib import Path

import pytest
from bucket_host import STEPS, Host, ended, metrics, sha256
from bucket_server import Bucket

from mvjax.storage import StoragePath


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
