"""Copies of a model on further devices, for requests beside those that the first one answers."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from mvjax.errors import UserError
from mvjax.models.decode import DecoderStepModel
from mvjax.models.tensor_parallel import TensorParallelModel
from mvjax.models.tensor_split import tensor_mesh


def copies(
    model: DecoderStepModel, count: int | None = None, devices: Sequence[jax.Device] | None = None
) -> list[DecoderStepModel]:
    """A model, and copies of it on further devices, as many of them as it has itself for each.

    Weights go from device to device. Every model computes the same.

    Args:
        count: how many models there are to be; None: as many as the devices suffice for, one on CPUs.
        devices: by default those of this process; the model is on the first of them.

    Raises:
        UserError: the devices are too few.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    config, size = model.config, 1
    if isinstance(model, TensorParallelModel):
        config, size = model.split.config, model.mesh.size
    most = len(devices) // size
    if count is None:
        count = 1 if devices[0].platform == "cpu" else most
    if not 1 <= count <= most:
        raise UserError(
            f"{count} replicas of {size} {'devices' if size > 1 else 'device'} each: there are {len(devices)} "
            f"{devices[0].platform} devices here; give at most {most}"
        )
    return [model, *(copy_on(model, config, devices[at * size : (at + 1) * size]) for at in range(1, count))]


def copy_on(model: DecoderStepModel, config, devices: Sequence[jax.Device]) -> TensorParallelModel:
    """The model on other devices."""
    copy = TensorParallelModel(config, tensor_mesh(len(devices), devices), **model.settings)
    copy.params = jax.tree.map(lambda leaf, shape: jax.device_put(leaf, shape.sharding), model.params, copy.params)
    return copy
