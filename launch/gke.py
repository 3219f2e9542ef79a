"""What the launchers for Kubernetes share: slices of TPUs, words of options, kubectl. Standard library only."""

from __future__ import annotations

import math
import subprocess

from common import UserError

ACCELERATORS = {
    "v4": ("tpu-v4-podslice", 3),
    "v5e": ("tpu-v5-lite-podslice", 2),
    "v5p": ("tpu-v5p-slice", 3),
    "v6e": ("tpu-v6e-slice", 2),
    "tpu7x": ("tpu7x", 3),
}
"""Generation: GKE's name of the accelerator, axes of its topologies."""

FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
"""Topologies of the generations with two axes."""


def topology(text: str) -> tuple[str, int]:
    """Generation and chips of a slice; UserError where there is no such slice."""
    generation, _, shape = text.partition(":")
    if generation not in ACCELERATORS:
        raise UserError(f"--topology {text}: there are {', '.join(ACCELERATORS)}, as in v5p:4x4x8")
    sizes = [int(size) for size in shape.split("x") if size.isdigit()]
    axes = ACCELERATORS[generation][1]
    if axes == 2 and shape not in FLAT:
        raise UserError(f"--topology {text}: {generation} has no slice {shape!r}; there are {', '.join(FLAT)}")
    small = shape in ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
    cubes = len(sizes) == 3 and "x".join(map(str, sorted(sizes))) == shape and all(s and s % 4 == 0 for s in sizes)
    if axes == 3 and not (small or cubes):
        raise UserError(
            f"--topology {text}: {generation} has no slice {shape!r}; there are 2x2x1, 2x2x2, 2x2x4, 2x4x4 and "
            "multiples of 4 in rising order, such as 4x4x8"
        )
    return generation, math.prod(sizes)


def pairs(option: str, words: list[str], separator: str) -> dict[str, str]:
    """`name=value` words as a dictionary."""
    for word in words:
        if not all(word.partition(separator)):
            raise UserError(f"{option} {word} must have the form NAME{separator}VALUE")
    return {name: value for name, _, value in (word.partition(separator) for word in words)}


def claims(words: list[str]) -> dict[str, str]:
    """`CLAIM:/PATH` words as a dictionary: volume claims and where they are mounted."""
    mounts = pairs("--mount", words, ":")
    if bad := [path for path in mounts.values() if not path.startswith("/")]:
        raise UserError(f"--mount: the path {bad[0]} must start with /")
    return mounts


def kubectl(*words: str, given: str | None = None, hint: str = "") -> str:
    """Run kubectl; returns its output, UserError with its message where it fails."""
    done = subprocess.run(["kubectl", *words], input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise UserError(f"kubectl {' '.join(words[:3])} failed: {lines[-1]}{hint}")
    return done.stdout
