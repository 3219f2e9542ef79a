"""Accelerators: the published figures of each chip."""

from __future__ import annotations

from dataclasses import dataclass

GB, GIB = 1e9, 2**30


@dataclass(frozen=True)
class Chip:
    """Published figures of an accelerator. A rate is what the data sheet calls peak: no program reaches it."""

    name: str
    """As in a topology: v5p, h100."""
    flops: float
    """Operations a second in bfloat16, dense, two a multiply-add."""
    hbm: float
    """Bytes of memory that a program may use: what the TPU compiler allows; of a GPU 92 %, for the CUDA context, the
    communicators' buffers and what XLA sets aside (start with XLA_PYTHON_CLIENT_MEM_FRACTION=0.92)."""
    bandwidth: float
    """Bytes a second from and to that memory."""
    link: float
    """Bytes a second that a chip sends through one link to its neighbours (TPU), or to the switch of its host (GPU)."""
    links: int
    """Such links: two for each dimension of the torus; 1 to a switch."""
    outside: float
    """Bytes a second that a chip sends out of its slice or host: its share of the host's network."""
    target: str = ""
    """NVIDIA GPUs: what XLA has to know to compile for one, a GpuTargetConfigProto."""
    platform: str = "tpu"
    """tpu, gpu or cpu."""
    largest: int = 0
    """Chips of the largest slice (TPU)."""


def _nvidia(name: str, capability: str, memory: int, bandwidth: float, **sizes: float) -> str:
    """A GpuTargetConfigProto, after those of XLA's own table (xla/backends/gpu/target_config/specs)."""
    rest = {"fpus_per_core": 128, "shared_memory_per_core": 233472, "shared_memory_per_block_optin": 232448} | sizes
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  device_memory_size: {memory} memory_bandwidth: {round(bandwidth)}
  {" ".join(f"{key}: {value}" for key, value in rest.items())}
  cuda_compute_capability {{ {capability} }}
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 12 }} runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "{name}"
"""


def _gpu(name: str, flops: float, memory: int, bandwidth: float, link: float, outside: float, target: str) -> Chip:
    return Chip(name, flops, 0.92 * memory, bandwidth, link, 1, outside, target, "gpu")


def _hopper(name: str, description: str, memory: int, bandwidth: float) -> Chip:
    target = _nvidia(
        description,
        "major: 9 feature_extension: ACCELERATED_FEATURES",
        memory,
        bandwidth,
        core_count=132,
        l2_cache_size=52428800,
        clock_rate_ghz=1.98,
    )
    return _gpu(name, 989e12, memory, bandwidth, 450 * GB, 50 * GB, target)


A100_MEMORY, B200_MEMORY = 85_100_068_864, 191_514_411_008

CHIPS = {
    chip.name: chip
    for chip in (
        # Peak, memory, bandwidth, one way of a link (the bidirectional figure of cloud.google.com/tpu/docs over twice
        # the ports), links, share of the host's network.
        Chip("v4", 275e12, 30.75 * GIB, 1228 * GB, 50 * GB, 6, 6.25 * GB, largest=4096),
        Chip("v5e", 197e12, 15.75 * GIB, 819 * GB, 50 * GB, 4, 3.125 * GB, largest=256),
        Chip("v5p", 459e12, 95.74 * GIB, 2765 * GB, 100 * GB, 6, 6.25 * GB, largest=6144),
        Chip("v6e", 918e12, 31.25 * GIB, 1638 * GB, 100 * GB, 4, 12.5 * GB, largest=256),
        _gpu(
            "a100",
            312e12,
            A100_MEMORY,
            2039 * GB,
            300 * GB,
            25 * GB,
            _nvidia(
                "NVIDIA A100-SXM4-80GB",
                "major: 8",
                A100_MEMORY,
                2039 * GB,
                core_count=108,
                fpus_per_core=64,
                l2_cache_size=41943040,
                clock_rate_ghz=1.41,
                shared_memory_per_core=167936,
                shared_memory_per_block_optin=166912,
            ),
        ),
        _hopper("h100", "NVIDIA H100 80GB HBM3", 84_942_979_072, 3352 * GB),
        _hopper("h200", "NVIDIA H200 141GB HBM3e", 151_397_597_184, 4800 * GB),
        _gpu(
            "b200",
            2250e12,
            B200_MEMORY,
            7672 * GB,
            900 * GB,
            50 * GB,
            _nvidia(
                "NVIDIA B200",
                "major: 10 feature_extension: ACCELERATED_FEATURES",
                B200_MEMORY,
                7672 * GB,
                core_count=148,
                l2_cache_size=132644864,
                clock_rate_ghz=1.965,
            ),
        ),
    )
}
"""By name."""
