"""Processes with several virtual devices."""

import os


def xla_flags(devices: int, *more: str) -> str:
    """XLA's flags for a process with so many; those that are set already stay, and count less."""
    return " ".join([os.environ.get("XLA_FLAGS", ""), f"--xla_force_host_platform_device_count={devices}", *more])
