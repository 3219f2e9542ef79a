"""What a model family is: the meaning of its configuration, its arrays and its layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Array

from mvjax.models.arrays import ArraySpec
from mvjax.models.config import ModelConfig
from mvjax.models.layers import LayerOps


@dataclass(frozen=True)
class Family:
    """One architecture of decoders."""

    name: str
    """`model_type` in config.json and `general.architecture` in a GGUF file."""
    architecture: str
    """Class of `transformers` that computes it."""
    layer_arrays: Callable[[ModelConfig], tuple[ArraySpec, ...]]
    """The arrays of one layer, with their Hugging Face and GGUF names."""
    layer: Callable[[LayerOps, Array], Array]
    """The arithmetic of one layer."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Keys of config.json that are the family's own, or that have another default than in the other families: the
    value that `transformers` takes where the key is absent."""
    published: Callable[[], dict[str, tuple[ModelConfig, int]]] = dict
    """Makes the shapes of published models, for planning before anything is downloaded: configuration and number of
    tokens of the tokenizer, by name."""
    gguf_interleaved: bool = False
    """GGUF files hold the rows of Q and K in another order: rotary pairs beside each other, not half a head apart."""
