"""Configurations of tiny runs."""

import jax
import pytest
from tiny_training import ROW

from mvjax.training.config import TrainConfig


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Many runs here compile the same programs."""
    settings = {"jax_compilation_cache_dir": str(tmp_path_factory.mktemp("jax"))}
    settings |= {"jax_persistent_cache_min_compile_time_secs": 0, "jax_persistent_cache_min_entry_size_bytes": -1}
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture
def make_config(tmp_path):
    """Configurations of runs under the test's directory."""

    base = TrainConfig().replace(
        lora={"rank": 4},
        data={"rows": 4, "row_length": ROW, "levels": 2},
        loss={"chunk": 16},
        optimizer={"learning_rate": 1e-2, "warmup": 0.1},
        checkpoints={"every": 1000},
        output={"directory": str(tmp_path / "runs"), "tensorboard": False},
    )

    def make(**changes) -> TrainConfig:
        return base.replace(**changes).validate()

    return make
