"""A machine that trains, on which nothing lasts: its model and data come from a bucket, its runs are kept there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from bucket_server import Bucket
from hub_double import HubDouble, serve
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model

from mvjax.data.records import Record, write_records
from mvjax.hub.transfer import fetch
from mvjax.models import save_checkpoint
from mvjax.storage import StoragePath, copy_file
from mvjax.tokenizers import load_tokenizer
from mvjax.weights import Checkpoint

# At ten times this rate rounding grows a thousandfold in as many steps: meshes could not be compared.
PRESET = """
from mvjax.training.config import TrainConfig
config = TrainConfig().replace(
    model={{"path": "{inputs}/model"}}, lora={{"rank": 2}}, loss={{"chunk": 64}}, optimizer={{"learning_rate": 1e-4}},
    data={{"files": ("{inputs}/data.jsonl",), "row_length": 256, "rows": 2, "levels": 2}},
    steps={{"total": 15}}, checkpoints={{"every": 3, "keep": 2}}, output={{"tensorboard": False}},
)
"""
STEPS = 15
MVJAX = "from mvjax.cli.main import run; run()"


def put_inputs(bucket: Bucket, place: Path) -> None:
    """A tiny model, which comes from a double of the hub, and its data in `inputs` of a bucket."""
    config = tiny_config(hidden_size=32, intermediate_size=64)
    tensors = tiny_tensors(config)
    tokenizer = load_tokenizer(write_gguf_model(place / "tiny.gguf", config, tensors, kind="F32"))
    save_checkpoint(place / "model", Checkpoint(config, tensors), tokenizer=tokenizer, max_shard_bytes=60_000)
    files = {path.name: path.read_bytes() for path in (place / "model").iterdir()}
    assert sum(name.endswith(".safetensors") for name in files) > 1
    inputs = StoragePath(f"{bucket.address}/inputs")
    with HubDouble() as hub, pytest.MonkeyPatch.context() as patch:
        serve(patch, hub.url)
        patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        commit = hub.add("owner/tiny", files | {".gitattributes": b""})
        assert fetch("owner/tiny", inputs / "model", cache=str(place / "hub")).commit == commit
    rng = np.random.default_rng(0)
    texts = ["Add one. " * int(rng.integers(1, 4)) + f"{i}." for i in range(60)]
    records = [Record(f"r{i}", ({"role": "user", "content": f"{i}?"},), t, t, "", "") for i, t in enumerate(texts)]
    write_records(place / "data.jsonl", records)
    copy_file(StoragePath(str(place / "data.jsonl")), inputs / "data.jsonl")


class Host:
    """A machine that trains: an empty directory, but for its configuration, and a cache of its own."""

    def __init__(self, place: Path, bucket: Bucket):
        self.place, self.cache, self.bucket = place, place / "cache", bucket
        place.mkdir()
        (place / "preset.py").write_text(PRESET.format(inputs=f"{bucket.address}/inputs"))

    def start(self, output: str, *words: str, launch: str = "one", **environment: str) -> subprocess.Popen:
        """A training process of the run `output`/run."""
        options = ["train", "preset.py", "--output.directory", output, *words]
        variables = os.environ | self.bucket.environment | {"MVJAX_CACHE": str(self.cache), "MVJAX_LAUNCH": launch}
        return subprocess.Popen(
            [sys.executable, "-c", MVJAX, *options],
            cwd=self.place,
            env=variables | {"GLIBC_TUNABLES": "", "JAX_PLATFORMS": "cpu"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def steps(self) -> int:
        """Steps that this host's copy of the metrics tells of."""
        found = [*self.cache.glob("runs/*/process-0/metrics.jsonl")]
        return max((len(file.read_text().splitlines()) for file in found), default=0)

    def kill(self, process: subprocess.Popen, after: int) -> None:
        """SIGKILL once some steps are done, and the cache with all that was kept here goes."""
        end = time.monotonic() + 120
        while self.steps() < after and process.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
        assert process.poll() is None, process.stdout.read()
        end_at_once(process)
        shutil.rmtree(self.cache)


def start_two(hosts: list[Host], output: str, *words: str) -> list:
    """Two processes as one run, each on its own host; 1 device each."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    there = {"MVJAX_COORDINATOR": f"127.0.0.1:{port}", "MVJAX_PROCESSES": "2"}
    return [host.start(output, *words, MVJAX_PROCESS=str(i), **there) for i, host in enumerate(hosts)]


def end_at_once(process: subprocess.Popen) -> None:
    """SIGKILL."""
    process.kill()
    process.communicate()


def ended(process: subprocess.Popen, status: int = 0) -> str:
    """What a process printed, ended with a status."""
    said = process.communicate(timeout=300)[0]
    assert process.returncode == status, said[-3000:]
    return said


def sha256(output: str, name: str = "adapter.safetensors") -> str:
    """Of a file of a run."""
    return hashlib.sha256((StoragePath(output) / "run" / name).read_bytes()).hexdigest()


def metrics(output: str) -> list[dict]:
    """All lines of a run's metrics."""
    return [json.loads(line) for line in (StoragePath(output) / "run/metrics.jsonl").read_text().splitlines()]
