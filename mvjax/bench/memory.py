"""Memory of a LoRA training step against the length, beside transformers with PyTorch and a dense mask.

Ours is compiled only: the compiler says what it will hold. PyTorch's step is run, with one layer and with three, and
the most that its process held on top of what it held before is measured; every layer adds as much as the second and
third.
"""

from __future__ import annotations

import ctypes
import gc
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mvjax.bench import torch_model
from mvjax.bench.config import MemoryBench, TrainingBench
from mvjax.bench.picture import draw
from mvjax.bench.report import Bar, Report
from mvjax.bench.training import ALPHA, CLIP, LEARNING_RATE, packed_row
from mvjax.errors import UserError
from mvjax.weights import Checkpoint

GIB = 2**30
FEW, MORE = 1, 3
"""Layers that transformers' step is measured with; all of a model that has fewer."""


def measure(config: MemoryBench, report: Report, say: Callable[[str], None]) -> None:
    """Fill the report, and draw memory.png where matplotlib is installed."""
    if reason := torch_model.missing():
        raise UserError(reason)
    from mvjax.models import save_checkpoint
    from mvjax.models.load import open_with_tags

    tokenizer, checkpoint = open_with_tags(config.model, config.tokenizer)
    layers = checkpoint.config["num_hidden_layers"]
    sizes: dict[str, list[float]] = {"mvjax": [], "transformers": []}
    with tempfile.TemporaryDirectory(prefix="mvjax-bench-") as directory:
        few, more = FEW, min(MORE, layers)
        models = {count: Path(directory) / f"model{count}" for count in (few, more)}
        for count, path in models.items():
            save_checkpoint(path, shortened(checkpoint, count).astype("float32"))
        for length in config.lengths:
            say(f"{length} tokens: compiling ours")
            sizes["mvjax"].append(compiled_bytes(config, length))
            row = TrainingBench(model=config.model, row_length=length, degree=config.degree)
            batch, _ = packed_row(row, tokenizer)
            held = []
            for count, path in models.items():
                say(f"{length} tokens: a step of transformers, layers: {count}")
                options = {"rank": config.rank, "alpha": ALPHA, "learning_rate": LEARNING_RATE, "clip": CLIP}
                held.append(torch_bytes(torch_model.TorchTraining(path, batch, **options)))
                gc.collect()
            layer = max(0, held[-1] - held[0]) / max(1, more - few)
            sizes["transformers"].append(held[0] + (layers - few) * layer)
            ours, theirs = sizes["mvjax"][-1], sizes["transformers"][-1]
            report.rows.append(
                {"T": length, "mvjax GiB": ours / GIB, "transformers GiB": theirs / GIB, "ratio": theirs / ours}
            )
    largest = config.lengths[-1]
    report.bars.append(
        Bar(f"memory of a step at T = {largest} over transformers", sizes["mvjax"][-1] / sizes["transformers"][-1], 1.0)
    )
    report.notes.append(
        f"on top of the weights; float32, LoRA rank {config.rank}, {layers} layers, nothing recomputed; ours as the "
        f"compiler states it, transformers' measured with {few} and {more} layers and drawn out to all"
    )
    curves = {name: [value / GIB for value in values] for name, values in sizes.items()}
    report.notes.append(draw(config.output / "memory.png", config.lengths, curves, "memory of a step, GiB"))


def compiled_bytes(config: MemoryBench, length: int) -> float:
    """Temporaries of our step on one CPU device, without those of the optimizer's state."""
    from mvjax.planning.machines import machine
    from mvjax.planning.program import compile_step, describe_step
    from mvjax.planning.shapes import find_shape
    from mvjax.training.config import TrainConfig

    lora, data = {"rank": config.rank, "alpha": ALPHA}, {"row_length": length, "rows": 1}
    chosen = TrainConfig().replace(model={"remat": config.remat}, lora=lora, data=data)
    shape = find_shape(str(config.model), tokenizer=str(config.tokenizer or ""))
    return compile_step(describe_step(chosen, shape, machine("cpu:1"))).temporaries


def torch_bytes(training: torch_model.TorchTraining) -> float:
    """The most that a step takes on top of what is held before it; Linux only."""
    # What was freed but not given back would be taken again unseen.
    ctypes.CDLL(None).malloc_trim(0)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew.
    training.step()
    return status("VmHWM") - before


def status(name: str) -> int:
    """A line of the process's status, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError as error:
        raise UserError(f"bench memory: reads /proc/self/status, which only Linux has ({error.strerror})") from error
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def shortened(checkpoint: Checkpoint, layers: int) -> Checkpoint:
    """Its first layers."""
    prefixes = tuple(f"model.layers.{number}." for number in range(layers))
    kept = {
        name: x
        for name, x in checkpoint.tensors.items()
        if not name.startswith("model.layers.") or name.startswith(prefixes)
    }
    return replace(checkpoint, config=checkpoint.config | {"num_hidden_layers": layers}, tensors=kept)
