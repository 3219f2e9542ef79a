"""A run in a bucket whose machine is told to end: by signals, by a notice, by a launcher that starts it again."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bucket_host import STEPS, Host, end_at_once, ended, metrics, sha256
from bucket_server import Bucket
from metadata_server import metadata_server

from mvjax.storage import StoragePath

pytestmark = pytest.mark.slow
NEVER = ("--checkpoints.every", "100000")
"""No checkpoint but those that somebody asks for."""
MANY = 300
"""Steps of a run that lasts until a notice has come, which may take five seconds."""

MVJAX = """
import threading
def lose_all():
    metrics = glob.glob(os.environ["MVJAX_CACHE"] + "/runs/*/process-0/metrics.jsonl")
    while not (metrics and len(open(metrics[0]).readlines()) >= 8):
        metrics = glob.glob(os.environ["MVJAX_CACHE"] + "/runs/*/process-0/metrics.jsonl")
        time.sleep(0.005)
    open("killed", "w").close()
    shutil.rmtree(os.environ["MVJAX_CACHE"], ignore_errors=True)
    os.kill(os.getpid(), 9)
import glob, shutil
if "--version" not in sys.argv and not os.path.exists("killed"):
    threading.Thread(target=lose_all, daemon=True).start()
from mvjax.cli.main import run
run()
"""


def until(condition: Callable[[], bool], process: subprocess.Popen, seconds: float = 120) -> None:
    """Wait for something that a running process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def saved(output: str) -> bool:
    """Whether the run has a complete checkpoint."""
    names = (StoragePath(output) / "run/checkpoints").walk()
    return any(name.count("/") == 1 and name.endswith("/commit_success.txt") for name in names)


@pytest.fixture
def whole(tmp_path: Path, stocked_bucket: Bucket) -> str:
    """A run that was left alone."""
    output = f"{stocked_bucket.address}/{tmp_path.name}-whole"
    ended(Host(tmp_path / "alone", stocked_bucket).start(output))
    return output


def same(output: str, whole: str, steps: int = STEPS) -> None:
    """Nothing was lost: the same weights, every step once."""
    assert sha256(output) == sha256(whole)
    assert [line["step"] for line in metrics(output)] == [*range(1, steps + 1)]
    assert [line["loss"] for line in metrics(output)] == [line["loss"] for line in metrics(whole)]


def test_two_sigterms(tmp_path: Path, stocked_bucket: Bucket, whole: str):
    host, output = Host(tmp_path / "host", stocked_bucket), f"{stocked_bucket.address}/{tmp_path.name}"
    process = host.start(output, *NEVER)
    until(lambda: host.steps() >= 5, process)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
    assert "stopped; the same command resumes it" in ended(process, 75)
    shutil.rmtree(host.cache)
    assert "resumed at step" in ended(host.start(output, *NEVER))
    same(output, whole)


@pytest.mark.parametrize("notice", ["maintenance-event", "preempted"])
def test_a_notice_of_the_machine(tmp_path: Path, stocked_bucket: Bucket, notice: str):
    """Maintenance: a checkpoint at once, and the run goes on until it is cut off. Pre-emption: it saves and ends."""
    host, address = Host(tmp_path / "host", stocked_bucket), f"{stocked_bucket.address}/{notice}"
    output, whole, words = f"{address}-told", f"{address}-whole", ("--steps.total", str(MANY), *NEVER)
    ended(host.start(whole, *words))
    shutil.rmtree(host.cache)
    with metadata_server() as (server, values):
        process = host.start(output, *words, GCE_METADATA_HOST=server)
        until(lambda: host.steps() >= 3, process)
        values[notice] = {"maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE", "preempted": "TRUE"}[notice]
        if notice == "preempted":
            assert "pre-empted" in ended(process, 75)
        else:
            until(lambda: saved(output), process)
            end_at_once(process)
    shutil.rmtree(host.cache)
    assert "resumed at step" in ended(host.start(output, *words))
    same(output, whole, MANY)


def test_a_launcher_that_restarts(stage, stocked_bucket: Bucket, tmp_path_factory, whole: str):
    """SIGKILL at step 8, all that was on the host is gone; the launcher's next start takes the lease over at once."""
    place = tmp_path_factory.mktemp("launched")
    host, output = Host(place / "host", stocked_bucket), f"{stocked_bucket.address}/{place.name}"
    stage.program("mvjax", MVJAX, packages=True)
    variables = stocked_bucket.environment | {"MVJAX_CACHE": str(host.cache), "MVJAX_SKIP": "", "JAX_PLATFORMS": "cpu"}
    words = ("host", "preset.py", "--output.directory", output)
    done = stage.launch(*words, cwd=host.place, MVJAX_DISK="0", GLIBC_TUNABLES="", **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ended with status 137; restart 1 of 3" in done.stderr
    assert "resumed at step" in done.stdout
    assert json.loads((StoragePath(output) / "run/lease.json").read_text())["launch"]
    assert os.path.exists(host.place / "killed")
    same(output, whole)
