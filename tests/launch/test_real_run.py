"""A launcher and the real `mvjax train`: a run that is killed in the middle is finished by the next start."""

import json

import pytest
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model

from mvjax.data.records import Record, write_records

PRESET = """
from mvjax.training.config import TrainConfig
config = TrainConfig(name="tiny").replace(
    model={"path": "tiny.gguf"}, lora={"rank": 2}, loss={"chunk": 64}, optimizer={"learning_rate": 1e-2},
    data={"files": ("data.jsonl",), "row_length": 256, "rows": 2, "levels": 2},
    steps={"total": 40}, checkpoints={"every": 2}, output={"tensorboard": False},
)
"""

MVJAX = """
import threading
def kill_once():
    metrics = "runs/tiny/metrics.jsonl"
    while not (os.path.exists(metrics) and len(open(metrics).readlines()) >= 8):
        time.sleep(0.01)
    open("killed", "w").close()
    os.kill(os.getpid(), 9)
if "--version" not in sys.argv and not os.path.exists("killed"):
    threading.Thread(target=kill_once, daemon=True).start()
from mvjax.cli.main import run
run()
"""


@pytest.mark.slow
def test_a_killed_run_is_finished_by_the_next_start(stage):
    stage.program("mvjax", MVJAX, packages=True)
    config = tiny_config(hidden_size=32, intermediate_size=64)
    write_gguf_model(stage.place / "tiny.gguf", config, tiny_tensors(config), kind="F32")
    text = "Add one to each of them. " * 4
    records = [Record(f"r{i}", ({"role": "user", "content": f"{i}?"},), text, text, "", "test") for i in range(12)]
    write_records(stage.place / "data.jsonl", records)
    (stage.place / "preset.py").write_text(PRESET)
    done = stage.launch("host", "preset.py", cwd=stage.place, MVJAX_SKIP="", JAX_PLATFORMS="cpu", MVJAX_DISK="0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ended with status 137; restart 1 of 3" in done.stderr
    assert "resumed at step" in done.stdout
    lines = (stage.place / "runs" / "tiny" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 40
    assert (stage.place / "runs" / "tiny" / "adapter.safetensors").exists()
    assert len(list(stage.logs.glob("preset-*.log"))) == 2
