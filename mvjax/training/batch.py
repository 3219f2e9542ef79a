"""From data batches to arrays on the mesh: micro-batches, and each process its own rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Int

from mvjax.data.packing import Batch
from mvjax.errors import UserError
from mvjax.models.placement import Placement
from mvjax.training.config import DataConfig, TrainConfig
from mvjax.training.loss import Targets
from mvjax.training.mesh import batch_parts, batch_sharding


class StepBatch(NamedTuple):
    """A step's rows, split into micro-batches: arrays [accumulation A, rows B, ...]."""

    tokens_ABT: Int[Array, "A B T"]
    positions_ABT: Int[Array, "A B T"]
    hide_start_ABET: Int[Array, "A B E T"]
    hide_end_ABET: Int[Array, "A B E T"]
    targets: Targets


def step_batch_sharding(placement: Placement) -> StepBatch:
    """Rows over the batch axes; all that is one number a token along the text too, the intervals whole."""
    text, row = batch_sharding(placement, "length"), batch_sharding(placement)
    return StepBatch._make((text, text, row, row, Targets._make((text, text, text, text))))


def abstract_batch(config: DataConfig) -> StepBatch:
    """Shapes and types of a step's batch, as `shard_batch` makes it."""
    A, B, T = config.accumulation, config.rows // config.accumulation, config.row_length

    def array(dtype, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((A, B, *shape), dtype)

    token = array(jnp.int32, T)
    levels = array(jnp.int32, config.levels, T)
    targets = Targets._make((token, token, array(jnp.float32, T), array(jnp.int8, T)))
    return StepBatch._make((token, token, levels, levels, targets))


def batch_words(config: DataConfig) -> str:
    """What a step holds, in words."""
    rows = f"{config.rows} x {config.row_length} tokens"
    if config.transcripts_per_step:
        return f"{config.transcripts_per_step} transcripts in {rows}"
    return f"at most {config.tokens_per_step} tokens in {rows}" if config.tokens_per_step else rows


def check_rows(config: TrainConfig, placement: Placement) -> None:
    """UserError where the mesh does not divide the rows of a micro-batch, or the text of a row."""
    data, mesh = config.data, config.mesh
    micro, parts = data.rows // data.accumulation, batch_parts(placement)
    if micro % parts:
        raise UserError(
            f"config: micro-batches of {micro} rows cannot be split over {parts} devices; change data.rows, "
            "data.accumulation, mesh.data or mesh.fsdp"
        )
    chunks = 2 * mesh.context * mesh.context_rounds if mesh.context > 1 else 1
    pieces = chunks * mesh.tensor
    if data.row_length % pieces:
        raise UserError(
            f"config: data.row_length = {data.row_length} does not split into {pieces} pieces (mesh.context, "
            "mesh.context_rounds, mesh.tensor); make it a multiple"
        )


def shard_batch(
    batch: Batch, accumulation: int, placement: Placement, *, rows: int = 0, local: Sequence[int] | None = None
) -> StepBatch:
    """A data batch as micro-batches on the devices; micro-batch a takes rows a, a + A, a + 2A, ...

    Args:
        batch: the rows of the step that this process's devices need.
        rows: rows of the whole step; 0: as many as the batch has.
        local: numbers of the rows that the batch holds; None: all.
    """
    rows = rows or len(batch.tokens_BT)
    index_of = {row: index for index, row in enumerate(range(rows) if local is None else local)}
    predecessor_BT, T = batch.predecessor_BT, batch.tokens_BT.shape[1]
    order_T = placement.split.order(T)
    where_T = np.argsort(order_T).astype(np.int32)
    numbers = batch.tokens_BT, batch.positions_BT, where_T[predecessor_BT], batch.loss_BT.astype(np.float32)
    tokens, positions, predecessor, weight, part = (x[:, order_T] for x in (*numbers, batch.part_BT))

    def put(x_BX: np.ndarray, sharding: NamedSharding) -> jax.Array:
        shape = (accumulation, rows // accumulation, *x_BX.shape[1:])

        def shard(index):
            micros, places = (range(*piece.indices(size)) for piece, size in zip(index[:2], shape[:2]))
            taken = [[index_of[place * accumulation + micro] for place in places] for micro in micros]
            return x_BX[np.asarray(taken)][(slice(None), slice(None), *index[2:])]

        return jax.make_array_from_callback(shape, sharding, shard)

    targets = Targets._make((tokens, predecessor, weight, part))
    whole = StepBatch._make((tokens, positions, batch.hide_start_BET, batch.hide_end_BET, targets))
    return jax.tree.map(put, whole, step_batch_sharding(placement))
