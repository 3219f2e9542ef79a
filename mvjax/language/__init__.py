"""The Multiverse language: tags, grammar, transcript tree, layout. NumPy only; imports nothing of the other rooms."""

from mvjax.language.errors import TranscriptError
from mvjax.language.layout import INT32_MAX, PARTS, Layout, lay_out
from mvjax.language.tags import TAGS, TEXT

__all__ = ["INT32_MAX", "PARTS", "TAGS", "TEXT", "Layout", "TranscriptError", "lay_out"]
