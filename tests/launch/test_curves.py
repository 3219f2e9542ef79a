"""Loss curves of whole runs: every mesh, and several processes, follow the run of one device."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model

from mvjax.curator.sources.synthetic import SyntheticConfig, generate
from mvjax.data.records import Record, write_records

pytestmark = pytest.mark.slow
STEPS = int(os.environ.get("MVJAX_CURVE_STEPS", "3"))
"""Steps of the real model's runs: half a minute each on two cores, so that 50 take 25 minutes a mesh. The tiny model
always makes 50."""
MODEL = os.environ.get("MVJAX_SMOLLM2", "")
MESHES = {
    "data 8": (1, "--mesh.data 8"),
    "fsdp 8": (1, "--mesh.fsdp 8"),
    "tensor 4 x data 2": (1, "--mesh.tensor 4 --mesh.data 2"),
    "context 4 x fsdp 2": (1, "--mesh.context 4 --mesh.fsdp 2"),
    "2 x 2 x 2": (1, "--mesh.data 2 --mesh.fsdp 2 --mesh.tensor 2"),
    "two processes, fsdp 4 x tensor 2": (2, "--mesh.fsdp 4 --mesh.tensor 2"),
}
PRESET = """
from mvjax.training.config import TrainConfig
config = TrainConfig().replace(
    data={{"files": ("data.jsonl",), "row_length": 256, "rows": 8, "levels": 2, "max_bad_share": 1.0}},
    checkpoints={{"every": 10}}, output={{"tensorboard": False}},
).replace({})
"""
LORA = 'lora={"rank": 8}, optimizer={"learning_rate": 1e-4, "tag_multiplier": 5.0}'
FULL = (
    'model={"path": "tiny.gguf"}, steps={"total": 50}, optimizer={"learning_rate": 1e-3, "weight_decay": 0.01}, '
    'loss={"chunk": 64}'
)


ALONE: dict[str, np.ndarray] = {}
"""Losses of one device, by kind of training."""


def curve(stage, name: str, processes: int, devices: int, words: str) -> np.ndarray:
    """Losses of a run, step by step."""
    command = ["--processes", processes, "--devices", devices, "preset.py", "--name", name.replace(" ", "-")]
    local = stage.start("local", *command, *words.split(), cwd=stage.place, MVJAX_SKIP="", MVJAX_DISK="0")
    output, errors = local.communicate()
    assert local.returncode == 0, output[-2000:] + errors[-2000:]
    lines = (stage.place / "runs" / name.replace(" ", "-") / "metrics.jsonl").read_text().splitlines()
    return np.array([json.loads(line)["loss"] for line in lines])


def compare(stage, kind: str, mesh: str, steps: int) -> None:
    """A mesh's losses against those of one device, which is run once for each kind of training."""
    if kind not in ALONE:
        ALONE[kind] = curve(stage, "one", 1, 1, "")
    wanted = ALONE[kind]
    assert len(wanted) == steps
    assert wanted[-1] < wanted[0]
    processes, words = MESHES[mesh]
    got = curve(stage, mesh, processes, 8 // processes, words)
    worst = np.abs(got / wanted - 1).max()
    print(f"{kind}, {mesh}: {steps} steps, loss {wanted[0]:.4f} to {wanted[-1]:.4f}, apart by {worst:.1e} at most")
    assert worst <= 1e-5


@pytest.fixture
def place(stage):
    """A stage where the real mvjax runs."""
    stage.program("mvjax", "from mvjax.cli.main import run\nrun()\n", packages=True)
    return stage


@pytest.mark.parametrize("mesh", MESHES)
def test_all_weights_of_a_tiny_model(place, mesh):
    # Heads and vocabulary that four chips can share.
    config = tiny_config("qwen2", hidden_size=64, num_attention_heads=8, num_key_value_heads=4, tied=False)
    tensors = {name: 0.05 * x if x.ndim > 1 else x * 0 + ("norm" in name) for name, x in tiny_tensors(config).items()}
    write_gguf_model(place.place / "tiny.gguf", config, tensors, kind="F32")
    rng = np.random.default_rng(0)
    records = []
    for i in range(400):
        text = "Add one to each of them. " * int(rng.integers(1, 6)) + f"{i}."
        records.append(Record(f"r{i}", ({"role": "user", "content": f"{i}?"},), text, text, "", "test"))
    write_records(place.place / "data.jsonl", records)
    (place.place / "preset.py").write_text(PRESET.format(FULL))
    compare(place, "all weights", mesh, 50)


@pytest.mark.skipif(not MODEL, reason="MVJAX_SMOLLM2 names no model")
@pytest.mark.parametrize("mesh", MESHES)
def test_adapters_of_a_real_model(place, mesh):
    records = generate(SyntheticConfig(degree=(2, 2), length=(1, 2), nesting=(0, 0), seed=1), 400)
    write_records(place.place / "data.jsonl", list(records))
    (place.place / "preset.py").write_text(
        PRESET.format(f'model={{"path": {str(Path(MODEL).resolve())!r}}}, steps={{"total": {STEPS}}}, {LORA}')
    )
    compare(place, "adapters", mesh, STEPS)
