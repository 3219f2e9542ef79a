"""A checkpoint of a run as weights that other programs load: a whole model, or an adapter of PEFT."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

from mvjax.errors import UserError
from mvjax.files import atomic_directory
from mvjax.hub import card
from mvjax.hub.card import CARD
from mvjax.models import Adapter, merge_adapter, save_checkpoint
from mvjax.models.adapter import TABLES
from mvjax.models.lora import LoraConfig
from mvjax.models.peft import CONFIG, write_peft
from mvjax.storage import StoragePath, copy_tree
from mvjax.training.checkpoints import CHECKPOINTS
from mvjax.training.trained import TrainedModel
from mvjax.weights.huggingface import MAX_SHARD_BYTES

Progress = Callable[[str, int], None]
BASE, ADAPTER = "base", "adapter"
"""Directories of an export with the tags' rows in the base model."""


def export_model(
    trained: TrainedModel,
    target: StoragePath,
    *,
    orbax: bool = False,
    dtype: str = "base",
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress | None = None,
) -> int:
    """Write the whole model, an adapter merged, with tokenizer, chat template, generation_config and card.

    Args:
        target: the directory; it appears whole or not at all, in a bucket with its last file.
        orbax: an Orbax checkpoint in place of safetensors.
        dtype: of the weights: float32, bfloat16, float16, or base: as the base model has them.
        progress: called with name and bytes of each tensor as it is written.
    Returns:
        Bytes of the weights.
    Raises:
        UserError: the target cannot be written, or the checkpoint is damaged.
    """
    checkpoint = trained.checkpoint().astype(trained.base.dtype if dtype == "base" else dtype)
    text = card(trained.origin, "Trained", trained.how)
    options = {"tokenizer": trained.tokenizer, "card": text, "max_shard_bytes": max_shard_bytes, "progress": progress}
    save_checkpoint(target, checkpoint, "orbax" if orbax else "safetensors", **options)
    return checkpoint.nbytes


def export_peft(trained: TrainedModel, target: StoragePath) -> int:
    """Write the adapter as PEFT keeps it, in float32, with the tokenizer and a card; returns its bytes.

    target: as for `export_model`.
    """
    adapter = adapter_of(trained)
    with written(target) as directory:
        write_adapter(directory, adapter, trained, trained.origin)
    return sum(entry.nbytes for entry in adapter.tensors.values())


def export_with_tags_in_base(
    trained: TrainedModel,
    target: StoragePath,
    *,
    dtype: str = "base",
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress | None = None,
) -> int:
    """Write target/base, the base model with the trained rows of the control tags, and target/adapter, a LoRA of PEFT
    without rows, for programs that take no rows in an adapter (vLLM, SGLang); returns the bytes of both.

    dtype, max_shard_bytes, progress: of the base model, as for `export_model`.
    """
    adapter = adapter_of(trained)
    rows = {name: entry for name, entry in adapter.tensors.items() if name in TABLES}
    tags_only = dataclasses.replace(adapter, tensors=rows, lora=LoraConfig(0, tag_ids=adapter.lora.tag_ids))
    plain = dataclasses.replace(
        adapter,
        tensors={name: entry for name, entry in adapter.tensors.items() if name not in TABLES},
        lora=dataclasses.replace(adapter.lora, tag_ids=()),
    )
    base = merge_adapter(trained.base, tags_only).astype(trained.base.dtype if dtype == "base" else dtype)
    text = card(trained.origin, "With trained rows of the control tags", trained.how)
    options = {"tokenizer": trained.tokenizer, "max_shard_bytes": max_shard_bytes, "progress": progress, "card": text}
    if target.local is None:
        save_checkpoint(target / BASE, base, **options)
        with written(target / ADAPTER) as directory:
            write_adapter(directory, plain, trained, str(target / BASE))
    else:
        with atomic_directory(target.local) as directory:
            save_checkpoint(directory / BASE, base, **options)
            (directory / ADAPTER).mkdir()
            write_adapter(directory / ADAPTER, plain, trained, str(target / BASE))
    return base.nbytes + sum(entry.nbytes for entry in plain.tensors.values())


@contextlib.contextmanager
def written(target: StoragePath) -> Generator[Path]:
    """Yield a new local directory; at the end it takes the place of the target, in a bucket its configuration last."""
    if target.local is not None:
        with atomic_directory(target.local) as directory:
            yield directory
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)
        target.delete_tree()
        copy_tree(StoragePath(temporary), target, last=lambda name: name == CONFIG)


def adapter_of(trained: TrainedModel) -> Adapter:
    """The adapter; UserError where all weights were trained."""
    if trained.adapter is None:
        raise UserError(f"{trained.place}: all weights were trained, so there is no adapter: use --format hf or orbax")
    return trained.adapter


def write_adapter(directory: Path, adapter: Adapter, trained: TrainedModel, base: str) -> None:
    """Write an adapter of PEFT with tokenizer and card into an existing directory."""
    adapter.check(trained.shape, trained.tokenizer.fingerprint)
    write_peft(directory, adapter, base)
    trained.tokenizer.save(directory)
    (directory / CARD).write_text(
        card(base, "Adapter trained", trained.how, library="peft", body=usage(adapter, trained, base)), encoding="utf-8"
    )


def usage(adapter: Adapter, trained: TrainedModel, base: str) -> str:
    """How the adapter is loaded, for its card: with more rows first where the base model has none for the tags."""
    repository, _, commit = base.rpartition("@")
    name = f'"{repository}", revision="{commit}"' if repository else f'"{base}"'
    needed = max(adapter.lora.tag_ids, default=-1) + 1
    resize = f"model.resize_token_embeddings({needed})  # rows for the control tags\n" if needed > trained.rows else ""
    return (
        "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
        f"model = AutoModelForCausalLM.from_pretrained({name})\n{resize}"
        'model = PeftModel.from_pretrained(model, "path of this directory")\n```\n'
    )


def is_export(path: StoragePath) -> bool:
    """Whether a directory is one that these functions write, so that it may be replaced."""
    files = ("config.json", CONFIG, f"{BASE}/config.json")
    return any((path / name).is_file() for name in files) and not (path / CHECKPOINTS).exists()
