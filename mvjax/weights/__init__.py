"""Model weights in and out: Hugging Face safetensors, GGUF (in), Orbax; rows for the control tags."""

from mvjax.weights.checkpoint import Checkpoint, LazyTensor, LazyTensors, lazily
from mvjax.weights.formats import read_files
from mvjax.weights.tag_rows import add_tag_rows, with_tag_rows

__all__ = [
    "Checkpoint",
    "LazyTensor",
    "LazyTensors",
    "add_tag_rows",
    "lazily",
    "read_files",
    "with_tag_rows",
]
