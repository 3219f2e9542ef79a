"""The Multiverse language: tags, grammar, transcript tree, layout. NumPy only; imports nothing of the other rooms."""

from mvjax.language.errors import TranscriptError
from mvjax.language.layout import INT32_MAX, PARTS, Layout, lay_out
from mvjax.language.tags import TAGS, TEXT
from mvjax.language.text import parse_text, split_text
from mvjax.language.tree import Transcript, parse_tokens, render, render_tokens

__all__ = [
    "INT32_MAX",
    "PARTS",
    "TAGS",
    "TEXT",
    "Layout",
    "Transcript",
    "TranscriptError",
    "lay_out",
    "parse_text",
    "parse_tokens",
    "render",
    "render_tokens",
    "split_text",
]
