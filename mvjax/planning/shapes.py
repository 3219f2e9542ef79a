"""Shapes of published models, so that a run can be planned before anything is downloaded."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from mvjax.errors import UserError
from mvjax.hub import local_path, parse_name, resolve
from mvjax.hub.names import address_of
from mvjax.language.tags import TAGS
from mvjax.models import from_hf, load_checkpoint
from mvjax.models.config import ModelConfig
from mvjax.models.families import FAMILIES

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


SHAPES: dict[str, tuple[ModelConfig, int]] = {
    name: shape for family in FAMILIES.values() for name, shape in family.published().items()
}
"""Model configuration and number of tokens of the tokenizer, by name."""


def find_shape(model: str, fallback: str = "", tokenizer: str = "", *, cache: str = "") -> Shape:
    """The shape of `shape:NAME`, of a model's directory or file, or of `fallback` (a name) where there is none yet.

    tokenizer: where it is, if not beside or inside the weights. cache: as for `hub.resolve`.

    Raises:
        UserError: no such name; nothing at the path and no fallback; not a model that can be trained.
    """
    if model.startswith(PREFIX):
        return named(model.removeprefix(PREFIX))
    path = Path(model)
    if model and path.exists():
        return _of_files(path, tokenizer, cache)
    on_hub = parse_name(model) is not None and (not fallback or model.startswith("hf:/"))
    if on_hub or address_of(model) is not None:
        elsewhere = resolve(model, "config", cache=cache)
        return replace(_of_files(elsewhere.path, tokenizer, cache), source=elsewhere.pinned)
    if fallback:
        shape = named(fallback)
        return replace(shape, source=f"{shape.source} ({model or 'no model'} is not here)")
    what = f"{model}: not found" if model else "config: model.path is not set"
    example = PREFIX + next(iter(SHAPES))
    raise UserError(f"{what}; give --model.path a model's directory, or a published shape such as {example}")


def named(name: str) -> Shape:
    """A published shape."""
    if name not in SHAPES:
        raise UserError(f"{PREFIX}{name} is not known; there are {', '.join(SHAPES)}")
    config, tokens = SHAPES[name]
    return _with_tags(config, tuple(range(tokens, tokens + len(TAGS))), f"published shape {name}")


def _with_tags(config: ModelConfig, tag_ids: tuple[int, ...], source: str) -> Shape:
    """The vocabulary grows where it has no rows left."""
    return Shape(replace(config, vocab_size=max(config.vocab_size, max(tag_ids) + 1)), tag_ids, source)


def _of_files(path: Path, tokenizer: str, cache: str) -> Shape:
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

        tag_ids = load_tokenizer(local_path(tokenizer or path, "tokenizer", cache=cache)).with_control_tags().tag_ids
    except UserError:
        tag_ids = None
    return _with_tags(config, tag_ids or tuple(range(config.vocab_size, config.vocab_size + len(TAGS))), str(path))
