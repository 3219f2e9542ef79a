"""Which tensors a model must have, by its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mvjax.errors import UserError
from mvjax.weights.checkpoint import Checkpoint, lazily

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}

# Buffers that old checkpoints saved along with the weights; they follow from the configuration.
IGNORED_SUFFIXES = (".rotary_emb.inv_freq",)


def normalised(config: dict[str, Any], where: object) -> dict[str, Any]:
    """A Hugging Face configuration with the keys whose place or default differs between versions filled in.

    Raises `UserError` for an architecture that mvjax has no model for, naming `where` the configuration came from.
    """
    family = config.get("model_type")
    if family not in ARCHITECTURES:
        raise UserError(f"{where}: architecture {family!r} is not supported: use one of {', '.join(ARCHITECTURES)}")
    if config.get("quantization_config"):
        raise UserError(f"{where}: weights quantised in the Hugging Face way are not supported: use the plain model")
    if config.get("mlp_bias"):
        raise UserError(f"{where}: mlp_bias is not supported: use a model without it")
    config = dict(config)
    require_integers(config, ("hidden_size", "num_attention_heads"), where)
    heads = config["num_attention_heads"]
    config["num_key_value_heads"] = config.get("num_key_value_heads") or heads
    # Qwen3's own default is 128, whatever the width.
    config["head_dim"] = config.get("head_dim") or (128 if family == "qwen3" else config["hidden_size"] // heads)
    keys = ("vocab_size", "intermediate_size", "num_hidden_layers", "num_key_value_heads", "head_dim")
    require_integers(config, keys, where)
    # transformers 5 keeps rope_theta and rope_scaling together in rope_parameters.
    rope, scaling = config.pop("rope_parameters", None) or {}, config.get("rope_scaling") or {}
    if not isinstance(rope, dict) or not isinstance(scaling, dict):
        raise UserError(f"{where}: rope_scaling is no JSON object; fetch the configuration again")
    theta = config.get("rope_theta") or (rope | scaling).get("rope_theta") or 10000.0
    if not isinstance(theta, (int, float)):
        raise UserError(f"{where}: rope_theta should be a number; fetch the configuration again")
    config["rope_theta"] = float(theta)
    scaling = {key: value for key, value in (scaling or rope).items() if key != "rope_theta"}
    plain = not scaling or scaling.get("rope_type", scaling.get("type")) == "default"
    config["rope_scaling"] = None if plain else scaling
    dtype = config.pop("dtype", None) or config.get("torch_dtype")
    if dtype:
        config["torch_dtype"] = dtype
    return config


def require_integers(config: Mapping[str, Any], keys: tuple[str, ...], where: object) -> None:
    """Raise `UserError` unless all these keys are positive integers."""
    if missing := [key for key in keys if not isinstance(config.get(key), int) or config[key] < 1]:
        raise UserError(f"{where}: {', '.join(missing)} should be a positive integer; fetch the configuration again")


def expected_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a model with a normalised configuration."""
    V, D, F = config["vocab_size"], config["hidden_size"], config["intermediate_size"]
    q, kv = (config[key] * config["head_dim"] for key in ("num_attention_heads", "num_key_value_heads"))
    attention = {"q_proj": (q, D), "k_proj": (kv, D), "v_proj": (kv, D), "o_proj": (D, q)}
    layer = {f"self_attn.{name}.weight": shape for name, shape in attention.items()}
    biased = [name for name in attention if config.get("attention_bias")]
    if config["model_type"] == "qwen2":
        biased = ["q_proj", "k_proj", "v_proj"]
    layer |= {f"self_attn.{name}.bias": attention[name][:1] for name in biased}
    if config["model_type"] == "qwen3":
        layer |= {"self_attn.q_norm.weight": (config["head_dim"],), "self_attn.k_norm.weight": (config["head_dim"],)}
    layer |= {"mlp.gate_proj.weight": (F, D), "mlp.up_proj.weight": (F, D), "mlp.down_proj.weight": (D, F)}
    layer |= {"input_layernorm.weight": (D,), "post_attention_layernorm.weight": (D,)}
    shapes = {"model.embed_tokens.weight": (V, D)}
    for i in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = (D,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (V, D)
    return shapes


def check(checkpoint: Checkpoint) -> None:
    """Raise `UserError` unless the tensors are those that the configuration asks for, in name and shape."""
    found, where = lazily(checkpoint.tensors), checkpoint.source or "the model"
    if (layers := checkpoint.config["num_hidden_layers"]) > len(found):
        raise UserError(
            f"{where}: {layers} layers in the configuration, only {len(found)} tensors; fetch the model again"
        )
    expected = expected_shapes(checkpoint.config)
    if missing := [name for name in expected if name not in found]:
        raise UserError(f"{where}: {counted(missing)} missing: {listed(missing)}; fetch the model again")
    if extra := [name for name in found if name not in expected]:
        family = checkpoint.config["model_type"]
        raise UserError(f"{where}: {counted(extra)} that a {family} model of this configuration lacks: {listed(extra)}")
    wrong = [name for name, shape in expected.items() if found[name].shape != shape]
    if wrong:
        name = wrong[0]
        raise UserError(
            f"{where}: {name} has shape {found[name].shape}, the configuration says {expected[name]}"
            + (f" (and {len(wrong) - 1} more)" if wrong[1:] else "")
            + "; configuration and weights belong to different models"
        )


def counted(names: list[str]) -> str:
    return f"{len(names)} tensor{'s' if names[1:] else ''}"


def listed(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if names[most:] else "")
