"""How many pages of keys and values there is memory for."""

from __future__ import annotations

import os
from typing import Any

import jax
import numpy as np

from mvjax.engine.limits import EngineConfig
from mvjax.errors import UserError

GIB = 1 << 30
HOST_BYTES = 2 * GIB
"""Pages of a CPU take no more: its memory is not the engine's alone."""


def page_count(model: Any, config: EngineConfig) -> int:
    """Pages of a `PagedStepModel`'s KV streams: those of the configuration, or as many as its share of the memory holds
    beside what lies there now. Where memory decides, few numbers occur, so that compiled programs are found again.

    Raises UserError where there is no room for a page.
    """
    if config.pages is not None:
        return config.pages
    most = config.requests * -(-config.max_slots // model.page_size)
    page = jax.eval_shape(lambda: model.init_pages(1))
    bytes_of_page = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(page))
    replicated = getattr(model, "replicated", None)
    devices = list(replicated.device_set) if replicated is not None else [default_device()]
    room = min(free_bytes(device, config.memory) for device in devices) * len(devices)
    count = room // bytes_of_page
    if devices[0].platform == "cpu":
        count = min(count, most)
    if count < 1:
        raise UserError(
            f"a page of {model.page_size} slots takes {bytes_of_page / GIB:.2g} GiB of keys and values, and "
            f"{max(room, 0) / GIB:.2g} GiB are left for them; raise EngineConfig.memory, or take a smaller model"
        )
    return count if count == most else rounded_down(count)


def default_device() -> Any:
    """Where arrays lie that have no place of their own."""
    chosen = jax.config.jax_default_device  # pyrefly: ignore[missing-attribute]  (made at run time)
    return chosen if hasattr(chosen, "memory_stats") else jax.local_devices()[0]


def free_bytes(device: Any, share: float) -> int:
    """Bytes that pages may take on a device, see `EngineConfig.memory`."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(share * stats["bytes_limit"]) - stats.get("bytes_in_use", 0)
    return min(int(share * host_bytes()), HOST_BYTES)


def host_bytes() -> int:
    """Bytes that are free on the host."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            found = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        return int(found) * 1024
    except (OSError, StopIteration):  # Not Linux.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def rounded_down(count: int) -> int:
    """The largest number of at most five binary digits, zeros behind them, that is no larger."""
    step = 1 << max(int(np.log2(count)) - 4, 0)
    return count // step * step
