"""How a model that generates is kept on the devices: options that its commands share. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

WeightDtype = Literal["auto", "float32", "bfloat16", "int8", "fp8"]
"""Number formats of weights; auto: float32 on CPUs, where bfloat16 is slower, bfloat16 elsewhere."""
KVDtype = Literal["auto", "float32", "bfloat16", "int8"]
"""Number formats of keys and values; auto: that of the activations."""


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """What is common to the options of commands that generate."""

    tensor_parallel: int | None = None
    """Devices that share the model, each with a part of every layer (2, 4, 8); as few as hold it where it is not given,
    which is one on CPUs."""
    weight_dtype: WeightDtype = "auto"
    """Number format of weights and activations; auto: float32 on CPUs and bfloat16 elsewhere. int8, fp8: matrices with
    a byte a weight and a scale for each row, made while the model is loaded; all else stays as with auto."""
    kv_dtype: KVDtype = "auto"
    """Number format of keys and values. int8: with a scale for each slot and head; auto: that of the activations."""

    @property
    def loading(self) -> dict[str, Any]:
        """Options of `mvjax.load`."""
        names = ("tensor_parallel", "weight_dtype", "kv_dtype")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class ServedStreams:
    """What is common to the options of commands that answer requests of any length."""

    memory: float = 0.9
    """Share of a device's memory that weights, keys and values may take. On CPUs: of the free memory, for keys and
    values, which take no more than 2 GiB."""


@dataclass(frozen=True, kw_only=True)
class ServedReplicas:
    """What is common to the options of commands that answer many requests at once."""

    replicas: int | None = None
    """Groups of --tensor-parallel devices that have the whole model each and answer requests of one queue; as many as
    there are devices for where it is not given, one on CPUs."""
