"""Tile sizes: what fits a chip is taken, what does not is refused while tracing, with the figures."""

import jax
import jax.numpy as jnp
import mvjax_kernels
import pytest
from mvjax_kernels import tuning

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
