"""A run that is killed again and again, at random moments, ends as the one that was left alone."""

import json
import os
import signal
import subprocess
import time
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model

from mvjax.data.records import Record, write_records

pytestmark = pytest.mark.slow
KILLS = 10
PRESET = """
from mvjax.training.config import TrainConfig
config = TrainConfig().replace(
    model={"path": "tiny.gguf"}, lora={"rank": 2}, loss={"chunk": 64}, optimizer={"learning_rate": 1e-3},
    data={"files": ("data.jsonl",), "row_length": 256, "rows": 4, "levels": 2}, mesh={"fsdp": 2},
    steps={"total": 80}, checkpoints={"every": 1, "keep": 2}, output={"tensorboard": False},
)
"""
MVJAX = """
from mvjax.cli.main import run
run()
"""


@pytest.fixture
def ready(stage):
    """A stage with a tiny model, its data and the real mvjax."""
    stage.program("mvjax", MVJAX, packages=True)
    config = tiny_config(hidden_size=32, intermediate_size=64)
    write_gguf_model(stage.place / "tiny.gguf", config, tiny_tensors(config), kind="F32")
    rng = np.random.default_rng(0)
    records = []
    for i in range(200):
        text = "Add one to each of them. " * int(rng.integers(1, 6)) + f"{i}."
        records.append(Record(f"r{i}", ({"role": "user", "content": f"{i}?"},), text, text, "", "test"))
    write_records(stage.place / "data.jsonl", records)
    (stage.place / "preset.py").write_text(PRESET)
    return stage


def start(stage, name: str, processes: int) -> subprocess.Popen:
    """Processes with four devices between them, as `launch/local` starts them."""
    local = Path(__file__).parents[2] / "launch" / "local"
    words = ["--processes", str(processes), "--devices", str(4 // processes), "preset.py", "--name", name]
    environment = os.environ | {"PATH": stage.path, "MVJAX_RESTARTS": "0", "MVJAX_LOGS": str(stage.logs)}
    environment |= {"MVJAX_DISK": "0", "MVJAX_GRACE": "10"}
    return subprocess.Popen(
        [str(local), *words], cwd=stage.place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def trainers(name: str) -> list[int]:
    """The processes that train a run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"train" in words and name.encode() in words:
            found.append(int(path.parent.name))
    return found


def lines(stage, name: str) -> list[dict]:
    """What the run has told of its steps; a line may be half written."""
    path = stage.place / "runs" / name / "metrics.jsonl"
    found = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(text))
        except ValueError:
            continue
    return found


def finish(stage, name: str, processes: int) -> None:
    running = start(stage, name, processes)
    told = running.communicate(timeout=900)[0].decode()
    assert running.returncode == 0, told[-3000:]


def survive(stage, name: str, counts, rng) -> None:
    """Killed KILLS times, a moment after it has made a step or while it makes its first ones; then left to its end."""
    for processes in islice(cycle(counts), KILLS):
        before = len(lines(stage, name))
        running = start(stage, name, processes)
        until = time.monotonic() + 300
        while len(lines(stage, name)) <= before and running.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 1.0))
        for process in rng.permutation(trainers(name)):
            try:
                os.kill(int(process), signal.SIGKILL)
            except ProcessLookupError:
                continue
        running.communicate(timeout=120)
        if running.returncode == 0:
            return
    finish(stage, name, counts[0])


def weights(stage, name: str) -> dict[str, np.ndarray]:
    with safe_open(stage.place / "runs" / name / "adapter.safetensors", "numpy") as file:
        return {key: np.asarray(file.get_tensor(key), np.float32) for key in file.keys()}  # noqa: SIM118


def test_killed_at_random_moments(ready):
    rng = np.random.default_rng()
    finish(ready, "whole", 2)
    whole, wanted = lines(ready, "whole"), weights(ready, "whole")
    survive(ready, "same", [2], rng)
    for name, x in weights(ready, "same").items():
        np.testing.assert_array_equal(x, wanted[name], name)
    survive(ready, "other", [2, 1], rng)
    for name, x in weights(ready, "other").items():
        assert np.abs(x - wanted[name]).max() <= 2**-7 * np.abs(wanted[name]).max(), name  # Adapters are bfloat16.
    for name, bound in (("same", 0), ("other", 1e-5)):
        told = lines(ready, name)
        assert [line["step"] for line in told] == [line["step"] for line in whole]
        for one, other in zip(told, whole):
            assert one["targets"] == other["targets"], one["step"]  # The same documents in the same step.
            assert abs(one["loss"] - other["loss"]) <= bound * other["loss"], (name, one["step"])
