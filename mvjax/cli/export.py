"""`mvjax export`: a training run or one of its checkpoints as weights that other programs load."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from mvjax.cli.convert import parse_size, progress_bar
from mvjax.cli.options import parse
from mvjax.errors import UserError
from mvjax.hub.cache import Cached

if TYPE_CHECKING:
    from mvjax.storage import StoragePath
    from mvjax.training.trained import TrainedModel


@dataclasses.dataclass(frozen=True)
class ExportArguments(Cached):
    """Make weights of a training run: a whole model, or the adapter of a LoRA run as PEFT keeps it.

    Tokenizer, chat template, the base model's generation_config and a model card go with them."""

    run: tyro.conf.Positional[str]
    """The directory of a run or of one of its checkpoints; it may be in a bucket."""
    format: Literal["hf", "peft", "orbax"] | None = None
    """hf: safetensors as transformers loads them; peft: the adapter; orbax: an Orbax PyTree checkpoint. Where it is not
    given: peft for a LoRA run, else hf. An adapter is merged for hf and orbax."""
    dtype: Literal["base", "float32", "bfloat16", "float16"] = "base"
    """Type of the weights written; base: that of the base model. Adapters are float32."""
    merge: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Of a LoRA run the whole model, as --format hf."""
    tags_in_base: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Of a LoRA run two directories: base, the base model with the trained rows of the control tags, and adapter, a
    plain LoRA of PEFT. For programs that take no rows in an adapter, as vLLM and SGLang."""
    output: str | None = None
    """Directory to write, or its address in a bucket: it appears whole or not at all. Where it is not given:
    exports/NAME-STEP-FORMAT."""
    checkpoint: str = "latest"
    """Which checkpoint of the run: latest, best (the least loss on held-out text), or the number of a step."""
    base: Path | None = None
    """The model that the run began from, where it is no longer where the run says."""
    tokenizer: Path | None = None
    """Its tokenizer, where that is not beside or inside the weights."""
    max_shard_size: str = "5GB"
    """Largest safetensors file, as 500MB or 2GiB; more weights go into several files with an index."""
    overwrite: bool = False
    """Replace an export or a model that is at the output: its whole directory."""


def main(argv: list[str]) -> int:
    """Run the verb; returns the exit status."""
    arguments = parse(ExportArguments, argv, "export")
    from mvjax.storage import StoragePath
    from mvjax.training.trained import is_run, open_trained

    shard_bytes = parse_size(arguments.max_shard_size)
    if not is_run(arguments.run):
        raise UserError(
            f"{arguments.run}: is no run of `mvjax train` (none of its checkpoints is complete); mvjax convert changes "
            "the format of a model"
        )
    merging = arguments.merge or arguments.tags_in_base or arguments.format in ("hf", "orbax")
    options = {"base": arguments.base, "tokenizer": arguments.tokenizer, "merging": merging}
    trained = open_trained(arguments.run, arguments.checkpoint, **options)
    kind = format_of(arguments, trained)
    target = StoragePath(arguments.output or f"exports/{trained.name}-{trained.step}-{kind}")
    refuse_target(target, arguments.overwrite)
    size = write(trained, target, kind, arguments.dtype, shard_bytes)
    print(f"{target}: {kind}, {size / 1e6:,.1f} MB, {trained.how}")
    return 0


def format_of(arguments: ExportArguments, trained: TrainedModel) -> str:
    """hf, orbax, peft or tags-in-base; UserError where the options contradict each other or the run."""
    kind = arguments.format
    if arguments.merge and kind == "peft":
        raise UserError("--merge makes a whole model, --format peft an adapter: give one of them")
    if arguments.tags_in_base and (arguments.merge or kind in ("hf", "orbax")):
        raise UserError("--tags-in-base writes a base model and an adapter: leave --merge and --format out")
    if trained.adapter is None and (arguments.merge or arguments.tags_in_base or kind == "peft"):
        raise UserError(f"{arguments.run}: all weights were trained, so there is no adapter: use --format hf or orbax")
    if arguments.tags_in_base:
        return "tags-in-base"
    kind = kind or ("hf" if trained.adapter is None or arguments.merge else "peft")
    if kind == "peft" and arguments.dtype not in ("base", "float32"):
        raise UserError(f"--dtype {arguments.dtype}: an adapter keeps float32; --merge makes a whole model of any type")
    return kind


def refuse_target(target: StoragePath, overwrite: bool) -> None:
    """Raise `UserError` where writing the target would destroy what nobody asked to destroy."""
    from mvjax.training.export import is_export

    if target.is_file():
        raise UserError(f"{target} is a file: name a directory to write")
    if next(target.walk(), None) is None:
        return
    if not is_export(target):
        raise UserError(f"{target} holds files that are no export, which are not replaced: name another with --output")
    if not overwrite:
        raise UserError(f"{target} is there already: name another with --output, or --overwrite to replace it")


def write(trained: TrainedModel, target: StoragePath, kind: str, dtype: str, shard_bytes: int) -> int:
    """Write the target, with a progress bar for whole models; returns the bytes of the weights."""
    from mvjax.training.export import export_model, export_peft, export_with_tags_in_base

    if kind == "peft":
        return export_peft(trained, target)
    with progress_bar(f"writing {kind}", trained.checkpoint().nbytes) as progress:
        options = {"dtype": dtype, "max_shard_bytes": shard_bytes, "progress": progress}
        if kind == "tags-in-base":
            return export_with_tags_in_base(trained, target, **options)
        return export_model(trained, target, orbax=kind == "orbax", **options)
