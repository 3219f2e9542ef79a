"""Embedding rows for the control tags (arXiv 2506.09991 section 5 adds them as new special tokens)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol, Self, TypeVar

import numpy as np
from jaxtyping import Float

from mvjax.errors import UserError
from mvjax.weights.checkpoint import Checkpoint, LazyTensor, LazyTensors, fill_rows, lazily, lazy

VOCABULARY_TENSORS = ("model.embed_tokens.weight", "lm_head.weight")


def add_tag_rows(checkpoint: Checkpoint, tag_ids: Sequence[int], pieces: Sequence[Sequence[int]]) -> Checkpoint:
    """Give each tag a row of the embedding and, where untied, of the output matrix.

    Rows that the matrix already has beyond its tokenizer are used first, then rows are appended; it never shrinks. A
    tag's row is the mean of the rows of its `pieces` (the ids of its literal text in the plain vocabulary); rows that
    would come out equal are set apart by a little fixed noise, because tied output rows that start equal learn alike.
    `vocab_size` follows. All other rows keep their bits. Rows that the tags already have are started afresh; for a
    model that may have been trained with them there is `with_tag_rows`.

    Raises `UserError` where the vocabulary would have a gap (the tokenizer has ids that the model has no row for) or a
    piece has no row.
    """
    vocabulary = checkpoint.config["vocab_size"]
    if len(tag_ids) != len(pieces) or len(set(tag_ids)) != len(tag_ids) or not all(len(ids) for ids in pieces):
        raise ValueError("each tag needs an id of its own and at least one piece")
    gap = set(range(vocabulary, max(tag_ids) + 1)) - set(tag_ids)
    strange = [piece for ids in pieces for piece in ids if not 0 <= piece < vocabulary]
    if gap or strange:
        most = max([*gap, *strange])
        raise UserError(
            f"the tokenizer has token id {most}, the model only {vocabulary} rows: they belong to different models"
        )
    rows = max(vocabulary, max(tag_ids) + 1)
    entries = lazily(checkpoint.tensors)
    for name in VOCABULARY_TENSORS:
        if name in entries:
            entries[name] = with_rows(entries[name], rows, tag_ids, pieces)
    return dataclasses.replace(
        checkpoint, config={**checkpoint.config, "vocab_size": rows}, tensors=LazyTensors(entries)
    )


class TaggedTokenizer(Protocol):
    """What `with_tag_rows` needs of a tokenizer."""

    @property
    def tag_ids(self) -> tuple[int, ...] | None: ...

    def with_control_tags(self) -> Self: ...

    def tag_pieces(self) -> list[list[int]]: ...


Tokenizer = TypeVar("Tokenizer", bound=TaggedTokenizer)


def with_tag_rows(checkpoint: Checkpoint, tokenizer: Tokenizer) -> tuple[Checkpoint, Tokenizer]:
    """A model and its tokenizer, as they were loaded, with the control tags in both.

    Where the tokenizer has them already and the model a row for each, nothing changes: the rows may be trained.
    """
    if tokenizer.tag_ids is not None and max(tokenizer.tag_ids) < checkpoint.config["vocab_size"]:
        return checkpoint, tokenizer
    tokenizer = tokenizer.with_control_tags()
    assert tokenizer.tag_ids is not None  # it has them now
    return add_tag_rows(checkpoint, tokenizer.tag_ids, tokenizer.tag_pieces()), tokenizer


def with_rows(entry: LazyTensor, rows: int, tag_ids: Sequence[int], pieces: Sequence[Sequence[int]]) -> LazyTensor:
    """A lazy [rows, D] matrix: the one given, with the tags' rows set."""
    (old_rows, width), dtype = entry.shape, entry.dtype

    def read(source: LazyTensor, start: int, stop: int) -> np.ndarray:
        new_SD = np.zeros((stop - start, width), dtype)
        if start < old_rows:
            fill_rows(new_SD[: old_rows - start], source, start)
        if any(start <= tag < stop for tag in tag_ids):
            assert source.read_rows is not None
            means_ND = np.stack(
                [np.mean([source.read_rows(i, i + 1)[0].astype(np.float64) for i in ids], axis=0) for ids in pieces]
            )
            for tag, row_D in zip(tag_ids, distinct(means_ND, dtype)):
                if start <= tag < stop:
                    new_SD[tag - start] = row_D
        return new_SD

    if entry.read_rows is None:
        return LazyTensor((rows, width), dtype, lambda: read(lazy(entry.read()), 0, rows))
    return LazyTensor((rows, width), dtype, lambda: read(entry, 0, rows), lambda start, stop: read(entry, start, stop))


def distinct(means_ND: Float[np.ndarray, "N D"], dtype: np.dtype) -> Float[np.ndarray, "N D"]:
    """The rows in `dtype`, a row that equals an earlier one moved by noise of 1 % of the rows' size (or more)."""
    size = float(np.sqrt(np.mean(means_ND**2))) or 0.02
    seen: set[bytes] = set()
    out_ND = means_ND.astype(dtype)
    for i, mean_D in enumerate(means_ND):
        noise = np.random.default_rng(i)
        scale = 0.01 * size
        while out_ND[i].tobytes() in seen:
            out_ND[i] = (mean_D + scale * noise.standard_normal(mean_D.shape)).astype(dtype)
            scale *= 2
        seen.add(out_ND[i].tobytes())
    return out_ND
