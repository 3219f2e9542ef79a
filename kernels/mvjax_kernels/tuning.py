"""Tile sizes, one table per kind of chip, with the reason for each.

A visited tile of M rows (query group times positions) and X keys costs 4 M X H operations forward, and brings 2 X H
numbers of keys and values on chip. Copies stay behind the products where M / (bytes a number) * 2 is above the chip's
operations per byte: in 16 bits M >= 241 on v5e (197 TFLOP/s over 819 GB/s), 166 on v5p (459, 2765), 224 on v4 (275,
1228), 560 on v6e (918, 1640), 313 on v7x (2307, 7380); on an H100 295 (989, 3350) and on an A100 153 (312, 2039), where
caches of 50 and 40 MB serve the programs of one kv head together, so that a third of it will do.
Beyond that a larger tile only visits more hidden pairs at the borders of paths.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

MIB = 2**20


class TpuChip(NamedTuple):
    """What a TPU kernel has to know of a core."""

    height: int
    """Rows of a tile's products to aim at: twice what hides the copies."""
    block: int
    """Keys per tile: four columns of the 128-wide (v6e and later: two of the 256-wide) matrix unit."""
    vmem: int
    """Bytes of vector memory that a kernel may fill without asking for more."""


TPU = {
    "v4": TpuChip(512, 512, 16 * MIB),
    "v5e": TpuChip(512, 512, 16 * MIB),
    "v5p": TpuChip(512, 512, 16 * MIB),
    "v6e": TpuChip(1024, 512, 32 * MIB),
    "v7x": TpuChip(512, 512, 32 * MIB),
}

TPU_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
    "TPU7x": "v7x",
}
"""`device_kind` as JAX names it."""


def tpu_chip(device: jax.Device | None) -> TpuChip:
    """The table's line for a device; the smallest chip where there is none (interpret mode) or an unknown one."""
    return TPU[TPU_KINDS.get(getattr(device, "device_kind", ""), "v5e")]


SMEM = 2**20
"""Bytes of scalar memory of a TPU core."""


def tpu_tiles(
    chip: TpuChip, group: int, length: int, keys: int, head: int, bytes_per_number: int, levels: int
) -> tuple[int, int]:
    """Query positions and keys per tile: no more than the sequence has, and what fits the chip.

    Raises:
        ValueError: no tile fits.
    """
    rows = max(128 // group, chip.height // group, 16)
    rows = 1 << (rows - 1).bit_length() if rows & (rows - 1) else rows
    while rows // 2 >= length and rows // 2 * group % 128 == 0 and rows > 16:
        rows //= 2
    block = chip.block
    while block // 2 >= keys and block > 128:
        block //= 2

    def needed():
        return attention_vmem(rows * group, block, head, bytes_per_number, levels)

    while needed() > chip.vmem and block > 128:
        block //= 2
    what = f"a tile of {rows * group} rows ({rows} positions of {group} heads) and {block} keys of {head} numbers"
    check_room(what, "vector", needed(), chip.vmem)
    return rows, block


def attention_vmem(height: int, block: int, head: int, bytes_per_number: int, levels: int) -> int:
    """Bytes of vector memory of the hungrier kernel, dq or dk and dv: tiles of `height` rows and `block` keys."""
    query_tile, key_block = height * head * bytes_per_number, block * head * bytes_per_number
    # Blocks of a grid step have two buffers each, and what moves within it has two as well.
    dq = 2 * 3 * query_tile + height * head * 4 + 2 * 2 * key_block + 2 * 2 * levels * block * 4
    dkv = 2 * 4 * key_block + 2 * block * head * 4 + 2 * levels * block * 128 * 4 + 2 * 2 * query_tile
    # A product of float32 numbers takes each operand apart into three of 16 bits.
    parts = 2 * 6 * (height * head + block * head + height * block) if bytes_per_number == 4 else 0
    return max(dq, dkv) + 3 * height * block * 4 + parts


def check_decode_fits(
    chip: TpuChip, kv_heads: int, page_size: int, head: int, bytes_per_number: int, rows: int
) -> None:
    """Raise ValueError if the pages under way and the rows of a request do not fit vector memory."""
    pages = 4 * 2 * kv_heads * page_size * head * bytes_per_number
    kept = kv_heads * rows * (head + 2 * 128) * 4 + 4 * kv_heads * rows * head * 4
    logits = 3 * rows * page_size * 4
    what = f"decoding {rows} rows over pages of {page_size} slots, {kv_heads} heads of {head} numbers"
    check_room(what, "vector", pages + kept + logits, chip.vmem)


def check_table_fits(requests: int, pages: int) -> None:
    """Raise ValueError if a page table does not fit scalar memory."""
    check_room(f"the page table of {requests} requests of {pages} pages", "scalar", 4 * requests * (pages + 3), SMEM)


def check_chunks(chunk: int, *rows: int) -> None:
    """Raise ValueError unless chunks of queries hold whole tiles."""
    if any(chunk % count for count in rows):
        raise ValueError(f"chunks of {chunk} queries do not hold whole tiles of {max(rows)}: make them a multiple")


def check_room(what: str, memory: str, needed: int, room: int) -> None:
    """Raise ValueError where something does not fit."""
    if needed > room:
        raise ValueError(f"{what} needs {needed / 2**20:.1f} MiB of {memory} memory, a core has {room / 2**20:.0f}")


class GpuTiles(NamedTuple):
    """How one Triton kernel is cut."""

    rows: int
    """Query positions per tile."""
    block: int
    """Keys per tile."""
    warps: int
    stages: int
    """Tiles of the moving side in shared memory at a time."""


class GpuTable(NamedTuple):
    """A line of the table."""

    forward: GpuTiles
    dq: GpuTiles
    dkv: GpuTiles


GPU = {
    # 16 bits. H = 64: 128 x 128 products keep 8 warps of a Hopper or Ampere core in wgmma or mma.sync.
    (2, 64): GpuTable(GpuTiles(128, 128, 8, 2), GpuTiles(128, 64, 8, 2), GpuTiles(64, 128, 8, 2)),
    # H = 128: a tile of queries and two stages of keys and values are 96 KiB of the 164 (A100) or 227 (H100). dk and dv
    # are two accumulators: more than 32 queries at a time would spill in the loop.
    (2, 128): GpuTable(GpuTiles(128, 64, 8, 2), GpuTiles(128, 64, 8, 2), GpuTiles(32, 128, 8, 2)),
    # H = 256: the accumulators alone are 128 KiB of registers; smaller tiles on the side that moves. 64 keys, as wgmma
    # wants them, would spill for dk and dv: 32 make it mma.sync.
    (2, 256): GpuTable(GpuTiles(128, 32, 8, 2), GpuTiles(64, 32, 8, 2), GpuTiles(64, 32, 8, 2)),
    # float32 multiplies in IEEE float32 on the scalar units: small tiles, to stay in registers.
    (4, 64): GpuTable(GpuTiles(64, 32, 8, 1), GpuTiles(64, 32, 8, 1), GpuTiles(32, 64, 8, 1)),
    (4, 128): GpuTable(GpuTiles(64, 32, 8, 1), GpuTiles(32, 32, 8, 1), GpuTiles(32, 32, 8, 1)),
    (4, 256): GpuTable(GpuTiles(32, 32, 8, 1), GpuTiles(32, 16, 8, 1), GpuTiles(16, 32, 8, 1)),
}
"""(bytes of a number, H)."""

AMPERE = {
    # mma.sync keeps its operands in registers, wgmma in shared memory: dk and dv, two accumulators, need more here.
    (2, 128): GpuTable(GpuTiles(128, 64, 8, 2), GpuTiles(128, 32, 8, 2), GpuTiles(64, 64, 8, 2)),
    (2, 256): GpuTable(GpuTiles(64, 64, 8, 2), GpuTiles(64, 32, 8, 2), GpuTiles(32, 32, 8, 2)),
}
"""What is cut smaller before Hopper."""


def gpu_tiles(head: int, dtype, compute_capability: int | None = None) -> GpuTable:
    """The table's line; `compute_capability` 80 for 8.0, None for Hopper's."""
    place = jnp.dtype(dtype).itemsize, head
    smaller = compute_capability is not None and compute_capability < 90
    return AMPERE.get(place, GPU[place]) if smaller else GPU[place]


class GpuDecodeTiles(NamedTuple):
    """How the decode kernel is cut."""

    block: int
    """Slots per step; divides the page."""
    splits: int
    """Programs that share a KV stream, so that few requests still fill the chip."""
    warps: int
    stages: int
    """Blocks of slots in shared memory at a time."""


def gpu_decode_tiles(rows: int, head: int, dtype, kv_streams: int, page_size: int, pages: int) -> GpuDecodeTiles:
    """The decode kernel's tiles.

    Args:
        rows: lanes times query group, the M side of the products.
        kv_streams: requests times kv heads, each a row of programs.
        page_size: slots of a page.
        pages: most pages of a request.
    """
    wide = jnp.dtype(dtype).itemsize == 4
    # The output of all rows stays in registers: 64 x 128 numbers take half of 4 warps'.
    kept = max(16, rows) * head
    warps = 4 if kept <= 64 * 128 and not wide else 8
    largest = 16 if kept > 128 * 128 else 32 if wide else 64
    block = next(size for size in (64, 32, 16) if size <= largest and page_size % size == 0)
    # Two programs for each of 132 cores, each with four steps at least.
    splits = max(1, min(-(-264 // kv_streams), pages * page_size // (4 * block)))
    return GpuDecodeTiles(block, splits, warps, 1 if wide else 2 if kept > 128 * 128 else 3)
