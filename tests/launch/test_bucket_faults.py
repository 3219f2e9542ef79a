"""Runs in a bucket under kills at random moments, on several processes, and while the server is away."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from bucket_host import STEPS, Host, end_at_once, ended, metrics, sha256, start_two
from bucket_server import Bucket
from faulty_proxy import FaultyProxy

from mvjax.storage import StoragePath
from mvjax.weights.tensor_file import read_tensor_file

pytestmark = pytest.mark.slow
KILLS = 5
FULL = ("--lora.rank", "0", "--optimizer.learning-rate", "1e-4")
KINDS = {"lora": ((), "adapter.safetensors"), "full": (FULL, "model/model.safetensors")}


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_random_moments(tmp_path: Path, stocked_bucket: Bucket, kind: str):
    words, exported = KINDS[kind]
    whole, killed = f"{stocked_bucket.address}/whole-{kind}", f"{stocked_bucket.address}/killed-{kind}"
    alone, host, rng = (
        Host(tmp_path / "a", stocked_bucket),
        Host(tmp_path / "b", stocked_bucket),
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


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_with_caches_of_their_own(tmp_path: Path, stocked_bucket: Bucket, kind: str):
    words, exported = KINDS[kind]
    words = (*words, "--mesh.fsdp", "2")
    hosts, rng = [Host(tmp_path / name, stocked_bucket) for name in ("a", "b")], np.random.default_rng()
    whole, killed = f"{stocked_bucket.address}/two-whole-{kind}", f"{stocked_bucket.address}/two-killed-{kind}"
    for process in start_two(hosts, whole, *words):
        ended(process)
    for _ in range(KILLS):
        wipe(hosts)
        processes = start_two(hosts, killed, *words)
        end = time.monotonic() + rng.uniform(6, 20)
        while time.monotonic() < end and any(process.poll() is None for process in processes):
            time.sleep(0.05)
        for process in rng.permutation(processes):
            end_at_once(process)
    wipe(hosts)
    for process in start_two(hosts, killed, *words):
        ended(process)
    assert sha256(killed, exported) == sha256(whole, exported)
    assert [line["step"] for line in metrics(killed)] == [*range(1, STEPS + 1)]
    assert [line["loss"] for line in metrics(killed)] == [line["loss"] for line in metrics(whole)]
    assert not any((host.place / "gs:").exists() for host in hosts)


def wipe(hosts: list[Host]) -> None:
    """All that was kept on the hosts goes."""
    for host in hosts:
        shutil.rmtree(host.cache, ignore_errors=True)


@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_on_another_mesh(tmp_path: Path, stocked_bucket: Bucket, kind: str, first: int):
    """From one device to two processes with one each, or back; the other run stays on the first mesh."""
    words, exported = KINDS[kind]
    hosts = [Host(tmp_path / name, stocked_bucket) for name in ("a", "b")]
    stays, moves = (f"{stocked_bucket.address}/mesh-{kind}-{first}-{name}" for name in ("stays", "moves"))

    def start(output: str, count: int) -> list:
        if count == 1:
            return [hosts[0].start(output, *words)]
        return start_two(hosts, output, *words, "--mesh.fsdp", "2")

    for process in start(stays, first):
        ended(process)
    wipe(hosts)
    processes = start(moves, first)
    end = time.monotonic() + 120
    while hosts[0].steps() < 8 and processes[0].poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    for process in processes:
        end_at_once(process)
    wipe(hosts)
    said = [ended(process) for process in start(moves, 3 - first)]
    assert "resumed at step" in said[0]
    assert [line["step"] for line in metrics(moves)] == [*range(1, STEPS + 1)]
    for one, two in zip(metrics(moves), metrics(stays), strict=True):
        assert abs(one["loss"] - two["loss"]) <= 1e-5 * two["loss"], one["step"]
    weights = []
    for number, output in enumerate((moves, stays)):
        file = tmp_path / f"{number}.safetensors"
        file.write_bytes((StoragePath(output) / "run" / exported).read_bytes())
        weights.append({name: x.read().astype(np.float32) for name, x in read_tensor_file(file)[0].items()})
    assert weights[0].keys() == weights[1].keys()
    for name, x in weights[1].items():
        if kind == "lora":  # adapters are bfloat16
            assert np.abs(x - weights[0][name]).max() <= 2**-7 * np.abs(x).max(), name
        else:  # where a gradient is next to nothing, Adam's step has the sign of its rounding
            assert np.linalg.norm(x - weights[0][name]) <= 1e-5 * np.linalg.norm(x), name


@pytest.mark.parametrize("fault", ["frozen", "away"])
def test_a_server_that_is_away_for_ten_seconds(tmp_path: Path, stocked_bucket: Bucket, fault: str):
    proxy = FaultyProxy(stocked_bucket.url)
    alone = Host(tmp_path / "a", stocked_bucket)
    host = Host(tmp_path / "b", Bucket(stocked_bucket.address, proxy.url))
    whole, faulty = f"{stocked_bucket.address}/whole-{fault}", f"{stocked_bucket.address}/faulty-{fault}"
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


def test_a_server_that_stays_away(tmp_path: Path, stocked_bucket: Bucket):
    proxy = FaultyProxy(stocked_bucket.url)
    host = Host(tmp_path / "a", Bucket(stocked_bucket.address, proxy.url))
    output = f"{stocked_bucket.address}/stays-away"
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
