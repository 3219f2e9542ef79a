"""Tile sizes: each chip has its own; what does not fit it is refused while tracing, with the figures."""

import math
import sys
from types import ModuleType
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import mvjax_kernels
import pytest
from jax import lax
from mvjax_kernels import backends, tuning
from mvjax_kernels.tpu import attention_kernels
from mvjax_kernels.tpu import decode_attention as tpu_decode
from mvjax_kernels.tpu.tile_walk import Shape

SHAPES = [(group, head, size) for group in (1, 4, 7, 16) for head in (64, 128, 256) for size in (2, 4)]


@pytest.mark.parametrize("name", tuning.TPU)
@pytest.mark.parametrize(("group", "head", "size"), SHAPES)
def test_every_tile_of_the_table_fits_its_chip(name, group, head, size):
    chip = tuning.TPU[name]
    for length in (1, 100, 4096, 131_072):
        rows, block = tuning.tpu_tiles(chip, group, length, length, head, size, 6)
        assert rows % 16 == 0
        assert rows & (rows - 1) == 0
        assert block % 128 == 0
        assert tuning.attention_vmem(rows * group, block, head, size, 6) <= chip.vmem


KINDS = {
    # device_kind: rows of a tile, keys of a tile, MiB of vector memory
    "TPU v4": (512, 512, 16),
    "TPU v5 lite": (512, 512, 16),
    "TPU v5e": (512, 512, 16),
    "TPU v5": (512, 512, 16),
    "TPU v5p": (512, 512, 16),
    "TPU v6 lite": (1024, 512, 32),
    "TPU v6e": (1024, 512, 32),
    "TPU7x": (512, 512, 32),
    "TPU v99": (512, 512, 16),
}
"""Of one query head of 128 bfloat16 numbers for each kv head. What is not known is taken for the smallest."""


@pytest.mark.parametrize("kind", KINDS)
def test_each_tpu_has_its_tiles(kind):
    chip = tuning.tpu_chip(Mock(spec=jax.Device, device_kind=kind))
    rows, block, room = KINDS[kind]
    assert tuning.tpu_tiles(chip, 1, 131_072, 131_072, 128, 2, 4) == (rows, block)
    assert chip.vmem == room * 2**20
    assert tuning.tpu_chip(None) == tuning.TPU["v5e"]


GPU_ROWS = {
    # (H, bytes of a number): (rows, keys) of forward, dq, dk and dv on an A100, and on an H100
    (64, 2): (((128, 128), (128, 64), (64, 128)), ((128, 128), (128, 64), (64, 128))),
    (128, 2): (((128, 64), (128, 32), (64, 64)), ((128, 64), (128, 64), (32, 128))),
    (256, 2): (((64, 64), (64, 32), (32, 32)), ((128, 32), (64, 32), (64, 32))),
    (64, 4): (((64, 32), (64, 32), (32, 64)),) * 2,
    (128, 4): (((64, 32), (32, 32), (32, 32)),) * 2,
    (256, 4): (((32, 32), (32, 16), (16, 32)),) * 2,
}
"""As kernels/README.md states them."""


@pytest.fixture
def on_gpu(monkeypatch):
    """Calls traced for a GPU of a compute capability: (capability) -> what reaches `module` in place of its kernels."""

    def traced_for(capability, module, function):
        seen = []
        device = Mock(spec=jax.Device, platform="gpu", compute_capability=capability)
        monkeypatch.setattr(backends, "device", lambda: device)
        monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: name)
        kernels = ModuleType(module)

        def keep(*args):
            seen.append(args)
            return args[0], args[0][..., 0].astype(jnp.float32)

        setattr(kernels, function, keep)
        if function == "attention":
            kernels.Setting = lambda *fields: fields
        monkeypatch.setitem(sys.modules, f"mvjax_kernels.gpu.{module}", kernels)
        return seen

    return traced_for


@pytest.mark.parametrize(("capability", "column"), [("8.0", 0), ("8.6", 0), ("9.0", 1), ("10.0", 1), (9.0, 1)])
@pytest.mark.parametrize(("head", "size"), GPU_ROWS)
def test_each_gpu_gets_its_own_tiles(on_gpu, capability, column, head, size):
    """What an A100 is given would leave an H100's tensor cores idle, and the other way round it would not fit."""
    seen = on_gpu(capability, "attention", "attention")
    dtype = {2: jnp.bfloat16, 4: jnp.float32}[size]
    q, kv, hide = jnp.zeros((1, 8, 2, head), dtype), jnp.zeros((1, 8, 1, head), dtype), jnp.zeros((1, 2, 8), jnp.int32)
    mvjax_kernels.attention(q, kv, kv, hide, hide, soft_cap=20.0)
    ((*_, (scale, soft_cap, tiles, compiled_for)),) = seen
    assert tuple((kernel.rows, kernel.block) for kernel in tiles) == GPU_ROWS[head, size][column]
    assert (scale, soft_cap, compiled_for) == (head**-0.5, 20.0, round(10 * float(capability)))


def test_chunks_of_queries_hold_whole_tiles_of_every_gpu_kernel(on_gpu):
    on_gpu("9.0", "attention", "attention")
    q, kv, hide = jnp.zeros((1, 256, 1, 64)), jnp.zeros((1, 512, 1, 64)), jnp.zeros((1, 2, 512), jnp.int32)
    mvjax_kernels.attention(q, kv, kv, hide, hide, q_offset=jnp.zeros((1, 4), jnp.int32))
    with pytest.raises(ValueError, match="chunks of 32 queries do not hold whole tiles of 64"):
        mvjax_kernels.attention(q, kv, kv, hide, hide, q_offset=jnp.zeros((1, 8), jnp.int32))


@pytest.mark.parametrize(
    ("rows", "head", "size", "streams", "page", "pages", "wanted"),
    [
        # Few streams are split until 264 programs run, each with four blocks at least.
        (56, 128, 2, 4, 128, 64, (64, 32, 4, 3)),
        (56, 128, 2, 256, 128, 64, (64, 2, 4, 3)),
        (56, 128, 2, 1024, 128, 64, (64, 1, 4, 3)),
        (56, 128, 2, 4, 128, 2, (64, 1, 4, 3)),
        # More rows keep more in registers: more warps, fewer slots at a time.
        (128, 128, 2, 256, 128, 64, (64, 2, 8, 3)),
        (224, 128, 2, 256, 128, 64, (16, 2, 8, 2)),
        (32, 256, 2, 256, 128, 64, (64, 2, 4, 3)),
        (64, 256, 4, 256, 128, 64, (32, 2, 8, 1)),
        (128, 256, 4, 256, 128, 64, (16, 2, 8, 1)),
        (1, 64, 2, 256, 16, 64, (16, 2, 4, 3)),
        (1, 64, 2, 256, 96, 64, (32, 2, 4, 3)),
    ],
)
def test_decode_tiles_of_a_gpu(rows, head, size, streams, page, pages, wanted):
    tiles = tuning.gpu_decode_tiles(rows, head, {2: jnp.bfloat16, 4: jnp.float32}[size], streams, page, pages)
    assert tiles == wanted
    assert page % tiles.block == 0


def nbytes(scratch) -> int:
    """Bytes of what lies in vector memory; semaphores and scalars lie elsewhere."""
    return sum(
        math.prod(x.shape) * jnp.dtype(x.dtype).itemsize
        for x in scratch
        if "vmem" in str(getattr(x, "memory_space", "")).lower()
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize(("group", "rows", "block", "head", "levels"), [(1, 512, 512, 128, 4), (7, 64, 256, 64, 6)])
def test_the_estimate_of_vector_memory_holds_what_the_kernels_ask_for(group, rows, block, head, levels, dtype):
    """Their scratch, the blocks of a grid step twice, three tiles of logits; little more."""
    shape = Shape(1, 1, group, 4 * rows, 4 * block, head, levels, rows, block, 1.0, None, lax.Precision.DEFAULT)
    size, height = jnp.dtype(dtype).itemsize, group * rows
    tile, keys, stats, hide = height * head * size, block * head * size, 2 * height * 4, 2 * levels * block * 4
    asked = {
        "forward": nbytes(attention_kernels.forward_scratch(shape, dtype)) + 2 * (2 * tile + height * 4),
        "dq": nbytes(attention_kernels.dq_scratch(shape, dtype)) + 2 * (3 * tile + stats),
        "dkv": nbytes(attention_kernels.dkv_scratch(shape, dtype)) + 2 * (4 * keys + hide),
    }
    logits = 3 * height * block * 4
    parts = 12 * (height * head + block * head + height * block) if size == 4 else 0
    estimate = tuning.attention_vmem(height, block, head, size, levels) - logits - parts
    assert 0.97 * max(asked.values()) <= estimate <= 1.05 * max(asked.values())


def test_the_estimate_of_vector_memory_by_hand():
    """512 rows and 512 keys of 128 bfloat16 numbers, four levels: dk and dv, the hungrier of the kernels."""
    blocks = 2 * (4 * 128 * 1024)  # k, v, dk, dv: 512 x 128 numbers of 2 bytes are 128 KiB, two buffers each
    sums = 2 * (256 * 1024)  # the same in float32
    columns = 8 * 256 * 1024  # starts and ends of four levels, 512 x 128 lanes of 4 bytes
    moving = 2 * (2 * 128 * 1024)  # q and do
    logits = 3 * 1024 * 1024  # three arrays of 512 x 512 float32
    assert tuning.attention_vmem(512, 512, 128, 2, 4) == blocks + sums + columns + moving + logits == 7 * 2**20


@pytest.mark.parametrize(
    ("rows", "block", "head", "size", "levels", "most"),
    [(1024, 1024, 128, 2, 4, 19.19), (1024, 512, 128, 4, 4, 16.79), (512, 512, 256, 4, 6, 19.74)],
)
def test_the_estimate_of_vector_memory_beside_the_compiler_s_own(rows, block, head, size, levels, most):
    """MiB that XLA:TPU says the hungrier kernel takes on a v5e, where it refuses the tile for more than 16."""
    estimate = tuning.attention_vmem(rows, block, head, size, levels) / 2**20
    assert estimate > tuning.TPU["v5e"].vmem / 2**20
    assert 0.96 * most <= estimate <= 1.25 * most


def test_the_estimate_of_decoding_by_hand():
    """Pages under way, AHEAD + 1 of keys and as many of values, and for each row and kv head what is kept: a weighted
    sum, two statistics of 128 lanes, queries and results in two buffers each; three tiles of logits."""
    page = 32 * 128 * 256 * 4
    kept = 32 * 8 * (256 + 128 + 128 + 4 * 256) * 4
    needed = (tpu_decode.AHEAD + 1) * 2 * page + kept + 3 * 8 * 128 * 4
    assert round(needed / 2**20, 1) == 33.5
    with pytest.raises(ValueError, match=r"needs 33\.5 MiB of vector memory, a core has 16"):
        tuning.check_decode_fits(tuning.TPU["v5e"], 32, 128, 256, 4, 8)
    tuning.check_decode_fits(tuning.TPU["v5e"], 8, 128, 128, 2, 256)
    with pytest.raises(
        ValueError, match=r"decoding 1024 rows over pages of 128 slots, 8 heads of 128 numbers needs 31\.5"
    ):
        tuning.check_decode_fits(tuning.TPU["v5e"], 8, 128, 128, 2, 1024)


def refused(message, call, *arrays):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda *x: call(*x, backend="tpu_interpret"), *arrays)


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def test_what_does_not_fit_is_refused_while_tracing():
    hide = array(1, 4, 256, dtype=jnp.int32)
    kv = array(1, 256, 1, 256)
    message = r"a tile of 6400 rows \(16 positions of 400 heads\) and 128 keys of 256 numbers needs .* MiB of vector"
    refused(message, mvjax_kernels.attention, array(1, 256, 400, 256), kv, kv, hide, hide)

    def decode(q, k, v, pages, length, words, **options):
        return mvjax_kernels.paged_decode_attention(q, k, v, pages, length, words, **options)

    def arguments(requests, kv_heads, page, most):
        tables = array(requests, most, dtype=jnp.int32), array(requests, dtype=jnp.int32)
        pages = array(16, kv_heads, page, 256)
        return array(requests, 8, kv_heads, 256), pages, pages, *tables, array(requests, most * page, dtype=jnp.uint32)

    refused(r"decoding 8 rows over pages of 512 slots, 32 heads of 256", decode, *arguments(2, 32, 512, 4))
    message = r"the page table of 4096 requests of 64 pages needs 1\.0 MiB of scalar memory, a core has 1"
    refused(message, decode, *arguments(4096, 1, 128, 64))
