"""From data batches to arrays on the mesh: micro-batches, and each process its own rows."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding

from mvjax.data.packing import Batch
from mvjax.errors import UserError
from mvjax.models.placement import Placement
from mvjax.training.config import TrainConfig
from mvjax.training.loss import Targets
from mvjax.training.mesh import batch_parts
from mvjax.training.step import StepBatch, step_batch_sharding


def check_rows(config: TrainConfig, placement: Placement) -> None:
    """UserError where the mesh does not divide the rows of a micro-batch, or the text of a row."""
    micro, parts = config.rows // config.accumulation, batch_parts(placement)
    if micro % parts:
        raise UserError(
            f"config: micro-batches of {micro} rows cannot be split over {parts} devices; change rows, accumulation, "
            "data_parallel or fsdp"
        )
    chunks = 2 * config.context_parallel * config.context_rounds if config.context_parallel > 1 else 1
    pieces = chunks * config.tensor_parallel
    if config.row_length % pieces:
        raise UserError(
            f"config: row_length = {config.row_length} does not split into {pieces} pieces (context_parallel, "
            "context_rounds, tensor_parallel); make it a multiple"
        )


def shard_batch(
    batch: Batch, accumulation: int, placement: Placement, *, rows: int = 0, here: Sequence[int] | None = None
) -> StepBatch:
    """A data batch as micro-batches on the devices; micro-batch a takes rows a, a + A, a + 2A, ...

    Args:
        batch: the rows of the step that this process's devices need.
        rows: rows of the whole step; 0: as many as the batch has.
        here: numbers of the rows that the batch holds; None: all.
    """
    rows = rows or len(batch.tokens_BT)
    place_of = {row: place for place, row in enumerate(range(rows) if here is None else here)}
    predecessor_BT, T = batch.predecessor_BT, batch.tokens_BT.shape[1]
    order_T = placement.split.order(T)
    where_T = np.argsort(order_T).astype(np.int32)
    numbers = batch.tokens_BT, batch.positions_BT, where_T[predecessor_BT], batch.loss_BT.astype(np.float32)
    tokens, positions, predecessor, weight, part = (x[:, order_T] for x in (*numbers, batch.part_BT))

    def put(x_BX: np.ndarray, sharding: NamedSharding) -> jax.Array:
        shape = (accumulation, rows // accumulation, *x_BX.shape[1:])

        def part_of(index):
            micros, places = (range(*piece.indices(size)) for piece, size in zip(index[:2], shape[:2]))
            taken = [[place_of[place * accumulation + micro] for place in places] for micro in micros]
            return x_BX[np.asarray(taken)][(slice(None), slice(None), *index[2:])]

        return jax.make_array_from_callback(shape, sharding, part_of)

    whole = StepBatch(
        tokens, positions, batch.hide_start_BET, batch.hide_end_BET, Targets(tokens, predecessor, weight, part)
    )
    return jax.tree.map(put, whole, step_batch_sharding(placement))
