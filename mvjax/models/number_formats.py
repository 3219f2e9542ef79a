"""Number formats of a model that generates: of its weights, its activations, its keys and values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from mvjax_kernels import backends

from mvjax.errors import UserError

FLOATS = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(jnp.bfloat16)}
QUANTISED = {"int8": np.dtype(np.int8), "fp8": np.dtype(jnp.float8_e4m3fn)}
LARGEST = {QUANTISED["int8"]: 127.0, QUANTISED["fp8"]: 448.0}
"""Largest number that a quantised weight may be, before its scale."""


@dataclass(frozen=True)
class NumberFormats:
    """Element types of what is on the devices."""

    weights: np.dtype
    """Of matrices; where it is quantised each has a scale for each row, float32."""
    activations: np.dtype
    """Of activations, and of norms and biases."""
    kv: np.dtype
    """Of keys and values; where it is int8 they have a scale for each slot and head, float32."""

    @property
    def quantised(self) -> bool:
        """Whether matrices have scales."""
        return self.weights in LARGEST


def number_formats(weight_dtype: Any = "auto", kv_dtype: Any = "auto") -> NumberFormats:
    """The formats that two options stand for on JAX's default device, which may be a described one.

    weight_dtype: "auto" (float32 on CPUs, where bfloat16 is slower, bfloat16 elsewhere), "int8", "fp8", or the name or
        type of floating-point numbers, which activations then have too; those of quantised weights are as with "auto".
    kv_dtype: "auto" (that of the activations), "int8", or floating-point numbers.
    Raises UserError for another, and for "fp8" on a device that does not compute with it.
    """
    auto = FLOATS["float32" if backends.platform() == "cpu" else "bfloat16"]
    weights = QUANTISED.get(weight_dtype) if isinstance(weight_dtype, str) else None
    if weights is None:
        activations = weights = auto if weight_dtype in ("auto", None) else floats("weight", weight_dtype, QUANTISED)
    else:
        activations = auto
    if weights == QUANTISED["fp8"] and (reason := no_fp8(backends.device())):
        raise UserError(f"weight dtype fp8: {reason}; use int8")
    if kv_dtype in ("auto", None):
        kv = activations
    else:
        kv = QUANTISED["int8"] if kv_dtype == "int8" else floats("kv", kv_dtype, ("int8",))
    return NumberFormats(weights, activations, kv)


def floats(what: str, dtype: Any, others: Any) -> np.dtype:
    """A floating-point type by its name, or itself."""
    found = FLOATS.get(dtype) if isinstance(dtype, str) else np.dtype(dtype)
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise UserError(f"{what} dtype {dtype}: use one of {', '.join(['auto', *FLOATS, *others])}")
    return found


def no_fp8(device: jax.Device) -> str | None:
    """Why a device does not compute with float8_e4m3fn; None if it does.

    NVIDIA's GPUs do from compute capability 8.9 on (CUDA C++ Programming Guide), TPUs from the seventh generation on
    (cloud.google.com/tpu/docs/tpu7x).
    """
    if device.platform == "cpu":
        return "processors do not compute with it"
    if device.platform == "tpu":
        generation = re.search(r"\d+", device.device_kind)
        return None if generation and int(generation[0]) >= 7 else f"{device.device_kind} chips do not compute with it"
    capability = getattr(device, "compute_capability", None)
    if capability is not None and float(capability) < 8.9:
        return f"GPUs of compute capability {capability} do not compute with it"
    return None
