"""A machine that trains, on which nothing lasts: its runs are kept in a bucket."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from bucket_server import Bucket
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model

from mvjax.data.records import Record, write_records
from mvjax.storage import StoragePath

# At ten times this rate rounding grows a thousandfold in as many steps: meshes could not be compared.
PRESET = """
from mvjax.training.config import TrainConfig
config = TrainConfig().replace(
    model={"path": "tiny.gguf"}, lora={"rank": 2}, loss={"chunk": 64}, optimizer={"learning_rate": 1e-4},
    data={"files": ("data.jsonl",), "row_length": 256, "rows": 2, "levels": 2},
    steps={"total": 15}, checkpoints={"every": 3, "keep": 2}, output={"tensorboard": False},
)
"""
STEPS = 15
MVJAX = "from mvjax.cli.main import run; run()"


class Host:
    """A machine that trains: an empty directory with a tiny model and its data, and a cache of its own."""

    def __init__(self, place: Path, bucket: Bucket):
        self.place, self.cache, self.bucket = place, place / "cache", bucket
        config = tiny_config(hidden_size=32, intermediate_size=64)
        write_gguf_model(place / "tiny.gguf", config, tiny_tensors(config), kind="F32")
        rng = np.random.default_rng(0)
        texts = ["Add one. " * int(rng.integers(1, 4)) + f"{i}." for i in range(60)]
        records = [Record(f"r{i}", ({"role": "user", "content": f"{i}?"},), t, t, "", "") for i, t in enumerate(texts)]
        write_records(place / "data.jsonl", records)
        (place / "preset.py").write_text(PRESET)

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
