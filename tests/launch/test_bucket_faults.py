"""Runs in a bucket under kills at random moments, on several processes, and while the server is away."""

import shutil
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from bucket_host import STEPS, Host, end_at_once, ended, metrics, sha256
from bucket_server import Bucket
from faulty_proxy import FaultyProxy

from mvjax.storage import StoragePath
from mvjax.weights.tensor_file import read_tensor_file

pytestmark = pytest.mark.slow
KILLS = 5
FULL = ("--lora.rank", "0", "--optimizer.learning-rate", "1e-4")
KINDS = {"lora": ((), "adapter.safetensors"), "full": (FULL, "model/model.safetensors")}


def make_host(place: Path, bucket: Bucket) -> Host:
    """A host in a directory of its own."""
    place.mkdir()
    return Host(place, bucket)


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_random_moments(tmp_path: Path, gcs_bucket: Bucket, kind: str):
    words, exported = KINDS[kind]
    whole, killed = f"{gcs_bucket.address}/whole-{kind}", f"{gcs_bucket.address}/killed-{kind}"
    alone, host, rng = (
        make_host(tmp_path / "a", gcs_bucket),
        make_host(tmp_path / "b", gcs_bucket),
        np.random.default_rng(),
    )
    ended(alone.start(whole, *words))
    for _ in range(KILLS):
        process = host.start(killed, *words)
        end = time.monotonic() + rng.uniform(4, 14)
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        end_at_once(process)
        shutil.rmtree(host.cache, ignore_errors=True)
    ended(host.start(killed, *words))
    assert sha256(killed, exported) == sha256(whole, exported)
    assert [line["step"] for line in metrics(killed)] == [*range(1, STEPS + 1)]
    assert [line["loss"] for line in metrics(killed)] == [line["loss"] for line in metrics(whole)]
    assert not (host.place / "gs:").exists()


def start_two(hosts: list[Host], output: str, *words: str) -> list:
    """Two processes as one run, each on its own host; 1 device each."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    there = {"MVJAX_COORDINATOR": f"127.0.0.1:{port}", "MVJAX_PROCESSES": "2"}
    return [host.start(output, *words, MVJAX_PROCESS=str(i), **there) for i, host in enumerate(hosts)]


def test_two_processes_with_caches_of_their_own(tmp_path: Path, gcs_bucket: Bucket):
    hosts = [make_host(tmp_path / name, gcs_bucket) for name in ("a", "b")]
    whole, killed, other = (f"{gcs_bucket.address}/two-{name}" for name in ("whole", "killed", "other"))
    mesh = ("--mesh.fsdp", "2")
    for process in start_two(hosts, whole, *mesh):
        ended(process)
    for output, go_on in ((killed, 2), (other, 1)):
        for host in hosts:
            shutil.rmtree(host.cache)
        processes = start_two(hosts, output, *mesh)
        end = time.monotonic() + 120
        while hosts[0].steps() < 8 and time.monotonic() < end:
            time.sleep(0.005)
        for process in processes:
            end_at_once(process)
        for host in hosts:
            shutil.rmtree(host.cache)
        again = start_two(hosts, output, *mesh) if go_on == 2 else [hosts[0].start(output)]
        for process in again:
            ended(process)
        assert [line["step"] for line in metrics(output)] == [*range(1, STEPS + 1)]
    assert sha256(killed) == sha256(whole)
    for one, two in zip(metrics(other), metrics(whole), strict=True):
        assert abs(one["loss"] - two["loss"]) <= 1e-5 * two["loss"], one["step"]
    weights = []
    for number, output in enumerate((other, whole)):
        file = tmp_path / f"{number}.safetensors"
        file.write_bytes((StoragePath(output) / "run/adapter.safetensors").read_bytes())
        weights.append({name: x.read().astype(np.float32) for name, x in read_tensor_file(file)[0].items()})
    assert weights[0].keys() == weights[1].keys()
    for name, x in weights[1].items():
        # Adapters are bfloat16.
        assert np.abs(x - weights[0][name]).max() <= 2**-7 * np.abs(x).max(), name


@pytest.mark.parametrize("fault", ["frozen", "away"])
def test_a_server_that_is_away_for_ten_seconds(tmp_path: Path, gcs_bucket: Bucket, fault: str):
    proxy = FaultyProxy(gcs_bucket.url)
    alone = make_host(tmp_path / "a", gcs_bucket)
    host = make_host(tmp_path / "b", Bucket(gcs_bucket.address, proxy.url))
    whole, faulty = f"{gcs_bucket.address}/whole-{fault}", f"{gcs_bucket.address}/faulty-{fault}"
    ended(alone.start(whole))
    process = host.start(faulty)
    end = time.monotonic() + 120
    while host.steps() < 5 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    if fault == "frozen":
        with proxy.frozen():
            time.sleep(10)
    else:
        proxy.away = True
        time.sleep(10)
        proxy.away = False
        assert proxy.refused
    ended(process)
    proxy.close()
    assert sha256(faulty) == sha256(whole)
    assert [line["step"] for line in metrics(faulty)] == [*range(1, STEPS + 1)]


def test_a_server_that_stays_away(tmp_path: Path, gcs_bucket: Bucket):
    proxy = FaultyProxy(gcs_bucket.url)
    host = make_host(tmp_path / "a", Bucket(gcs_bucket.address, proxy.url))
    output = f"{gcs_bucket.address}/stays-away"
    process = host.start(output, "--output.patience", "5", "--steps.total", "120")
    end = time.monotonic() + 120
    while host.steps() < 8 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    proxy.away = True
    said = ended(process, 75)
    assert "the same command resumes it" in said
    proxy.away = False
    assert "resumed at step" in ended(host.start(output, "--steps.total", "120"))
    proxy.close()
    assert [line["step"] for line in metrics(output)] == [*range(1, 121)]
