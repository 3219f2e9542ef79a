"""A GGUF file as a checkpoint: metadata to a Hugging Face configuration, tensors under their Hugging Face names."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from mvjax.errors import UserError
from mvjax.models.arrays import outer_arrays
from mvjax.models.families import find_family
from mvjax.models.hf_config import normalised, read
from mvjax.models.rope_scaling import Llama3Scaling, llama3_ramp
from mvjax.models.tensors import outer_name
from mvjax.weights.checkpoint import Checkpoint, LazyTensor, LazyTensors
from mvjax.weights.gguf import GGUFModel, unpermuted_tensor

HEADS = {"self_attn.q_proj": "num_attention_heads", "self_attn.k_proj": "num_key_value_heads"}
"""Projections whose rows are rotated, with the key of their number of heads."""
ROPE_FACTORS = "rope_freqs.weight"
GGUF_NAME = re.compile(r"(?:blk\.(?P<layer>\d+)\.)?(?P<module>\w+)\.(?P<kind>weight|bias)")
"""Name of a tensor, as `blk.3.attn_q.weight` or `token_embd.weight`."""


def gguf_checkpoint(model: GGUFModel) -> Checkpoint:
    """The checkpoint that a GGUF file holds, not checked for missing tensors.

    Raises `UserError` for an architecture or a setting that is not supported, and for tensors of unknown names.
    """
    config, stored, where = config_from(model), dict(model.tensors), model.path
    family = find_family(config["model_type"], where)
    if ROPE_FACTORS in stored:
        config["rope_scaling"] = rope_scaling_of(stored.pop(ROPE_FACTORS).read(), config, model)
    shape = read(config, where)
    layer = {array.gguf: array for array in family.layer_arrays(shape)}
    outer = {array.gguf: array for array in outer_arrays(shape)}
    entries: dict[str, LazyTensor] = {}
    for name, tensor in stored.items():
        match = GGUF_NAME.fullmatch(name)
        array = match and (outer if match["layer"] is None else layer).get(match["module"])
        if match is None or array is None:
            raise UserError(f"{where}: tensor {name} belongs to no {family.name} model that mvjax knows")
        prefix = "" if match["layer"] is None else f"layers.{match['layer']}."
        permuted = family.gguf_interleaved and array.module in HEADS
        entries[outer_name(f"{prefix}{array.module}.{match['kind']}")] = (
            unpermuted_tensor(tensor, config[HEADS[array.module]]) if permuted else tensor
        )
    return Checkpoint(config, LazyTensors(entries), where, generation_from(model.metadata))


def config_from(model: GGUFModel) -> dict[str, Any]:
    """Normalised Hugging Face configuration of a GGUF file (without the rotary scaling that is kept as a tensor)."""
    where, tensors = model.path, model.tensors
    family = find_family(model.metadata.get("general.architecture"), where)

    def value(key: str, default: Any = None) -> Any:
        found = model.metadata.get(f"{family.name}.{key}", default)
        if isinstance(found, list):
            raise UserError(f"{where}: {family.name}.{key} differs between layers, which is not supported")
        # Metadata are float32: the shortest decimal that names the number is the one that was meant.
        return float(str(np.float32(found))) if isinstance(found, float) else found

    if value("expert_count", 0):
        raise UserError(f"{where}: mixtures of experts are not supported")
    if value("attention.sliding_window", 0):
        raise UserError(f"{where}: sliding windows are not supported")
    if "token_embd.weight" not in tensors:
        raise UserError(f"{where}: 1 tensor missing: token_embd.weight; fetch the model again")
    config: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": family.name,
        "vocab_size": tensors["token_embd.weight"].shape[0],
        "hidden_size": value("embedding_length"),
        "intermediate_size": value("feed_forward_length"),
        "num_hidden_layers": value("block_count"),
        "num_attention_heads": value("attention.head_count"),
        "num_key_value_heads": value("attention.head_count_kv"),
        "head_dim": value("attention.key_length", value("rope.dimension_count")),
        "hidden_act": "silu",
        "max_position_embeddings": value("context_length", 2048),
        "rms_norm_eps": value("attention.layer_norm_rms_epsilon", 1e-6),
        "rope_theta": value("rope.freq_base", 10000.0),
        "rope_scaling": None,
        "tie_word_embeddings": "output.weight" not in tensors,
        "torch_dtype": "float32",
    }
    if "attention_bias" in family.defaults:
        config["attention_bias"] = "blk.0.attn_q.bias" in tensors
    config["rope_scaling"] = scaling_from(value)
    for key, name in {"bos": "bos_token_id", "eos": "eos_token_id", "padding": "pad_token_id"}.items():
        if (number := model.metadata.get(f"tokenizer.ggml.{key}_token_id")) is not None:
            config[name] = number
    return normalised(config, where)


def scaling_from(value: Callable[..., Any]) -> dict[str, Any] | None:
    """`rope_scaling` of a file's metadata (llama.cpp's keys); value: the number or text under a key, or a default."""
    kind = value("rope.scaling.type", "linear" if value("rope.scale_linear", 1.0) != 1.0 else "none")
    if kind == "none":
        return None
    factor = value("rope.scaling.factor", value("rope.scale_linear", 1.0))
    found: dict[str, Any] = {"rope_type": kind, "factor": factor}
    if original := value("rope.scaling.original_context_length"):
        found["original_max_position_embeddings"] = original
    if kind != "yarn":
        return found
    for key in ("beta_fast", "beta_slow"):
        if number := value(f"rope.scaling.yarn_{key}"):
            found[key] = number
    # llama.cpp multiplies YaRN's own formula by this.
    if (attention := value("rope.scaling.attn_factor", 1.0)) != 1.0:
        found["attention_factor"] = attention * (1.0 + 0.1 * math.log(max(factor, 1.0)))
    return found


def generation_from(metadata: dict[str, Any]) -> dict[str, Any]:
    """Keys of `generation_config.json`: the special ids, all that end a text or a turn among the ends."""
    number = {key: metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("bos", "eos", "eot", "eom", "padding")}
    ends = list(dict.fromkeys(number[key] for key in ("eos", "eot", "eom") if number[key] is not None))
    found = {
        "bos_token_id": number["bos"],
        "eos_token_id": ends if ends[1:] else next(iter(ends), None),
        "pad_token_id": number["padding"],
    }
    return {key: value for key, value in found.items() if value is not None}


def rope_scaling_of(factors_h: Float[np.ndarray, " h"], config: dict[str, Any], model: GGUFModel) -> dict[str, Any]:
    """Llama 3's rotary scaling, which GGUF keeps as the number that each of the H/2 frequencies is divided by.

    The four parameters cannot all be read off the factors: those of the released models are assumed and compared.
    """
    scaling = Llama3Scaling(float(factors_h.max()), 1.0, 4.0, 8192)
    expected_h = rope_factors(scaling, config["rope_theta"], config["head_dim"])
    if factors_h.shape != expected_h.shape or not np.allclose(factors_h, expected_h, rtol=1e-4):
        raise UserError(
            f"{model.path}: {ROPE_FACTORS} holds rotary factors other than Llama 3's, which is not supported"
        )
    return scaling.to_hf()


def rope_factors(scaling: Llama3Scaling, theta: float, head_dim: int) -> Float[np.ndarray, " h"]:
    """What Llama 3's rotary scaling divides each frequency by: 1 for short waves, `factor` for long ones."""
    keep_h = llama3_ramp(scaling, 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim))
    return 1.0 / ((1.0 - keep_h) / scaling.factor + keep_h)
