"""`mvjax convert`: weights from any format that loads into any that saves, with their tokenizer."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from mvjax.cli.options import parse
from mvjax.errors import UserError, caution
from mvjax.hub.cache import Cached

if TYPE_CHECKING:
    from mvjax.storage import StoragePath
    from mvjax.tokenizers import Tokenizer
    from mvjax.weights import Checkpoint

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


@dataclasses.dataclass(frozen=True)
class ConvertArguments(Cached):
    """Turn model weights from one format into another, with the tokenizer and its chat template."""

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE")]
    """A Hugging Face directory with safetensors, a .gguf file or an Orbax directory written by mvjax."""
    target: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="TARGET")]
    """Directory to write: it appears whole or not at all. In a bucket (an address): file by file, config.json last."""
    to: Literal["safetensors", "orbax"] = "safetensors"
    """safetensors: what transformers and other programs load; orbax: an Orbax PyTree checkpoint."""
    dtype: Literal["keep", "float32", "bfloat16", "float16"] = "keep"
    """Type of the weights written; keep: as they are (quantised ones become float32)."""
    add_tags: bool = False
    """Add the control tags to the vocabulary, each with rows that start as the mean of its pieces'."""
    max_shard_size: str = "5GB"
    """Largest safetensors file, as 500MB or 2GiB; more weights go into several files with an index."""
    adapter: Path | None = None
    """LoRA adapter of mvjax or PEFT to merge into the weights; brings the control tags with it."""
    tokenizer: Path | None = None
    """The tokenizer, where it is not beside or inside the weights: a directory, a tokenizer.json or a .model file."""
    no_tokenizer: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Convert the weights alone."""
    overwrite: bool = False
    """Replace a model that is at the target: its whole directory."""


def main(argv: list[str]) -> int:
    """Run the verb; returns the exit status."""
    arguments = parse(ConvertArguments, argv, "convert")
    convert(arguments)
    return 0


def convert(arguments: ConvertArguments) -> None:
    """Load, change what is to be changed, save."""
    from mvjax.hub import card, local_path, resolve
    from mvjax.hub.names import as_written
    from mvjax.models import load_checkpoint
    from mvjax.storage import StoragePath
    from mvjax.training.trained import is_run
    from mvjax.weights import with_tag_rows
    from mvjax.weights.checkpoint import counted, listed
    from mvjax.weights.finite import watched
    from mvjax.weights.formats import run_instead

    shard_bytes = parse_size(arguments.max_shard_size)
    if is_run(arguments.source):
        raise UserError(f"{as_written(arguments.source)}{run_instead(as_written(arguments.source))}")
    base = resolve(arguments.source)
    arguments = dataclasses.replace(
        arguments,
        source=base.path,
        adapter=local_path(arguments.adapter, "adapter"),
        tokenizer=local_path(arguments.tokenizer, "tokenizer"),
    )
    target = StoragePath(as_written(arguments.target))
    if base.address == str(target):
        raise UserError(f"{target} is the source, which would be deleted before it is read: name another directory")
    refuse_target(target, arguments.source, arguments.overwrite)
    strange: set[str] = set()
    checkpoint = watched(load_checkpoint(arguments.source), strange)
    wants_tags = arguments.add_tags or arguments.adapter is not None
    carried = not arguments.no_tokenizer
    tokenizer = read_tokenizer(arguments.tokenizer or arguments.source) if carried or wants_tags else None
    if wants_tags and tokenizer is not None:
        checkpoint, tokenizer = with_tag_rows(checkpoint, tokenizer)
    if tokenizer is not None:
        from mvjax.tokenizers import check_model_vocabulary

        check_model_vocabulary(tokenizer, checkpoint.config["vocab_size"])
    if arguments.adapter is not None and tokenizer is not None:
        checkpoint = merged(checkpoint, arguments.adapter, tokenizer.fingerprint)
    checkpoint = checkpoint.astype(arguments.dtype)
    text = card(base.pinned, "Converted") if base.repository else ""
    write(target, arguments.to, checkpoint, tokenizer if carried else None, text, shard_bytes)
    if strange:
        caution(
            f"{arguments.source}: {counted(list(strange))} with values that are not finite: {listed(sorted(strange))}; "
            'they are written as they are, and answers of this model will end as "not finite": fetch it again'
        )
    print(
        f"{target}: {len(checkpoint.tensors)} tensors, {checkpoint.nbytes / 1e6:,.1f} MB, "
        f"{checkpoint.config['vocab_size']} rows of vocabulary, {arguments.to}"
    )


def write(
    target: StoragePath, to: str, checkpoint: Checkpoint, tokenizer: Tokenizer | None, card: str, shard_bytes: int
) -> None:
    """Write the target directory with a progress bar on standard error."""
    from mvjax.models import save_checkpoint

    with progress_bar(f"writing {to}", checkpoint.nbytes) as progress:
        options = {"tokenizer": tokenizer, "card": card, "max_shard_bytes": shard_bytes, "progress": progress}
        save_checkpoint(target, checkpoint, to, **options)


@contextlib.contextmanager
def progress_bar(title: str, total: int) -> Generator[Callable[[str, int], None]]:
    """A progress bar on standard error; yields what takes the name and the bytes of each tensor."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(title, total=total)
        yield lambda name, count: progress.advance(task, count)


def parse_size(text: str) -> int:
    """Bytes of a size as "5GB" (10^9), "2GiB" (2^30) or "1000"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", text.strip().lower())
    size = int(float(match[1]) * UNITS[match[2]]) if match and match[2] in UNITS else 0
    if size < 1:
        raise UserError(f"--max-shard-size {text!r} is no size: write it as 5GB, 500MB or 2GiB")
    return size


def refuse_target(target: StoragePath, source: Path, overwrite: bool) -> None:
    """Raise `UserError` where writing the target would destroy what nobody asked to destroy."""
    if target.is_file():
        raise UserError(f"{target} is a file: name a directory to write")
    if not target.children():
        return
    if not overwrite:
        raise UserError(f"{target} is not empty: name another directory, or --overwrite to replace it")
    if not (target / "config.json").is_file():
        raise UserError(f"{target} holds files that are no model, which --overwrite does not replace: name another")
    if target.local is not None and target.local.resolve() in source.resolve().parents:
        raise UserError(f"{target} holds the source {source}, which would be deleted: name another directory")


def read_tokenizer(source: Path) -> Tokenizer:
    """The tokenizer beside or inside the weights."""
    from mvjax.tokenizers import load_tokenizer

    try:
        return load_tokenizer(source)
    except UserError as error:
        raise UserError(f"{error} (--no-tokenizer converts the weights alone)") from error


def merged(checkpoint: Checkpoint, adapter: Path, fingerprint: str) -> Checkpoint:
    """The checkpoint with an adapter folded in: computed in float32, written in the type the weights had."""
    from mvjax.models import merge_adapter, read_adapter

    if not adapter.exists():
        raise UserError(f"{adapter}: there is no such adapter")
    return merge_adapter(checkpoint, read_adapter(adapter), tokenizer=fingerprint).astype(checkpoint.dtype)
