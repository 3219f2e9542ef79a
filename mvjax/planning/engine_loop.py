"""The engine's generation loop on shapes, for chips that are not here: the program that an engine of these sizes runs,
from the engine's own code."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding

from mvjax.engine.kv_cache import KVCache
from mvjax.engine.limits import EngineConfig
from mvjax.engine.model_runner import ModelRunner
from mvjax.engine.program_cache import Program, ProgramCache
from mvjax.engine.tables import Tables
from mvjax.models import DecoderStepModel, TensorParallelModel
from mvjax.models.kv_arrays import KVArrays


class DescribedPrograms(ProgramCache):
    """An engine's programs, whose results are shapes: nothing is compiled or run."""

    def run(self, program: Program) -> Any:
        return jax.eval_shape(program.function, *program.arguments)


def engine_loop(
    model: DecoderStepModel, device: jax.Device, config: EngineConfig, tables: Tables, rows: int
) -> Program:
    """The loop of an engine with all its requests, its arguments as shapes with the places where they lie.

    Args:
        model: with shapes for parameters (`described`).
        device: the described chip, or the first of those that share the model.
        config: `requests` streams of `max_slots` slots in `pages` pages.
        tables: over the vocabulary; only their shapes count.
        rows: of the batch.
    """
    with jax.default_device(device):
        programs = DescribedPrograms()
        cache = KVCache(model, config, programs, tables.number.shape[1])
        cache.allocate()
        cache.refresh_table()
        runner = ModelRunner(model, config, cache, programs, tables, model.params)
        loop = runner.decode_program(rows, 0, config.sync_steps)
    everywhere = getattr(model, "replicated", None) or SingleDeviceSharding(device)
    return loop._replace(arguments=tuple(placed(argument, model, everywhere) for argument in loop.arguments))


def placed(argument: Any, model: DecoderStepModel, everywhere: Sharding) -> Any:
    """An argument's arrays as shapes with their places: keys and values as the model splits them, parameters where
    they say, anything else on every device."""
    if isinstance(argument, KVArrays) and isinstance(model, TensorParallelModel):
        return jax.tree.map(described, argument, model.kv_places(argument))
    return jax.tree.map(lambda leaf: described(leaf, getattr(leaf, "sharding", None) or everywhere), argument)


def described(array: Any, place: Sharding) -> jax.ShapeDtypeStruct:
    """An array's shape and type, and where it lies."""
    return jax.ShapeDtypeStruct(np.shape(array), jnp.result_type(array), sharding=place)


def on_chip(tree: Any) -> int:
    """Bytes on each chip of a tree of placed shapes."""
    return sum(x.dtype.itemsize * x.size for x in jax.tree.leaves(chip_part(tree)))


def chip_part(tree: Any) -> Any:
    """Each chip's part of a tree of placed shapes, as shapes."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.sharding.shard_shape(x.shape), x.dtype), tree)
