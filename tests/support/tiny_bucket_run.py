"""A run of a model of one matrix in a bucket; as a program, one that stops for good before a step."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from tiny_training import ROW, RandomBatches, make_simple_model

from mvjax.data.packing import Batch
from mvjax.storage import StoragePath
from mvjax.training.config import TrainConfig
from mvjax.training.mesh import make_placement
from mvjax.training.train import RunResult, fit

STEPS, STOP = 15, 10


class Stopping(RandomBatches):
    """Says so before step STOP, and goes no further."""

    def __next__(self) -> Batch:
        if self.position == STOP:
            print("stopped", flush=True)
            time.sleep(600)
        return super().__next__()


def write_matrix(result: RunResult, _: StoragePath) -> Path:
    """What the run was for."""
    path = result.directory / "matrix.npy"
    np.save(path, np.asarray(result.state.params["matrix"]))
    return path


def train(directory: str, name: str, batches: RandomBatches) -> RunResult:
    """STEPS steps of the run `directory`/`name`, with a checkpoint every third step."""
    config = TrainConfig(name=name).replace(
        data={"rows": 4, "row_length": ROW, "levels": 2},
        loss={"chunk": 16},
        optimizer={"learning_rate": 1e-2},
        checkpoints={"every": 3, "keep": 2},
        output={"directory": directory, "tensorboard": False},
    )
    placement = make_placement(config.mesh)
    return fit(config.validate(), make_simple_model(), placement, batches, STEPS, finish=write_matrix)


if __name__ == "__main__":
    train(*sys.argv[1:], Stopping())
