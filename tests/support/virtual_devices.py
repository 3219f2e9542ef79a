"""Processes with several virtual devices."""

import os


def xla_flags(devices: int, *more: str) -> str:
    """XLA's flags for a process with so many devices; those that are set already stay, and count less.

    Collectives of virtual devices wait for each other: jax 0.12's scheduler may start them in orders that deadlock.
    """
    scheduler = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
    own = f"--xla_force_host_platform_device_count={devices}"
    return " ".join([os.environ.get("XLA_FLAGS", ""), own, scheduler, *more])
