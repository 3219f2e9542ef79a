"""Attention over trees of text: array functions only, a library of its own that imports nothing of mvjax.

`attention` serves training, `paged_attention` prefill; `decode_attention` and `paged_decode_attention` decode over a KV
stream shared by the branches of a request. All follow Multiverse Attention (arXiv 2506.09991, section 4): a path never
sees its siblings.
"""

from mvjax_kernels.backends import BACKENDS
from mvjax_kernels.entry import (
    attention,
    decode_attention,
    paged_attention,
    paged_decode_attention,
    write_paged_kv,
)
from mvjax_kernels.residuals import RESIDUALS
from mvjax_kernels.sharded import Split, sharded_attention, zigzag
from mvjax_kernels.tiles import INT32_MAX, TileSpans, tile_spans, visible_tiles

__all__ = [
    "BACKENDS",
    "INT32_MAX",
    "RESIDUALS",
    "Split",
    "TileSpans",
    "attention",
    "decode_attention",
    "paged_attention",
    "paged_decode_attention",
    "sharded_attention",
    "tile_spans",
    "visible_tiles",
    "write_paged_kv",
    "zigzag",
]
