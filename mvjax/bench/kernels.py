"""Attention compiled for a TPU that need not be here: memory and work, ours beside splash attention and a dense one.

Nothing is executed. Memory is what the compiler says; work is counted from the tiles that each visits: ours by its own
lists, splash attention by the blocks of the same mask that are not empty (it takes a grid step for the others too), the
dense one all pairs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mvjax_kernels
import numpy as np
from mvjax_kernels import meter, tuning

from mvjax.bench.config import KernelsBench
from mvjax.bench.report import Bar, Report
from mvjax.bench.scenes import SCENES
from mvjax.files import atomic_path
from mvjax.planning.machines import compile_for, temporaries, tpu

MIB = 2**20
MEMORY_BAR, MEMORY_LENGTH = 64.0, 32_768
"""MiB of temporaries at most, at that length."""
SPLASH_BLOCK = 512
BACKWARD_AND_FORWARD = ("forward", "dq", "dkv")
PRODUCTS = 9
"""Matrix products of a tile: two forward, three for dq, four for dk and dv."""


def measure(config: KernelsBench, report: Report, say: Callable[[str], None]) -> None:
    """Fill the report, and draw kernels.png where matplotlib is installed."""
    device = tpu(config.chip)
    methods = {"ours": ours, "splash": splash, "dense": dense}
    memory: dict[str, list[float]] = {name: [] for name in methods}
    work: dict[str, list[dict[str, float]]] = {name: [] for name in SCENES}
    for length in config.lengths:
        fits = {}
        for name, method in methods.items():
            say(f"compiling {name} for {length} tokens on {config.chip}")
            used, fits[name] = memory_of(device, method, config, length, name != "ours")
            memory[name].append(used / MIB)
        for scene, intervals in SCENES.items():
            counted = count(config, device, *intervals(length, config.levels))
            work[scene].append(counted)
            row = {"T": length, "text": scene}
            row |= {f"{name} MiB": f"{memory[name][-1]:,.1f}{'' if fits[name] else ' *'}" for name in methods}
            report.rows.append(row | counted)
        if length == MEMORY_LENGTH:
            report.bars.append(Bar(f"MiB of temporaries at T = {length}, ours", memory["ours"][-1], MEMORY_BAR))
    worst = max(row["tiles / with a pair"] for row in report.rows)
    report.bars.append(Bar("tiles visited over tiles that hold a visible pair", worst, 1.0))
    report.notes += [
        f"not run on a device; one sequence, {config.heads} query heads over {config.kv_heads}, width "
        f"{config.head_dim}, bfloat16, {config.levels} levels, forward and backward, compiled for {config.chip}",
        "MiB: temporaries beside arguments and results; the masks of splash and dense, T x T bytes, are arguments and "
        "not counted; * more than the chip has, as its compiler says",
        f"splash: blocks of {SPLASH_BLOCK} x {SPLASH_BLOCK}, the mask given densely as an array; G: 10^9 multiply-adds",
    ]
    path = draw(config, memory, work)
    report.notes.append(f"picture: {path}" if path else "no picture: matplotlib is not installed")


def ours(q_BTNH, k_BTKH, v_BTKH, hide_start_BET, hide_end_BET):
    """Hidden intervals."""
    return mvjax_kernels.attention(q_BTNH, k_BTKH, v_BTKH, hide_start_BET, hide_end_BET, backend="tpu")


def splash(q_BTNH, k_BTKH, v_BTKH, visible_TT):
    """The stock TPU kernel with a mask that is only known on the device."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel

    size = SPLASH_BLOCK
    sizes = kernel.BlockSizes(size, size, size, size, size, size, size, size)
    attend: Any = kernel.make_splash_mha(visible_TT[None], block_sizes=sizes, head_shards=1, q_seq_shards=1)
    # Under jit it makes a traced array of this switch and then asks it for its truth.
    attend.fwd_mask_info = attend.fwd_mask_info._replace(is_dynamic_mask=True)
    q_BNTH, k_BKTH, v_BKTH = (x.swapaxes(1, 2) for x in (q_BTNH, k_BTKH, v_BTKH))
    return jax.vmap(attend)(q_BNTH * q_BTNH.shape[-1] ** -0.5, k_BKTH, v_BKTH).swapaxes(1, 2)


def dense(q_BTNH, k_BTKH, v_BTKH, visible_TT):
    """Softmax over all pairs."""
    return jax.nn.dot_product_attention(q_BTNH, k_BTKH, v_BTKH, mask=visible_TT[None, None])


def memory_of(device, method: Callable, config: KernelsBench, length: int, masked: bool) -> tuple[int, bool]:
    """Bytes beside arguments and results of a compiled call with its gradients, and whether the chip has them."""

    def loss(q_BTNH, k_BTKH, v_BTKH, do_BTNH, *mask):
        o_BTNH, pull = jax.vjp(lambda *qkv: method(*qkv, *mask), q_BTNH, k_BTKH, v_BTKH)
        return o_BTNH, *pull(do_BTNH)

    def shape(*sizes, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(sizes, dtype)

    q = shape(1, length, config.heads, config.head_dim)
    kv = shape(1, length, config.kv_heads, config.head_dim)
    hide = shape(1, config.levels, length, dtype=jnp.int32)
    mask = [shape(length, length, dtype=jnp.bool_)] if masked else [hide, hide]
    try:
        program = compile_for(device, loss, q, kv, kv, q, *mask, any_layout=True)
    except jax.errors.JaxRuntimeError as error:
        return too_much(str(error)), False
    return temporaries(program), True


def too_much(message: str) -> int:
    """The bytes of HLO temporaries in a TPU compiler's complaint that a program needs more than there is."""
    found = re.search(r"HLO temporaries \(([\d.]+)([KMGT])\)", message)
    if found is None:
        raise RuntimeError(f"the compiler refused a program, not for its memory: {message}")
    return round(float(found[1]) * 1024 ** " KMGT".index(found[2]))


def count(config: KernelsBench, device, hide_start_ET, hide_end_ET) -> dict[str, float]:
    """Tiles of all heads and multiply-adds, forward and backward."""
    hide = jnp.asarray(hide_start_ET)[None], jnp.asarray(hide_end_ET)[None]
    length, group = hide_start_ET.shape[1], config.heads // config.kv_heads
    rows, block = tuning.tpu_tiles(tuning.tpu_chip(device), group, length, length, config.head_dim, 2, config.levels)
    sizes = {"heads": config.heads, "kv_heads": config.kv_heads, "head": config.head_dim, "bytes_per_number": 2}
    work = meter.attention_work(*hide, length=length, rows=rows, block=block, **sizes)
    fine = min(rows, block)  # Powers of two, all of them.
    pairs_QC = hold_pairs(hide_start_ET, hide_end_ET, fine)
    seen = config.kv_heads * joined(pairs_QC, rows // fine, block // fine)
    blocks = config.heads * joined(pairs_QC, SPLASH_BLOCK // fine, SPLASH_BLOCK // fine)
    return {
        "tiles": work["forward"].tiles,
        "tiles / with a pair": work["forward"].tiles / seen,
        "without mask": work["forward"].full / work["forward"].tiles,
        "G ours": sum(work[name].multiply_adds for name in BACKWARD_AND_FORWARD) / 1e9,
        "G splash": PRODUCTS * blocks * SPLASH_BLOCK**2 * config.head_dim / 1e9,
        "G dense": 6 * config.heads * length**2 * config.head_dim / 1e9,
    }


def hold_pairs(hide_start_ET, hide_end_ET, fine: int) -> np.ndarray:
    """Which tiles of `fine` x `fine` hold a visible pair, by looking at every pair, a stretch of rows at a time."""

    @jax.jit
    def in_stretch(first, hide_start_ET, hide_end_ET):
        length = hide_start_ET.shape[1]
        row_M1, key_T = first + jnp.arange(fine)[:, None], jnp.arange(length)
        visible_MT = (row_M1 >= key_T) & (row_M1 < length)
        for start_T, end_T in zip(hide_start_ET, hide_end_ET):
            visible_MT &= (row_M1 < start_T) | (row_M1 >= end_T)
        return jnp.pad(visible_MT.any(0), (0, -length % fine)).reshape(-1, fine).any(1)

    hide = jnp.asarray(hide_start_ET), jnp.asarray(hide_end_ET)
    return np.stack([in_stretch(first, *hide) for first in range(0, hide_start_ET.shape[1], fine)])


def joined(pairs_QC: np.ndarray, down: int, across: int) -> int:
    """The number of larger tiles, `down` x `across` of these, that hold one with a pair."""
    pairs_QC = np.pad(pairs_QC, [(0, -pairs_QC.shape[0] % down), (0, -pairs_QC.shape[1] % across)])
    size = pairs_QC.shape[0] // down, down, pairs_QC.shape[1] // across, across
    return int(pairs_QC.reshape(size).any((1, 3)).sum())


def draw(config: KernelsBench, memory: dict, work: dict) -> Path | None:
    """Memory against the length, and multiply-adds at the largest length; None without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, values in memory.items():
        left.plot(config.lengths, values, marker="o", label=name)
    left.set(xlabel="tokens", ylabel="temporaries, MiB", title=f"memory on {config.chip}")
    left.set_xscale("log", base=2)
    left.set_yscale("symlog", linthresh=1)
    left.grid(alpha=0.3)
    left.legend()
    scenes = list(work)
    for i, name in enumerate(memory):
        values = [work[scene][-1][f"G {name}"] for scene in scenes]
        right.bar([at + 0.27 * (i - 1) for at in range(len(scenes))], values, 0.25, label=name)
    right.set_xticks(range(len(scenes)), scenes, rotation=20)
    right.set(yscale="log", ylabel="multiply-adds, 10^9", title=f"work at {config.lengths[-1]:,} tokens")
    right.grid(alpha=0.3, axis="y")
    right.set_ylim(top=5 * right.get_ylim()[1])
    right.legend(ncols=len(memory), loc="upper center")
    path = config.output / "kernels.png"
    with atomic_path(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))
    return path
