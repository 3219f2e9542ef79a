"""The counted work of the kernels against counts of the oracle's pairs."""

import json
from functools import cache
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mvjax_kernels import meter
from mvjax_kernels.tiles import run_lists
from oracle import interval_mask, tile_any
from packed_trees import INT32_MAX, packed_batch

from mvjax.language import lay_out
from mvjax.language.text import piece_facts

GOLDEN = Path(__file__).parents[1] / "language/golden/synthetic.jsonl"


@pytest.mark.parametrize("together", [True, False])
def test_work_of_a_packed_row(together):
    start, end, visible_BTT = packed_batch(7, 2, 96, 3)
    heads, kv_heads, head, rows, block = 6, 2, 64, 16, 8
    sizes = {"heads": heads, "kv_heads": kv_heads, "head": head, "bytes_per_number": 2, "rows": rows, "block": block}
    work = meter.attention_work(jnp.asarray(start), jnp.asarray(end), length=96, together=together, **sizes)
    seen = int(tile_any(visible_BTT, rows, block).sum())
    repeats, height = (kv_heads, rows * 3) if together else (heads, rows)
    for name, products in (("forward", 2), ("dq", 3), ("dkv", 4)):
        assert work[name].tiles == repeats * seen
        assert work[name].full <= work[name].tiles
        assert work[name].multiply_adds == repeats * seen * products * height * block * head
    lines, masked = 2 * 96 // rows, seen - work["forward"].full // repeats
    lists = lines * (2 * (3 * (3 + 1) + 1) + (2 if together else 0)) * 4
    tile, hidden = height * head * 2, masked * 2 * 3 * block * 4
    assert work["forward"].loaded == repeats * (lines * tile + seen * 2 * block * head * 2 + hidden + lists)
    assert work["dq"].loaded - work["forward"].loaded == repeats * lines * (tile + 2 * height * 4)
    blocks = 2 * 96 // block
    moved = repeats * (seen * (2 * tile + 2 * height * 4) + 2 * lists)
    stay = blocks * 2 * block * head * 2 * kv_heads
    hidden = kv_heads * blocks * 2 * 3 * block * 4 if together else heads * hidden
    assert work["dkv"].loaded == moved + stay + hidden
    assert work["forward"].stored == 2 * 96 * heads * (head * 2 + 4)
    assert work["dkv"].stored == 2 * 2 * 96 * kv_heads * head * 2


def test_causal_work_has_a_closed_form():
    length, tile = 2048, 128
    start, end = jnp.full((1, 1, length), length, jnp.int32), jnp.full((1, 1, length), INT32_MAX, jnp.int32)
    sizes = {"heads": 8, "kv_heads": 2, "head": 128, "bytes_per_number": 2, "rows": tile, "block": tile}
    work = meter.attention_work(start, end, length=length, **sizes)["forward"]
    side = length // tile
    assert work.tiles == 2 * side * (side + 1) // 2
    assert work.full == 2 * side * (side - 1) // 2


def test_decoding_reads_every_live_page_once_whatever_the_number_of_lanes():
    sizes = {"page_size": 128, "heads": 28, "kv_heads": 4, "head": 128, "bytes_per_number": 2, "slots": 4096}
    length_R = np.array([300, 0, 4096, 1], np.int32)
    pages = 3 + 0 + 32 + 1
    for lanes in (1, 8, 32):
        work = meter.decode_work(length_R, lanes=lanes, **sizes)
        rows = 4 * lanes * 28 * 128 * 2
        assert work.tiles == pages
        assert work.loaded - rows - 4 * 4096 * 4 == pages * 128 * 2 * 4 * 128 * 2
        assert work.stored == rows
        assert work.multiply_adds == pages * 128 * lanes * 28 * 128 * 2
    quantised = meter.decode_work(length_R, lanes=8, scales=True, **sizes | {"bytes_per_number": 1})
    assert quantised.loaded - 4 * 8 * 28 * 128 - 4 * 4096 * 4 == pages * 128 * 2 * 4 * (128 + 4)


def test_the_state_of_the_mask_is_small():
    """At 32K tokens and E = 4: the intervals as the kernels take them, and the lists of both directions."""
    length, levels = 32_768, 4
    hide = jax.ShapeDtypeStruct((1, levels, length), jnp.int32)
    lists = jax.eval_shape(
        lambda *x: run_lists(*x, length, 128, 128), hide, hide, jax.ShapeDtypeStruct((1, 1), jnp.int32)
    )
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((lists, hide, hide)))
    assert held <= 4 * 2**20


@pytest.fixture(scope="module")
def packed_golden():
    """Golden transcripts, a symbol a token, repeated and packed to rows of a length; its visible tiles of 128."""
    layouts = []
    for line in GOLDEN.read_text(encoding="utf-8").splitlines():
        codes_T, colon_T, separator_T = piece_facts(json.loads(line)["tokens"])
        layouts.append(lay_out(codes_T, colon_T, separator_T=separator_T))

    @cache
    def pack(length: int):
        start_ET, end_ET = np.zeros((2, 6, length), np.int32)
        at = 0
        rng = np.random.default_rng(0)
        while True:
            layout = layouts[rng.integers(len(layouts))]
            count = len(layout.position)
            if at + count > length:
                break
            for whole, own in ((start_ET, layout.hide_start), (end_ET, layout.hide_end)):
                shifted = np.where(own == INT32_MAX, INT32_MAX, own + at)
                whole[: len(own), at : at + count] = np.where(layout.hide_start < layout.hide_end, shifted, 0)
            at += count
        start_ET[0, at:], end_ET[0, at:] = length, INT32_MAX
        start, end = start_ET[None], end_ET[None]
        # A piece of the mask at a time: the whole would be a gigabyte at 32K.
        pieces = [interval_mask(start, end, 2048, np.array([first])) for first in range(0, length, 2048)]
        return start, end, np.concatenate([tile_any(visible_BTS, 128, 128)[0] for visible_BTS in pieces])

    return pack


@pytest.mark.parametrize(
    ("length", "rows", "block"),
    [
        (8192, 256, 128),
        *(pytest.param(32_768, *tile, marks=pytest.mark.slow) for tile in product((128, 256, 512), (128, 512))),
    ],
)
def test_packed_golden_transcripts_visit_only_tiles_with_a_visible_pair(packed_golden, length, rows, block):
    start, end, seen_128 = packed_golden(length)
    sizes = {"heads": 8, "kv_heads": 2, "head": 128, "bytes_per_number": 2, "rows": rows, "block": block}
    work = meter.attention_work(*map(jnp.asarray, (start, end)), length=length, **sizes)
    seen = tile_any(seen_128[None], rows // 128, block // 128).sum()
    assert {name: w.tiles for name, w in work.items()} == dict.fromkeys(("forward", "dq", "dkv"), 2 * seen)
