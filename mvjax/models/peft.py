"""Adapters as PEFT keeps them: `adapter_config.json` beside `adapter_model.safetensors`.

PEFT's lora_A [rank, in] and lora_B [out, rank] are ours. Rows of tokens are its `trainable_tokens_delta`, which holds
the rows themselves, in spite of its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mvjax.errors import UserError
from mvjax.models.adapter import LORA_A, LORA_B, TABLES, Adapter
from mvjax.models.lora import LINEARS, LoraConfig
from mvjax.weights.checkpoint import LazyTensor, cast
from mvjax.weights.huggingface import read_json, write_json
from mvjax.weights.tensor_file import read_tensor_file, write_tensor_file

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
ROWS_OF: Mapping[str, str] = {"model.embed_tokens": "model.embed_tokens.tag_rows", "lm_head": "model.lm_head.tag_rows"}
"""Our name of the rows of a module."""
FACTOR = re.compile(
    r"(?P<module>model\.layers\.\d+\.(?:\w+\.)*(?P<linear>\w+))\.lora_(?P<which>[AB])(\.default)?\.weight"
)
DELTA = re.compile(r"(?P<module>[\w.]+)\.token_adapter\.trainable_tokens_delta")

LOOSE = {
    *("auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying"),
    *(
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "init_lora_weights",
        "lora_alpha",
        "lora_dropout",
        "lora_ga_config",
    ),
    *("loftq_config", "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r", "revision"),
    *("runtime_config", "target_modules", "task_type", "trainable_token_indices"),
}
"""Keys that do not change what the tensors mean, and keys that are read. Any other that is set is refused."""
STARTS = (True, False, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` that leave the base model as it is."""


def directory_of(path: Path) -> Path | None:
    """The directory of a PEFT adapter that a path names, by itself or by its tensors; None where it is none."""
    folder = path if path.is_dir() else path.parent
    if not (folder / CONFIG).is_file() or (path.is_file() and path.name not in (TENSORS, CONFIG)):
        return None
    return folder


def read_peft(directory: Path) -> Adapter:
    """The adapter of a PEFT directory; UserError names what is not supported of it."""
    config = read_json(directory / CONFIG)
    refuse_others(directory / CONFIG, config)
    if not (directory / TENSORS).is_file():
        raise UserError(f"{directory}: has no {TENSORS}; save the adapter with safe_serialization=True, or fetch it")
    found, metadata = read_tensor_file(directory / TENSORS)
    tensors: dict[str, LazyTensor] = {}
    targets: set[str] = set()
    for name, entry in found.items():
        plain = name.removeprefix(PREFIX)
        if factor := FACTOR.fullmatch(plain):
            tensors[factor["module"] + (LORA_A if factor["which"] == "A" else LORA_B)] = entry
            targets.add(factor["linear"])
        elif (rows := DELTA.fullmatch(plain)) and rows["module"] in ROWS_OF:
            tensors[ROWS_OF[rows["module"]]] = entry
        else:
            raise UserError(
                f"{directory / TENSORS}: holds {name}, which is not supported: adapters of {', '.join(LINEARS)} and "
                "trainable_token_indices are (save_embedding_layers=False leaves embeddings out)"
            )
    if strange := sorted(targets - {*LINEARS}):
        raise UserError(f"{directory}: adapts {strange[0]}, which is not supported: only {', '.join(LINEARS)} are")
    try:
        tokens = token_rows(directory / CONFIG, config.get("trainable_token_indices"))
        lora = LoraConfig(
            int(config["r"]), float(config["lora_alpha"]), tuple(n for n in LINEARS if n in targets), tokens
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{directory / CONFIG}: {type(error).__name__} {error}: it is damaged, fetch it again"
        ) from error
    facts = {key: value for key, value in metadata.items() if key in ("tokenizer", "run", "steps", "base_model")}
    return Adapter(lora, tensors, facts=facts, source=directory)


def refuse_others(where: Path, config: Mapping[str, Any]) -> None:
    """UserError for an adapter of another kind than plain LoRA, by the name of what makes it so."""
    kind = config.get("peft_type")
    if kind != "LORA":
        raise UserError(f"{where}: peft_type {kind} is not supported, only LORA is")
    if config.get("init_lora_weights", True) not in STARTS:
        raise UserError(
            f"{where}: init_lora_weights {config['init_lora_weights']!r} changes the base model and is not supported;"
            " save the adapter with path_initial_model_for_weight_conversion"
        )
    for key, value in config.items():
        if key not in LOOSE and value and not (key == "bias" and value == "none"):
            raise UserError(
                f"{where}: {key} = {value!r} is not supported; merge the adapter with PEFT (merge_and_unload) and "
                "name the merged model"
            )


def token_rows(where: Path, indices: list[int] | Mapping[str, list[int]] | None) -> tuple[int, ...]:
    """The tokens that `trainable_token_indices` names, the same for embedding and output matrix."""
    if not indices:
        return ()
    if not isinstance(indices, Mapping):
        return tuple(map(int, indices))
    lists = {name: tuple(map(int, tokens)) for name, tokens in indices.items()}
    if len({*lists.values()}) > 1:
        raise UserError(f"{where}: trainable_token_indices names other tokens for {' than for '.join(lists)}")
    return next(iter(lists.values()))


def write_peft(directory: Path, adapter: Adapter, base: str) -> None:
    """Write an adapter into an existing directory, in float32.

    base: the base model as `hub.Source.pinned` has it: REPOSITORY@COMMIT, or a path.
    Raises UserError for an adapter of rank 0, which is no LoRA.
    """
    lora = adapter.lora
    if not lora.rank:
        raise UserError(f"{adapter.source}: has rank 0: PEFT's LoRA needs a rank of 1 or more")
    tensors = {}
    for name, entry in adapter.tensors.items():
        entry = cast(name, entry, np.dtype(np.float32))
        if name in TABLES:
            module = next(module for module, rows in ROWS_OF.items() if rows == name)
            tensors[f"{PREFIX}{module}.token_adapter.trainable_tokens_delta"] = entry
        else:
            module, which = name.removesuffix(LORA_A).removesuffix(LORA_B), "A" if name.endswith(LORA_A) else "B"
            tensors[f"{PREFIX}{module}.lora_{which}.weight"] = entry
    repository, _, commit = base.rpartition("@")
    rows = [name for name in TABLES if name in adapter.tensors]
    tokens: Any = list(lora.tag_ids) if lora.tag_ids else None
    if len(rows) > 1:  # a matrix each; a list means the embedding, and what is tied to it
        tokens = {"embed_tokens": tokens, "lm_head": tokens}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": repository or base,
        "revision": commit if repository else None,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "target_modules": list(lora.targets),
        "modules_to_save": None,
        "trainable_token_indices": tokens,
    }
    write_tensor_file(directory / TENSORS, tensors, {"format": "pt", **adapter.facts})
    write_json(directory / CONFIG, config)
