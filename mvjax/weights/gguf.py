"""GGUF files, through the `gguf` package: metadata to a Hugging Face configuration, tensors dequantised on reading.

llama.cpp stores the Q and K rows of Llama models in another order (rotary pairs beside each other, not half a head
apart); that is undone here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Float

from mvjax.errors import UserError
from mvjax.weights.architecture import ARCHITECTURES, check, counted, normalised
from mvjax.weights.checkpoint import Checkpoint, LazyTensor, LazyTensors

MAGIC = b"GGUF"
PLAIN = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
QUANTISED = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")

TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ROPE_FACTORS = "rope_freqs.weight"


def is_gguf(path: Path) -> bool:
    """Whether a file begins like a GGUF file."""
    with open(path, "rb") as file:
        return file.read(4) == MAGIC


def load_gguf(path: Path) -> Checkpoint:
    """Open a GGUF file of architecture llama, qwen2 or qwen3; tensors are dequantised when asked for.

    F32, F16 and BF16 keep their type, quantised tensors become float32. Raises `UserError` for a truncated file, an
    unsupported architecture or quantisation, missing tensors or wrong shapes.
    """
    reader = open_gguf(path)
    metadata = {name: field for name, field in reader.fields.items() if not name.startswith("tokenizer.ggml.tok")}
    infos = {info.name: info for info in reader.tensors}
    unsupported = sorted({t.tensor_type.name for t in reader.tensors} - {*PLAIN, *QUANTISED})
    if unsupported:
        names = [t.name for t in reader.tensors if t.tensor_type.name in unsupported]
        known = ", ".join([*PLAIN, *QUANTISED])
        raise UserError(
            f"{path}: quantisation {', '.join(unsupported)} ({counted(names)}) is not supported: use one of {known}"
        )
    config = config_from(metadata, infos, path)
    entries = {}
    for name, info in infos.items():
        if name == ROPE_FACTORS:
            continue
        target = huggingface_name(name)
        if target is None:
            raise UserError(f"{path}: tensor {name} belongs to no {config['model_type']} model that mvjax knows")
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(target.split(".")[-2])
        permuted = config["model_type"] == "llama" and heads is not None
        entries[target] = tensor_of(info, config[heads] if permuted else None)
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in config}
    checkpoint = Checkpoint(config=config, tensors=LazyTensors(entries), source=path, generation=ids)
    check(checkpoint)
    return checkpoint


def open_gguf(path: Path) -> Any:
    """The `gguf` package's reader; `UserError` where the file is damaged."""
    import gguf

    if not is_gguf(path):
        raise UserError(f"{path} is no GGUF file")
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError, TypeError) as error:
        reason = str(error).strip("'\"")
        raise UserError(f"{path} is truncated or damaged ({reason}): fetch it again") from error
    if reader.byte_order != "I":
        raise UserError(f"{path} is written for machines of the other byte order: use the little-endian file")
    return reader


def config_from(metadata: dict[str, Any], infos: dict[str, Any], path: Path) -> dict[str, Any]:
    """Hugging Face configuration of a GGUF file's metadata and tensor list."""

    def value(key: str, default: Any = None) -> Any:
        found = metadata[key].contents() if key in metadata else default
        # Metadata are float32: the shortest decimal that names the number is the one that was meant.
        return float(str(np.float32(found))) if isinstance(found, float) else found

    family = value("general.architecture")
    if family not in ARCHITECTURES:
        raise UserError(f"{path}: architecture {family!r} is not supported: use one of {', '.join(ARCHITECTURES)}")
    if value(f"{family}.expert_count", 0):
        raise UserError(f"{path}: mixtures of experts are not supported")
    if "token_embd.weight" not in infos:
        raise UserError(f"{path}: 1 tensor missing: token_embd.weight; fetch the model again")
    heads = value(f"{family}.attention.head_count")
    kv_heads = value(f"{family}.attention.head_count_kv", heads)
    if isinstance(heads, list) or isinstance(kv_heads, list):
        raise UserError(f"{path}: numbers of heads that differ between layers are not supported")
    width = value(f"{family}.embedding_length")
    config = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "vocab_size": int(infos["token_embd.weight"].shape[-1]),
        "hidden_size": width,
        "intermediate_size": value(f"{family}.feed_forward_length"),
        "num_hidden_layers": value(f"{family}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": value(f"{family}.attention.key_length", width // heads if width and heads else None),
        "hidden_act": "silu",
        "max_position_embeddings": value(f"{family}.context_length", 2048),
        "rms_norm_eps": value(f"{family}.attention.layer_norm_rms_epsilon", 1e-6),
        "rope_theta": value(f"{family}.rope.freq_base", 10000.0),
        "tie_word_embeddings": "output.weight" not in infos,
        "torch_dtype": "float32",
    }
    if family != "qwen2":
        config["attention_bias"] = "blk.0.attn_q.bias" in infos
    for key, name in {"bos": "bos_token_id", "eos": "eos_token_id", "padding": "pad_token_id"}.items():
        number = value(f"tokenizer.ggml.{key}_token_id")
        if number is not None:
            config[name] = number
    config["rope_scaling"] = rope_scaling(value, family, config, infos, path)
    return normalised(config, path)


def rope_scaling(
    value: Callable[..., Any], family: str, config: dict[str, Any], infos: dict[str, Any], path: Path
) -> dict[str, Any] | None:
    """Rotary scaling of a GGUF file: in its metadata, or for Llama 3.1 on as one factor for each frequency."""
    if ROPE_FACTORS in infos:
        found = tensor_of(infos[ROPE_FACTORS], None).read().astype(np.float64)
        scaling = {
            "rope_type": "llama3",
            "factor": float(found.max()),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
        expected = llama3_factors(scaling, config["rope_theta"], config["head_dim"])
        if found.shape != expected.shape or not np.allclose(found, expected, rtol=1e-4):
            raise UserError(f"{path}: {ROPE_FACTORS} holds rotary factors other than Llama 3's: not supported")
        return scaling
    kind = value(f"{family}.rope.scaling.type", "none")
    if kind == "none":
        return None
    scaling = {"rope_type": kind, "factor": value(f"{family}.rope.scaling.factor", 1.0)}
    original = value(f"{family}.rope.scaling.original_context_length")
    return scaling | ({"original_max_position_embeddings": original} if original else {})


def llama3_factors(scaling: dict[str, Any], theta: float, head_dim: int) -> Float[np.ndarray, "half"]:
    """What Llama 3's rotary scaling divides each frequency by: 1 for short waves, `factor` for long ones."""
    wavelength = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    low, high, original = (
        scaling[key] for key in ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    smooth = np.clip((original / wavelength - low) / (high - low), 0.0, 1.0)
    return 1.0 / ((1.0 - smooth) / scaling["factor"] + smooth)


def huggingface_name(name: str) -> str | None:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`; None for a tensor that is not known."""
    if match := re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name):
        number, part, kind = match.groups()
        return f"model.layers.{number}.{LAYER[part]}.{kind}" if part in LAYER else None
    part, _, kind = name.partition(".")
    return f"{TOP[part]}.{kind}" if part in TOP and kind == "weight" else None


def tensor_of(info: Any, heads: int | None) -> LazyTensor:
    """A lazy tensor of a GGUF tensor; `heads`: undo the rotary permutation of so many heads."""
    import gguf

    shape = tuple(int(n) for n in reversed(info.shape))
    kind = info.tensor_type.name

    def read() -> np.ndarray:
        if kind == "BF16":
            array = np.array(info.data).view(ml_dtypes.bfloat16)
        elif kind in PLAIN:
            array = np.array(info.data)
        else:
            array = gguf.quants.dequantize(info.data, info.tensor_type)
        array = array.reshape(shape)
        return array if heads is None else unpermuted(array, heads)

    return LazyTensor(shape, PLAIN.get(kind, np.dtype(np.float32)), read)


def unpermuted(rows: Float[np.ndarray, "NH *in"], heads: int) -> Float[np.ndarray, "NH *in"]:
    """Rows (or biases) of Q or K: rotary pairs (0, 1), (2, 3), ... become (0, H/2), (1, H/2 + 1), ..."""
    grouped = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return np.ascontiguousarray(grouped.swapaxes(1, 2).reshape(rows.shape))
