"""Adapters as values: low-rank updates and rows of tokens beside a base model, merged into it tensor by tensor."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mvjax.errors import UserError
from mvjax.models.config import ModelConfig
from mvjax.models.hf_config import read
from mvjax.models.lora import LoraConfig
from mvjax.models.tensors import layer_arrays
from mvjax.weights.checkpoint import Checkpoint, LazyTensor, LazyTensors, fill_rows, lazily, lazy

LORA_A, LORA_B, ROWS = ".lora_a", ".lora_b", ".tag_rows"
TABLES: Mapping[str, str] = {
    "model.embed_tokens.tag_rows": "model.embed_tokens.weight",
    "model.lm_head.tag_rows": "lm_head.weight",
}
"""The rows that tokens have in an adapter, and the matrix that they replace rows of."""


@dataclass(frozen=True)
class Adapter:
    """What a base model needs to become the trained one. Tensors are read when asked for."""

    lora: LoraConfig
    """Rank, scale, adapted layers, and the tokens whose rows there are."""
    tensors: Mapping[str, LazyTensor]
    """`model.layers.N.MODULE.lora_a` [rank, in] and `.lora_b` [out, rank]; the names of TABLES [tokens, D]."""
    shape: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the base model's shape (`ModelConfig.shape`); empty where it does not say."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What else it says: tokenizer (a fingerprint), run, steps, base_model."""
    source: object = "the adapter"
    """Where it is from, for messages."""

    def check(self, config: ModelConfig, tokenizer: str | None = None) -> None:
        """UserError unless it fits a base model.

        tokenizer: fingerprint of the tokenizer in use; compared where the adapter names one.
        """
        mine = config.shape()
        for key in mine if self.shape else ():
            if self.shape.get(key) != mine[key]:
                raise UserError(
                    f"{self.source}: the adapter's base model has {key} {self.shape.get(key)}, this model has "
                    f"{mine[key]}; load the base model that the adapter was trained on"
                )
        if tokenizer is not None and self.facts.get("tokenizer", tokenizer) != tokenizer:
            raise UserError(f"{self.source}: the adapter was trained with another tokenizer than this model's")
        expected = adapter_shapes(config, self.lora)
        rows = [name for name in TABLES if name in self.tensors]
        for name, shape in expected.items():
            if name not in self.tensors and not (name in TABLES and rows):
                raise UserError(f"{self.source}: tensor {name} is missing; the adapter is incomplete")
            if name in self.tensors and (found := self.tensors[name].shape) != shape:
                raise UserError(
                    f"{self.source}: {name} has shape {list(found)}, the model asks for {list(shape)}; load the base "
                    "model that the adapter was trained on"
                )
        if extra := next((name for name in self.tensors if name not in expected), None):
            raise UserError(f"{self.source}: the model has no place for its tensor {extra}")


def adapter_shapes(config: ModelConfig, lora: LoraConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that an adapter of a model has."""
    shapes: dict[str, tuple[int, ...]] = {}
    adapted = [
        array
        for array in layer_arrays(config)
        if lora.rank and array.kind == "weight" and array.module.rpartition(".")[2] in lora.targets
    ]
    for layer in range(config.layers):
        for array in adapted:
            outputs, inputs = array.shape
            shapes[f"model.layers.{layer}.{array.module}{LORA_A}"] = (lora.rank, inputs)
            shapes[f"model.layers.{layer}.{array.module}{LORA_B}"] = (outputs, lora.rank)
    tables = list(TABLES)[: 1 if config.tied else 2] if lora.tag_ids else []
    return shapes | dict.fromkeys(tables, (len(lora.tag_ids), config.embed))


def merge_adapter(checkpoint: Checkpoint, adapter: Adapter, *, tokenizer: str | None = None) -> Checkpoint:
    """A checkpoint with an adapter folded into its tensors as they are read.

    What the adapter changes becomes float32: the sum is rounded where it is written, not here. All else stays as it is.
    tokenizer: as for `Adapter.check`. Raises UserError where they do not belong together.
    """
    adapter.check(read(checkpoint.config, checkpoint.source or "the model"), tokenizer)
    outside = [tag for tag in adapter.lora.tag_ids if not 0 <= tag < checkpoint.config["vocab_size"]]
    if outside:
        raise UserError(
            f"{adapter.source}: has a row for token {outside[0]}, the model {checkpoint.config['vocab_size']} rows; "
            "load the base model that the adapter was trained on"
        )
    entries, scale = lazily(checkpoint.tensors), adapter.lora.alpha / max(adapter.lora.rank, 1)

    @functools.lru_cache(maxsize=1)  # a matrix is read a few rows at a time
    def factors(module: str) -> tuple[np.ndarray, np.ndarray]:
        a, b = (adapter.tensors[f"{module}{end}"].read().astype(np.float32) for end in (LORA_A, LORA_B))
        return a, scale * b

    def updated(module: str, rows: np.ndarray, start: int) -> np.ndarray:
        a_RI, b_OR = factors(module)
        return rows.astype(np.float32) + b_OR[start : start + len(rows)] @ a_RI

    @functools.cache
    def rows_of(table: str) -> np.ndarray:
        return adapter.tensors[table].read().astype(np.float32)

    def replaced(table: str, rows: np.ndarray, start: int) -> np.ndarray:
        rows = rows.astype(np.float32)
        for tag, row in zip(adapter.lora.tag_ids, rows_of(table), strict=True):
            if start <= tag < start + len(rows):
                rows[tag - start] = row
        return rows

    for name in adapter.tensors:
        if name.endswith(LORA_A):
            module = name.removesuffix(LORA_A)
            weight = f"{module}.weight"
            entries[weight] = changed(entries[weight], functools.partial(updated, module))
        elif name in TABLES:
            entries[TABLES[name]] = changed(entries[TABLES[name]], functools.partial(replaced, name))
    return dataclasses.replace(checkpoint, tensors=LazyTensors(entries))


def changed(entry: LazyTensor, change: Any) -> LazyTensor:
    """A lazy matrix in float32 of which rows are made by change(rows, number of the first one)."""
    shape, dtype = entry.shape, np.dtype(np.float32)

    def read(source: LazyTensor, start: int, stop: int) -> np.ndarray:
        out, at = np.empty((stop - start, *shape[1:]), dtype), [start]

        def next_rows(rows: np.ndarray) -> np.ndarray:
            first = at[0]
            at[0] += len(rows)
            return change(rows, first)

        return fill_rows(out, source, start, next_rows)

    if entry.read_rows is None:
        return LazyTensor(shape, dtype, lambda: read(lazy(entry.read()), 0, shape[0]))
    return LazyTensor(shape, dtype, lambda: read(entry, 0, shape[0]), lambda start, stop: read(entry, start, stop))
