"""A model's configuration as Hugging Face's `config.json` has it, read in one place for every use.

Keys and defaults are those of `transformers` 4 and 5. What a family means by them is said in its folder.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from mvjax.errors import UserError
from mvjax.models.config import ModelConfig, is_size
from mvjax.models.families import find_family
from mvjax.models.rope_scaling import KINDS, read_scaling, rope_kind

SUPPORTED: Mapping[str, Any] = {
    "hidden_act": "silu",
    "use_sliding_window": False,
    "partial_rotary_factor": 1.0,
    "rope_interleaved": False,
}
"""Keys that change the arithmetic, with the only value that the decoder follows."""

SIZES: Mapping[str, str] = {
    "vocab_size": "vocab_size",
    "embed": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "ffn": "intermediate_size",
    "max_position": "max_position_embeddings",
}
"""Key of each size of a `ModelConfig`."""


def from_hf(config: Mapping[str, Any], *, where: object = "model config", scan_layers: bool = True) -> ModelConfig:
    """The shape of a decoder that computes what the configuration asks for.

    where: what the configuration comes from, for error messages. Raises UserError, naming the key, for a model that
    the decoder would compute wrongly.
    """
    shape = read(config, where)
    rope = rope_settings(config, where)
    settings = {**config, **rope}
    for key, value in SUPPORTED.items():
        if settings.get(key) is not None and settings[key] != value:
            what = json.dumps(settings[key], default=str)[:80]
            raise UserError(f"{where}: {key} = {what} is not supported, only {json.dumps(value)}")
    if kinds := set(config.get("layer_types") or ()) - {"full_attention"}:
        raise UserError(f"{where}: layer_types holds {', '.join(sorted(kinds))}; only full_attention is supported")
    if (kind := rope_kind(rope)) not in KINDS:
        raise UserError(f"{where}: rope_scaling of type {kind!r} is not supported, only {', '.join(KINDS)}")
    return dataclasses.replace(shape, scan_layers=scan_layers)


def normalised(config: Mapping[str, Any], where: object) -> dict[str, Any]:
    """The configuration with the keys filled in whose place or default differs between families or versions.

    It may ask for arithmetic that the decoder does not follow: such a model can still be converted.
    """
    shape, rope = read(config, where), rope_settings(config, where)
    found = {key: value for key, value in config.items() if key not in ("rope_parameters", "dtype")}
    found |= {"num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim, "rope_theta": shape.rope_theta}
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    found["rope_scaling"] = None if rope_kind(rope) == "default" else scaling
    if dtype := config.get("dtype") or config.get("torch_dtype"):
        found["torch_dtype"] = dtype
    return found


def read(config: Mapping[str, Any], where: object) -> ModelConfig:
    """Sizes and settings, absent ones as the family has them; whether the decoder can follow them is not asked.

    Raises UserError for another family, for sizes that are no positive integers, and for settings that change which
    tensors there are: quantised weights, biases in the feed-forward layer.
    """
    family = find_family(config.get("model_type"), where)
    if config.get("quantization_config"):
        raise UserError(
            f"{where}: quantization_config: weights quantised in the Hugging Face way are not supported: "
            "use the plain model"
        )
    if config.get("mlp_bias"):
        raise UserError(f"{where}: mlp_bias is not supported: use a model without it")
    values = {**family.defaults, **config}
    require_integers(values, ("hidden_size", "num_attention_heads"), where)
    heads = values["num_attention_heads"]
    absent = {
        "num_key_value_heads": heads,
        "head_dim": family.defaults.get("head_dim") or values["hidden_size"] // heads,
        "max_position_embeddings": 2048,
    }
    values |= {key: values.get(key) or value for key, value in absent.items()}
    require_integers(values, tuple(SIZES.values()), where)
    rope = rope_settings(config, where)
    eos = values.get("eos_token_id")
    return ModelConfig(
        family=family.name,
        **{field: values[key] for field, key in SIZES.items()},
        rope_theta=number(rope, "rope_theta", 10000.0, where),
        rope_scaling=read_scaling(rope, values["max_position_embeddings"], where),
        rms_eps=number(values, "rms_norm_eps", 1e-6, where),
        tied=bool(values.get("tie_word_embeddings")),
        attention_bias="attention_bias" in family.defaults and bool(values["attention_bias"]),
        bos=values.get("bos_token_id"),
        eos=() if eos is None else (eos,) if isinstance(eos, int) else tuple(eos),
        pad=values.get("pad_token_id"),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The `config.json` dictionary of a model, for transformers 4 and 5."""
    family = find_family(config.family)
    found: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": family.name,
        **{key: getattr(config, field) for field, key in SIZES.items()},
        "hidden_act": "silu",
        "rope_theta": config.rope_theta,
        "rope_scaling": None if config.rope_scaling is None else config.rope_scaling.to_hf(),
        "rms_norm_eps": config.rms_eps,
        "tie_word_embeddings": config.tied,
        "bos_token_id": config.bos,
        "eos_token_id": list(config.eos) if len(config.eos) > 1 else config.eos[0] if config.eos else None,
        "pad_token_id": config.pad,
    }
    if "attention_bias" in family.defaults:
        found["attention_bias"] = config.attention_bias
    return {**family.defaults, **found}


def require_integers(config: Mapping[str, Any], keys: tuple[str, ...], where: object) -> None:
    """Raise UserError unless all these keys are positive integers."""
    if wrong := [key for key in keys if not is_size(config.get(key))]:
        raise UserError(f"{where}: {', '.join(wrong)} should be a positive integer; fetch the configuration again")


def number(values: Mapping[str, Any], key: str, default: float, where: object) -> float:
    """A number, or the default where the key is absent or null."""
    value = values.get(key)
    if value is None:
        return default
    if not isinstance(value, (int, float)):
        raise UserError(f"{where}: {key} should be a number; fetch the configuration again")
    return float(value)


def rope_settings(config: Mapping[str, Any], where: object) -> dict[str, Any]:
    """All rotary settings: transformers 5 keeps them in rope_parameters, 4 in rope_scaling and rope_theta."""
    found = {} if config.get("rope_theta") is None else {"rope_theta": config["rope_theta"]}
    for key in ("rope_scaling", "rope_parameters"):
        value = config.get(key) or {}
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: {key} is no JSON object; fetch the configuration again")
        found |= value
    if rope_kind(found) in ("llama3", "yarn") and config.get("original_max_position_embeddings"):
        found["original_max_position_embeddings"] = config["original_max_position_embeddings"]
    return found
