"""Configurations of tiny runs."""

import pytest
from tiny_training import ROW

from mvjax.training.config import TrainConfig


@pytest.fixture
def make_config(tmp_path):
    """Configurations of runs under the test's directory."""

    def make(**fields) -> TrainConfig:
        base = {"output": str(tmp_path / "runs"), "rows": 4, "row_length": ROW, "learning_rate": 1e-2, "lora_rank": 4}
        base |= {"tensorboard": False, "loss_chunk": 16, "steps_per_save": 1000, "warmup": 0.1, "devices": 1}
        return TrainConfig(**(base | fields)).check()

    return make
