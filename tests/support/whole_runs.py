"""Runs of `mvjax train` in processes of their own: what they hold, and what they compile."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model
from virtual_devices import xla_flags

from mvjax.data.records import Record, write_records
from mvjax.training.config import TrainConfig

ROOT = Path(__file__).parents[2]
MODEL = {"hidden_size": 256, "intermediate_size": 1024, "head_dim": 64}
"""Two million weights: beside them a batch is nothing."""


def write_files(place: Path) -> None:
    """A model and its data."""
    config = tiny_config(**MODEL)
    write_gguf_model(place / "tiny.gguf", config, tiny_tensors(config), kind="F32")
    rng = np.random.default_rng(0)
    texts = ["Add one. " * int(rng.integers(1, 4)) + f"{i}." for i in range(60)]
    records = [Record(f"r{i}", ({"role": "user", "content": f"{i}?"},), t, t, "", "") for i, t in enumerate(texts)]
    write_records(place / "data.jsonl", records)


def whole_config(place: Path, **changes) -> TrainConfig:
    """A run of these files."""
    base = TrainConfig().replace(
        model={"path": str(place / "tiny.gguf")},
        data={"files": (str(place / "data.jsonl"),), "row_length": 128, "rows": 8, "levels": 2},
        loss={"chunk": 32},
        steps={"total": 4},
        checkpoints={"every": 2},
        output={"directory": str(place / "runs"), "tensorboard": False},
    )
    return base.replace(**changes).validate()


def start(script: str, *arguments: str, devices: int = 8, **environment: str) -> subprocess.Popen:
    """A Python process with virtual devices, and no compilation cache but the run's own."""
    paths = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "tests" / "support"), os.environ.get("PYTHONPATH", "")]
    variables = (
        os.environ
        | {"XLA_FLAGS": xla_flags(devices, "--xla_backend_optimization_level=0"), "JAX_PLATFORMS": "cpu"}
        | environment
    )
    variables["PYTHONPATH"] = os.pathsep.join(paths)
    variables.pop("JAX_COMPILATION_CACHE_DIR", None)
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def live_bytes() -> list[int]:
    """Bytes of the arrays that are on each of this process's devices, buffers that several arrays share once."""
    import jax

    buffers = {
        (shard.device.id, shard.data.unsafe_buffer_pointer()): shard.data.nbytes
        for array in jax.live_arrays()
        if not array.is_deleted()
        for shard in array.addressable_shards
    }
    held = Counter(dict.fromkeys((device.id for device in jax.local_devices()), 0))
    for (device, _), nbytes in buffers.items():
        held[device] += nbytes
    return [nbytes for _, nbytes in sorted(held.items())]


class Programs:
    """Counts what JAX's compiler is asked for."""

    EVENTS = ("compile_requests_use_cache", "cache_hits")

    def __init__(self):
        import jax

        self._seen: Counter[str] = Counter()
        jax.monitoring.register_event_listener(lambda event, **_: self._seen.update([event]))

    def take(self) -> tuple[int, int]:
        """Programs asked for since the last call, and those of them that the persistent cache had."""
        asked, found = (self._seen.pop(f"/jax/compilation_cache/{event}", 0) for event in self.EVENTS)
        return asked, found
