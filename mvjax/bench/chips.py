"""Described accelerators to compile for: no device is needed, libtpu or the CUDA plugin is."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from collections.abc import Iterator

import jax

from mvjax.errors import UserError

TPUS = ("v5e:2x2", "v5p:2x2x1", "v6e:2x2")

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 12 } runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def tpu(name: str) -> jax.Device:
    """The first chip of a described TPU slice."""
    return tpu_slice(name)[0]


@functools.cache
def tpu_slice(name: str) -> list[jax.Device]:
    """The chips of a described TPU slice.

    Raises:
        UserError: libtpu is missing, or knows no such slice.
    """
    from jax.experimental import topologies

    if importlib.util.find_spec("libtpu") is None:
        raise UserError("libtpu is not installed: pip install 'mvjax[tpu]'")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        raise UserError(f"libtpu knows no slice {name!r} (such as {', '.join(TPUS)}): {error}") from error


@functools.cache
def h100() -> jax.Device:
    """A described H100."""
    from jax.experimental import topologies

    shape = "1x1x1"
    return topologies.get_topology_desc(
        platform="cuda", topology_name=shape, topology=shape, target_config=H100
    ).devices[0]


@contextlib.contextmanager
def uncached() -> Iterator[None]:
    """Without the compilation cache: it cannot read back programs for chips that are not here, and complains."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def compile_for(device: jax.Device, function, *arrays, any_layout: bool = False, donate: tuple[int, ...] = ()):
    """The program of a function on shapes, compiled for a chip that need not be here.

    any_layout: the compiler chooses how arguments and results lie in memory, as it does inside a larger program.
    """
    from jax.experimental.layout import Format, Layout
    from jax.sharding import SingleDeviceSharding

    place = SingleDeviceSharding(device)
    if any_layout:
        place = Format(Layout.AUTO, place)
    platform = "cuda" if device.platform == "gpu" else device.platform
    with jax.default_device(device), uncached():
        traced = jax.jit(function, in_shardings=place, out_shardings=place, donate_argnums=donate).trace(*arrays)
        return traced.lower(lowering_platforms=(platform,)).compile()
