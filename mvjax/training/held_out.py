"""The loss on text that is not trained on: measured every so many steps, by part of the transcript."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from mvjax.data.pipeline import PackedBatches
from mvjax.data.schedule import Position, RowSchedule
from mvjax.language import PARTS
from mvjax.models.placement import Placement
from mvjax.training.batch import abstract_batch, shard_batch
from mvjax.training.config import TrainConfig
from mvjax.training.loss import LossSums
from mvjax.training.model import TrainableModel
from mvjax.training.step import make_evaluation

LOSS = "held_out_loss"
"""The field of a line of metrics that says which parameters are best."""


class Best(NamedTuple):
    """The step with the least loss on held-out text, among those that have a checkpoint."""

    step: int
    loss: float


class HeldOut:
    """Measures the parameters of the moment on one pass over held-out records: the same batches each time.

    All processes of a run call it at the same steps.

    Args:
        config: its `held_out`, and the shapes of its batches.
        dataset: the records, this process's rows of each batch.
        model: what is trained.
        placement: the mesh.
    """

    def __init__(self, config: TrainConfig, dataset: PackedBatches, model: TrainableModel, placement: Placement):
        self._config, self._dataset, self._placement = config, dataset, placement
        self._every = config.held_out.every or config.checkpoints.every
        schedule = dataset.schedule
        assert isinstance(schedule, RowSchedule)
        rows = schedule.rows_in(1)
        batches = -(-rows // config.data.rows)
        self.batches = min(batches, config.held_out.batches or batches)
        """Batches that are measured."""
        self._rows = rows
        self._evaluate = make_evaluation(model, placement, config.loss)

    def compile(self, params: dict[str, Array], frozen: Any) -> None:
        """Compile the program ahead of the first step."""
        self._evaluate = self._evaluate.lower(params, frozen, abstract_batch(self._config.data)).compile()

    def due(self, step: int, last: bool) -> bool:
        """Whether the parameters are measured after this step; always after the last one."""
        return last or step % self._every == 0

    def __call__(self, params: dict[str, Array], frozen: Any) -> dict[str, float]:
        """Fields of a line of metrics: mean cross-entropy in nats and accuracy, of all targets and by part; a part
        without a target is nan."""
        data, position = self._config.data, Position(0, 0)
        total: Any = None
        for number in range(self.batches):
            batch, _, position = self._dataset.batch_at(position)
            # Rows of the last batch that belong to the next pass do not count: every record counts once.
            inside = [number * data.rows + row < self._rows for row in self._dataset.rows]
            batch = batch._replace(loss_BT=batch.loss_BT & np.array(inside)[:, None])
            sharded = shard_batch(batch, data.accumulation, self._placement, rows=data.rows, local=self._dataset.rows)
            sums = jax.device_get(self._evaluate(params, frozen, sharded))
            sums = jax.tree.map(np.float64, sums)
            total = sums if total is None else jax.tree.map(np.add, total, sums)
        return summary(total)


def summary(sums: LossSums) -> dict[str, float]:
    """Means of sums over held-out text."""
    targets = float(sums.counts_P.sum())

    def mean(amount: Any, count: Any) -> float:
        return float(amount) / float(count) if count else float("nan")

    found = {LOSS: mean(sums.parts_P.sum(), targets), "held_out_accuracy": mean(sums.correct_P.sum(), targets)}
    for index, part in enumerate(PARTS):
        if part != "prompt":
            found[f"{LOSS}_{part}"] = mean(sums.parts_P[index], sums.counts_P[index])
            found[f"held_out_accuracy_{part}"] = mean(sums.correct_P[index], sums.counts_P[index])
    return found | {"held_out_targets": int(targets)}
