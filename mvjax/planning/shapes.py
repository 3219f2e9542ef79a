"""Shapes of published models, so that a run can be planned before anything is downloaded."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from mvjax.errors import UserError
from mvjax.language.tags import TAGS
from mvjax.models import from_hf, load_checkpoint
from mvjax.models.config import ModelConfig, RopeScaling

PREFIX = "shape:"


@dataclass(frozen=True)
class Shape:
    """A model as a step sees it."""

    config: ModelConfig
    """With rows for the control tags."""
    tag_ids: tuple[int, ...]
    """Ids of the control tags."""
    source: str
    """Where the shape is from, in words."""


def _qwen2(embed: int, layers: int, heads: int, kv_heads: int, ffn: int, *, head_dim: int = 128, large: bool = False):
    vocabulary = 152064 if large else 151936
    sizes = vocabulary, embed, layers, heads, kv_heads, head_dim, ffn
    config = ModelConfig("qwen2", *sizes, rope_theta=1e6, tied=not large, max_position=32768)
    return config, 151665


def _qwen3(embed: int, layers: int, heads: int, ffn: int, *, kv_heads: int = 8, tied: bool = False):
    sizes = 151936, embed, layers, heads, kv_heads, 128, ffn
    return ModelConfig("qwen3", *sizes, rope_theta=1e6, tied=tied, max_position=40960), 151669


def _llama3(embed: int, layers: int, heads: int, ffn: int, *, head_dim: int = 128, stretch: float = 8.0):
    sizes = 128256, embed, layers, heads, 8, head_dim, ffn
    scaling = RopeScaling(stretch, 1.0, 4.0, 8192)
    options = {"rope_theta": 5e5, "rope_scaling": scaling, "rms_eps": 1e-5, "max_position": 131072}
    return ModelConfig("llama", *sizes, tied=stretch > 8, **options), 128256


def _smollm2(embed: int, layers: int, heads: int, kv_heads: int, ffn: int):
    sizes = 49152, embed, layers, heads, kv_heads, 64, ffn
    return ModelConfig("llama", *sizes, rope_theta=1e5, rms_eps=1e-5, max_position=8192), 49152


SHAPES: dict[str, tuple[ModelConfig, int]] = {
    "qwen2.5-0.5b": _qwen2(896, 24, 14, 2, 4864, head_dim=64),
    "qwen2.5-1.5b": _qwen2(1536, 28, 12, 2, 8960),
    "qwen2.5-3b": _qwen2(2048, 36, 16, 2, 11008),
    "qwen2.5-7b": _qwen2(3584, 28, 28, 4, 18944, large=True),
    "qwen2.5-14b": _qwen2(5120, 48, 40, 8, 13824, large=True),
    "qwen2.5-32b": _qwen2(5120, 64, 40, 8, 27648, large=True),
    "qwen3-0.6b": _qwen3(1024, 28, 16, 3072, tied=True),
    "qwen3-1.7b": _qwen3(2048, 28, 16, 6144, tied=True),
    "qwen3-4b": _qwen3(2560, 36, 32, 9728, tied=True),
    "qwen3-8b": _qwen3(4096, 36, 32, 12288),
    "qwen3-14b": _qwen3(5120, 40, 40, 17408),
    "qwen3-32b": _qwen3(5120, 64, 64, 25600),
    "llama-3.2-1b": _llama3(2048, 16, 32, 8192, head_dim=64, stretch=32.0),
    "llama-3.2-3b": _llama3(3072, 28, 24, 8192, stretch=32.0),
    "llama-3.1-8b": _llama3(4096, 32, 32, 14336),
    "llama-3.1-70b": _llama3(8192, 80, 64, 28672),
    "smollm2-135m": _smollm2(576, 30, 9, 3, 1536),
    "smollm2-360m": _smollm2(960, 32, 15, 5, 2560),
    "smollm2-1.7b": _smollm2(2048, 24, 32, 32, 8192),
}
"""Model configuration and number of tokens of the tokenizer, by name."""


def find_shape(model: str, fallback: str = "") -> Shape:
    """The shape of `shape:NAME`, of a model's directory or file, or of `fallback` (a name) where there is none yet.

    Raises:
        UserError: no such name; nothing at the path and no fallback; not a model that can be trained.
    """
    if model.startswith(PREFIX):
        return named(model.removeprefix(PREFIX))
    path = Path(model)
    if model and path.exists():
        return _of_files(path)
    if fallback:
        shape = named(fallback)
        return replace(shape, source=f"{shape.source} ({model or 'no model'} is not here)")
    what = f"{model}: not found" if model else "config: model.path is not set"
    raise UserError(f"{what}; give --model.path a model's directory, or a published shape such as {PREFIX}qwen2.5-32b")


def named(name: str) -> Shape:
    """A published shape."""
    if name not in SHAPES:
        raise UserError(f"{PREFIX}{name} is not known; there are {', '.join(SHAPES)}")
    config, tokens = SHAPES[name]
    return _with_tags(config, tuple(range(tokens, tokens + len(TAGS))), f"published shape {name}")


def _with_tags(config: ModelConfig, tag_ids: tuple[int, ...], source: str) -> Shape:
    """The vocabulary grows where it has no rows left."""
    return Shape(replace(config, vocab_size=max(config.vocab_size, max(tag_ids) + 1)), tag_ids, source)


def _of_files(path: Path) -> Shape:
    """Of a model's files; a directory needs config.json only, the tags then get rows of their own."""
    if path.is_dir() and (path / "config.json").exists():
        try:
            raw = json.loads((path / "config.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path / 'config.json'}: is no JSON ({error})") from error
        config = from_hf(raw, where=path / "config.json")
    else:
        config = from_hf(load_checkpoint(path).config, where=path)
    try:
        from mvjax.tokenizers import load_tokenizer

        tag_ids = load_tokenizer(path).with_control_tags().tag_ids
    except UserError:
        tag_ids = None
    return _with_tags(config, tag_ids or tuple(range(config.vocab_size, config.vocab_size + len(TAGS))), str(path))
