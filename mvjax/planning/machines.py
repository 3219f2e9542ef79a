"""Described machines to compile for, none of which need be here.

Compiling for a TPU slice takes libtpu, for a host with NVIDIA GPUs the CUDA plugin (`pip install 'mvjax[aot]'`).
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import math
import os
import re
from collections.abc import Generator
from dataclasses import dataclass

import jax

from mvjax.chips import CHIPS, Chip
from mvjax.errors import UserError

GPUS_PER_HOST = 8

TPUS = ("v5e:2x2", "v5p:2x2x1", "v6e:2x2")
"""Small slices, one of each kind that is rented today."""

ALONE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
}
"""Environment of libtpu where no TPU is: it does not ask for the machine that it runs on, nor complain that there is
none. The type is not that of the slices it compiles for."""


@dataclass(frozen=True)
class Machine:
    """A described slice, several of them, or GPU hosts."""

    name: str
    """Such as v5p:4x4x8."""
    chip: Chip
    devices: tuple[jax.Device, ...]
    """All its chips."""
    slices: int = 1
    """Slices that are joined by the data-centre network."""

    @property
    def title(self) -> str:
        """In words."""
        each = f"{self.slices} slices of " if self.slices > 1 else ""
        return f"{each}{self.name}, {len(self.devices)} chip{'s' * (len(self.devices) > 1)}"


def machine(name: str, slices: int = 1) -> Machine:
    """A described machine: `v5p:4x4x8` is a TPU slice of 4 x 4 x 8 chips, `h100:8` a host of 8 GPUs, `cpu:1` one
    device of this host's processor.

    Raises:
        UserError: no such chip, a shape that it does not come in, or the compiler for it is not installed.
    """
    kind, _, shape = name.partition(":")
    if kind == "cpu":
        return here(name, shape)
    if kind not in CHIPS:
        known = ", ".join([*CHIPS, "cpu"])
        raise UserError(f"topology {name!r}: the chip must be one of {known}, as in v5p:4x4x8 or h100:8")
    chip = CHIPS[kind]
    if chip.platform == "tpu":
        dimensions = chip.links // 2
        if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape) or len(shape.split("x")) != dimensions:
            example = {2: f"{kind}:4x4", 3: f"{kind}:4x4x8"}[dimensions]
            raise UserError(f"topology {name!r}: a {kind} slice has {dimensions} dimensions, as in {example}")
        if math.prod(int(size) for size in shape.split("x")) > chip.largest:
            raise UserError(f"topology {name!r}: a {kind} slice has at most {chip.largest:,} chips; give more --slices")
        return Machine(name, chip, tuple(tpu_slice(name, slices)), slices)
    if not re.fullmatch(r"[1-9]\d*", shape) or (int(shape) > GPUS_PER_HOST and int(shape) % GPUS_PER_HOST):
        raise UserError(f"topology {name!r}: GPUs are counted, as in {kind}:8; beyond one host in steps of 8")
    if slices > 1:
        raise UserError(f"topology {name!r}: slices are of TPUs; for several GPU hosts give {kind}:16 or more")
    return Machine(name, chip, tuple(gpus(kind, int(shape))))


def here(name: str, count: str) -> Machine:
    """The devices of this host's processor, which share its memory; there are no published figures of their rates."""
    devices = jax.devices("cpu")
    if not re.fullmatch(r"[1-9]\d*", count):
        raise UserError(f"topology {name!r}: a processor's devices are counted, as in cpu:1")
    if count != str(len(devices)):
        raise UserError(
            f"topology {name!r}: the processor stands for {len(devices)} device{'s' * (len(devices) > 1)}; "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={count} changes that"
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    chip = Chip("cpu", 0.0, memory / len(devices), 0.0, 0.0, 0, 0.0, platform="cpu")
    return Machine(name, chip, tuple(devices))


def tpu(name: str) -> jax.Device:
    """The first chip of a described TPU slice."""
    return tpu_slice(name)[0]


@functools.cache
def tpu_slice(name: str, slices: int = 1) -> list[jax.Device]:
    """The chips of described TPU slices.

    Raises:
        UserError: libtpu is missing, or knows no such slice.
    """
    from jax.experimental import topologies

    if importlib.util.find_spec("libtpu") is None:
        raise UserError("compiling for TPUs takes libtpu, which is not installed: pip install 'mvjax[aot]'")
    for variable, value in ALONE.items():
        os.environ.setdefault(variable, value)
    options = {"num_slices": slices} if slices > 1 else {}
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"libtpu knows no slice {name!r} (such as {', '.join(TPUS)}): {reason}") from error


def h100() -> jax.Device:
    """A described H100."""
    return gpus("h100", 1)[0]


@functools.cache
def gpus(kind: str, count: int) -> list[jax.Device]:
    """Described NVIDIA GPUs, eight a host.

    Raises:
        UserError: the CUDA plugin is missing.
    """
    from jax.experimental import topologies

    hosts = math.ceil(count / GPUS_PER_HOST)
    shape = f"1x{hosts}x{count // hosts}"
    try:
        described = topologies.get_topology_desc(
            platform="cuda", topology_name=shape, topology=shape, target_config=CHIPS[kind].target
        )
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"compiling for GPUs takes JAX's CUDA plugin: pip install 'mvjax[aot]' ({reason})") from error
    return described.devices


@contextlib.contextmanager
def uncached() -> Generator[None]:
    """Without the compilation cache: it cannot read back programs for chips that are not here, and complains."""
    before = jax.config.jax_enable_compilation_cache  # pyrefly: ignore[missing-attribute]  (made at run time)
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def lowering_platform(device: jax.Device) -> str:
    """The name by which JAX lowers for a device."""
    return "cuda" if device.platform == "gpu" else device.platform


def compile_for(device: jax.Device, function, *arrays, any_layout: bool = False, donate: tuple[int, ...] = ()):
    """The program of a function on shapes, compiled for a chip that need not be here.

    any_layout: the compiler chooses how arguments and results lie in memory, as it does inside a larger program.
    """
    from jax.experimental.layout import Format, Layout
    from jax.sharding import SingleDeviceSharding

    place = SingleDeviceSharding(device)
    if any_layout:
        place = Format(Layout.AUTO, place)
    with jax.default_device(device), uncached():
        traced = jax.jit(function, in_shardings=place, out_shardings=place, donate_argnums=donate).trace(*arrays)
        return traced.lower(lowering_platforms=(lowering_platform(device),)).compile()


def temporaries(program: jax.stages.Compiled) -> int:
    """Bytes that a compiled program needs beside its arguments and results; ValueError where that is unknown."""
    memory = program.memory_analysis()
    if memory is None:
        raise ValueError("this compiler does not say how much memory a program needs")
    return memory.temp_size_in_bytes
